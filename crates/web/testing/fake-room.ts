// What the fake hub keeps of one room, and what its operations do. It keeps the shapes of the real hub's answers and the
// order of its pushes; none of its promises about many nodes, load or loss.

import { RoomcastError } from "@roomcast/client";
import type { Count, Frame, Position } from "@roomcast/client";

/** Someone who is connected. */
export interface Member {
  readonly user: string;
  readonly role: string;
  send(frame: Frame): void;
}

interface Entry {
  readonly event: string;
  readonly data: unknown;
  readonly offset: number;
  readonly at: number;
  readonly from?: string;
}

export interface Held {
  readonly comment: string;
  readonly target: string;
  readonly text: string;
  readonly user: string;
  readonly at: number;
  state: "pending" | "visible" | "rejected";
  version: number;
}

interface Item {
  stock: number;
  perUser: number;
  holdMs: number;
}

interface Reservation {
  readonly item: string;
  readonly user: string;
  readonly quantity: number;
  state: "held" | "confirmed" | "released" | "expired";
  timer: ReturnType<typeof setTimeout> | undefined;
}

const refuse = (code: string, message: string, current?: Frame): never => {
  throw new RoomcastError(code, message, undefined, current);
};

/** What the hub tells by itself: whoever reads one takes it for something that was checked and stored. */
const HUB_EVENTS = ["comment", "comment_deleted", "doc", "purged", "upload"];

const isAdmin = ({ role }: Member): boolean => role === "admin" || role === "service";

/** Refuses the names of events and signals that this member may not use. */
function mustMaySay(member: Member, event: string): void {
  if (isAdmin(member)) return;
  if (event.startsWith("admin:")) refuse("forbidden", "events named admin:… are for admins");
  if (HUB_EVENTS.includes(event)) refuse("forbidden", `events named ${event} are the hub's own: use the operation, or another name`);
}

let lastId = 0;
const newId = (kind: string): string => `${kind}-${++lastId}`;

export class FakeRoom {
  epoch = newId("epoch");
  offset = 0;
  log: Entry[] = [];
  readonly members = new Set<Member>();
  readonly comments = new Map<string, Held>();
  readonly #counts = new Map<string, Count>();
  readonly #likes = new Set<string>();
  readonly #keys = new Map<string, unknown>();
  readonly #items = new Map<string, Item>();
  readonly #reservations = new Map<string, Reservation>();
  readonly #uploads = new Map<string, { state: string; progress: number; user: string }>();
  readonly #docs = new Map<string, { value: unknown; version: number }>();

  constructor(readonly name: string, readonly moderated: boolean) {}

  get presence(): { connections: number; users: number } {
    return { connections: this.members.size, users: new Set([...this.members].map(({ user }) => user)).size };
  }

  push(frame: Frame): void {
    for (const member of [...this.members]) member.send({ ...frame, room: this.name });
  }

  publish(event: string, data: unknown, from?: string): Position {
    const entry: Entry = { event, data, offset: ++this.offset, at: Date.now(), ...(from === undefined ? {} : { from }) };
    this.log.push(entry);
    this.push({ push: "event", ...entry });
    return { epoch: this.epoch, offset: this.offset };
  }

  /** Sets a counter, `by` more than it was, and tells it. */
  count(target: string, counter: string, by: number): Count {
    const key = `${counter} ${target}`;
    const old = this.#counts.get(key) ?? { target, counter, value: 0, version: 0 };
    const next = { ...old, value: old.value + by, version: old.version + 1 };
    this.#counts.set(key, next);
    this.push({ push: "count", ...next });
    return next;
  }

  value(target: string, counter: string): Count {
    return this.#counts.get(`${counter} ${target}`) ?? { target, counter, value: 0, version: 0 };
  }

  /** Offers so many of an item in all, sold and held ones included. */
  offer(item: string, stock: number, perUser: number, holdMs: number): void {
    const before = this.#items.get(item)?.stock ?? 0;
    this.#items.set(item, { stock, perUser, holdMs });
    this.count(item, "remaining", stock - before);
  }

  /** Ends the room's past: whoever comes back has missed what nobody can tell. */
  forget(): void {
    this.epoch = newId("epoch");
    this.offset = 0;
    this.log = [];
  }

  join(member: Member, { since, recent }: { since?: Position; recent?: number }): Frame {
    this.members.add(member);
    const recovered = since === undefined || since.epoch === this.epoch;
    const events = since ? this.log.filter(({ offset }) => recovered && offset > since.offset) : recent ? this.log.slice(-recent) : [];
    const counts = [...this.#counts.values()];
    return { epoch: this.epoch, offset: this.offset, recovered, events, presence: this.presence, ...(counts.length > 0 ? { counts } : {}) };
  }

  /** Answers an operation in this room. */
  answer(member: Member, op: string, fields: Frame): unknown {
    const key = typeof fields.key === "string" ? `${member.user} ${fields.key}` : undefined;
    if (key !== undefined && this.#keys.has(key)) return this.#keys.get(key);
    const ok = this.#perform(member, op, fields);
    if (key !== undefined) this.#keys.set(key, ok);
    return ok;
  }

  #perform(member: Member, op: string, fields: Frame): unknown {
    const target = fields.target as string;
    switch (op) {
      case "publish":
        mustMaySay(member, fields.event as string);
        return this.publish(fields.event as string, fields.data, member.user);
      case "signal":
        mustMaySay(member, fields.event as string);
        this.push({ push: "signal", event: fields.event, data: fields.data, from: member.user });
        return {};
      case "history": return this.#history(fields);
      case "presence": return { ...this.presence, members: [...new Set([...this.members].map(({ user }) => user))].sort().map((user) => ({ user, connections: [...this.members].filter((each) => each.user === user).length })) };
      case "like": return this.#like(member, target, fields.on === true);
      case "count": { const { value, version } = this.count(target, fields.counter as string, fields.by as number); return { value, version }; }
      case "comment": return this.comment(member.user, target, fields.text as string);
      case "moderate":
        if (!isAdmin(member)) refuse("forbidden", "this role may not do that in this room");
        return this.moderate(fields.comment as string, fields.decision as "approve" | "reject", fields.version as number);
      case "upload": return this.#upload(member, target, fields.state as string, fields.progress as number | undefined);
      case "reserve": return this.#reserve(member, fields.item as string, fields.quantity as number);
      case "put": return this.#put(fields.doc as string, fields.value, fields.version as number);
      case "get": return this.#docs.get(fields.doc as string) ?? refuse("not_found", "no such document");
      default: return refuse("unknown_op", `unknown op ${op}`);
    }
  }

  comment(user: string, target: string, text: string): Frame {
    const held: Held = { comment: newId("comment"), target, text: text.trim(), user, at: Date.now(), state: this.moderated ? "pending" : "visible", version: 1 };
    this.comments.set(held.comment, held);
    if (held.state === "visible") this.#show(held);
    return { comment: held.comment, pending: held.state === "pending", version: 1, at: held.at };
  }

  moderate(comment: string, decision: "approve" | "reject", version: number): Frame {
    const held = this.comments.get(comment);
    if (!held) return refuse("not_found", "no such comment");
    if (held.state !== "pending" || held.version !== version) return refuse("conflict", "it was decided already", { state: held.state === "visible" ? "approved" : held.state, version: held.version });
    held.version++;
    held.state = decision === "approve" ? "visible" : "rejected";
    if (held.state === "visible") this.#show(held);
    return { state: decision === "approve" ? "approved" : "rejected", version: held.version };
  }

  /** Confirms or releases; nothing where the reservation is of another room. */
  settle(member: Member, op: string, reservation: string): Frame | undefined {
    const held = this.#reservations.get(reservation);
    if (!held || held.user !== member.user) return undefined;
    const wanted = op === "confirm" ? "confirmed" : "released";
    if (held.state === "held") this.#end(held, wanted);
    else if (held.state !== wanted && !(wanted === "released" && held.state === "expired")) refuse("conflict", `it is ${held.state}`, { state: held.state });
    return { state: held.state, remaining: this.value(held.item, "remaining").value };
  }

  #show({ comment, target, text, user, at, version }: Held): void {
    this.count(target, "comment", 1);
    this.publish("comment", { comment, target, text, user, at, version }, user);
  }

  #like(member: Member, target: string, on: boolean): Frame {
    const key = `${target} ${member.user}`;
    if (this.#likes.has(key) !== on) this.count(target, "like", on ? 1 : -1);
    if (on) this.#likes.add(key);
    else this.#likes.delete(key);
    const { value, version } = this.value(target, "like");
    return { value, on, version };
  }

  #upload(member: Member, target: string, to: string, progress = 0): Frame {
    const upload = this.#uploads.get(target) ?? (to === "started" ? { state: to, progress: 0, user: member.user } : refuse("not_found", "it was not started"));
    this.#uploads.set(target, upload);
    if (upload.user !== member.user) refuse("forbidden", "it is another's");
    const ended = upload.state === "complete" || upload.state === "failed";
    if (ended && upload.state !== to) refuse("conflict", `it is ${upload.state}`, { state: upload.state });
    if (ended || to === "started") return { state: upload.state, progress: upload.progress };
    upload.state = to;
    upload.progress = to === "complete" ? 100 : Math.max(upload.progress, progress);
    if (to === "progress") this.push({ push: "signal", event: "upload", data: { target, state: to, progress: upload.progress }, from: member.user });
    if (to === "complete") this.publish("upload", { target, user: member.user, at: Date.now() }, member.user);
    return { state: to, progress: upload.progress };
  }

  #reserve(member: Member, item: string, quantity: number): Frame {
    const offered = this.#items.get(item) ?? refuse("not_found", "no such item");
    const mine = [...this.#reservations.values()].filter((held) => held.item === item && held.user === member.user && (held.state === "held" || held.state === "confirmed"));
    if (this.value(item, "remaining").value < quantity) refuse("sold_out", "nothing is left");
    if (mine.reduce((sum, held) => sum + held.quantity, 0) + quantity > offered.perUser) refuse("limit_reached", `at most ${offered.perUser} for each`);
    const reservation = newId("reservation");
    const held: Reservation = { item, user: member.user, quantity, state: "held", timer: undefined };
    held.timer = setTimeout(() => this.#end(held, "expired"), offered.holdMs);
    this.#reservations.set(reservation, held);
    const { value: remaining } = this.count(item, "remaining", -quantity);
    return { reservation, remaining, expires_at: Date.now() + offered.holdMs };
  }

  #end(held: Reservation, state: Reservation["state"]): void {
    clearTimeout(held.timer);
    held.state = state;
    if (state !== "confirmed") this.count(held.item, "remaining", held.quantity);
  }

  #put(doc: string, value: unknown, version: number): Frame {
    const known = this.#docs.get(doc) ?? { value: null, version: 0 };
    if (known.version !== version) refuse("conflict", `the document's version is ${known.version}`, { ...known });
    this.#docs.set(doc, { value, version: version + 1 });
    this.publish("doc", { doc, version: version + 1 });
    return { version: version + 1 };
  }

  #history({ since, before, limit = 100 }: { since?: Position; before?: number; limit?: number }): Frame {
    const after = this.log.filter(({ offset }) => (since ? offset > since.offset : true) && (before === undefined || offset < before));
    return { epoch: this.epoch, offset: this.offset, events: since ? after.slice(0, limit) : after.slice(-limit) };
  }

  /** Ends what the room still waits for. */
  stop(): void {
    for (const { timer } of this.#reservations.values()) clearTimeout(timer);
  }
}
