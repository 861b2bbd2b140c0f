// The dashboard's one connection: what it hears becomes signals that the panels show, what they ask becomes calls.

import { batch, computed, signal } from "@preact/signals";
import { Roomcast, RoomcastError, type Room, type State } from "@roomcast/client";
import { randomKey } from "../shared/key";
import { plural } from "../shared/words";
import { Desk, type Decision, type Waiting } from "./desk";
import { Herald } from "./herald";
import { Feed, type Heard, incidents, STALE_MS } from "./picture";

export interface Entry {
  readonly offset: number;
  readonly at: number;
  readonly by: string;
  readonly action: string;
  readonly on?: string;
  readonly detail?: string;
  readonly node: string;
}

export interface Notice { readonly title: string; readonly body: string; readonly at: number; readonly from: string; readonly fresh: boolean }

const NOTIFICATION = "admin:notification";
const NOTICES = 50;
const ENTRIES = 200;
const SPOKEN = 5;
/** Between two questions for the whole state, however many messages are missing. */
const ASK_EVERY_MS = 2_000;
/** A signal about a comment may be lost: the queue is read anew so often. */
const QUEUE_EVERY_MS = 20_000;
const CALL_MS = 5_000;

export const words = (error: unknown): string => (error instanceof Error ? error.message : String(error));

export class Link {
  readonly state = signal<State>({ name: "idle" });
  readonly joined = signal(false);
  readonly role = signal("");
  readonly user = signal("");
  readonly now = signal(Date.now());
  /** Rises with each message of the cluster: `feed` changes in place. */
  readonly beat = signal(0);
  readonly feed = new Feed();
  readonly deskTurn = signal(0);
  readonly desk = new Desk();
  readonly deskNote = signal("");
  readonly entries = signal<readonly Entry[]>([]);
  readonly entriesNote = signal("");
  readonly notices = signal<readonly Notice[]>([]);
  /** What is read out to who does not look, the newest last. */
  readonly spoken = signal<readonly { readonly n: number; readonly text: string }[]>([]);
  /** Buttons that change something are for role `admin`, and for as long as the hub has us in the room. */
  readonly writable = computed(() => this.role.value === "admin" && this.joined.value && this.state.value.name === "connected");

  readonly #rc: Roomcast;
  readonly #room: Room;
  readonly #refused: (why: string) => void;
  #clock: ReturnType<typeof setInterval> | undefined;
  #askedAt = 0;
  #queueAt = 0;
  readonly #herald = new Herald();
  #lost = false;
  #spokenOf = 0;
  #queueUnread = false;

  constructor(token: string, refused: (why: string) => void, rc = new Roomcast({ token })) {
    this.#rc = rc;
    this.#refused = refused;
    this.#room = rc.room("admin", { recent: NOTICES });
  }

  connect(): void {
    const refuse = (why: string) => { this.close(); this.#refused(why); };
    this.#rc.on("state", (state) => batch(() => {
      this.state.value = state;
      if (state.name === "connected") {
        this.role.value = state.session.role;
        this.user.value = state.session.user;
        if (this.#lost) this.#say(`Connected again, to ${state.session.node}.`);
        this.#lost = false;
      } else this.joined.value = false;
      // Once for each loss, and not for each attempt to come back.
      if (state.name === "reconnecting" && this.role.value !== "" && !this.#lost) {
        this.#lost = true;
        this.#say("The connection is lost; this page comes back by itself.");
      }
      // 1000 is our own close, already told.
      if (state.name === "closed" && state.code !== 1000) refuse(`The hub refused: ${state.reason}.`);
    }));
    const joined = () => {
      this.joined.value = true;
      void this.#ask(true);
      void this.readQueue();
      void this.readAudit();
    };
    this.#room.on("joined", joined);
    this.#room.on("recovered", joined);
    this.#room.on("reset", () => { this.notices.value = []; this.#room.reload(); });
    this.#room.on("kicked", ({ reason }) => refuse(`Removed from the admin room: ${reason}.`));
    this.#room.on("error", (error) => {
      if (error instanceof RoomcastError && error.code === "forbidden") refuse(`This token's role is “${this.role.value || "guest"}”; the admin room takes only “admin”.`);
    });
    this.#room.on("event", ({ event, data, at, from, replay }) => {
      const { title, body } = (typeof data === "object" && data !== null ? data : {}) as { title?: unknown; body?: unknown };
      if (event !== NOTIFICATION || typeof title !== "string" || title === "") return;
      this.notices.value = [{ title, body: typeof body === "string" ? body : "", at, from: from ?? "the API", fresh: !replay }, ...this.notices.value].slice(0, NOTICES);
      if (!replay) this.#say(`Notification: ${title}`);
    });
    // The hub's own signals have no sender: an admin cannot speak for it.
    this.#room.on("signal", ({ event, data, from }) => { if (from === undefined) this.#told(event, data); });
    this.#clock = setInterval(() => this.#tick(), 500);
    this.#rc.connect();
  }

  close(): void {
    clearInterval(this.#clock);
    this.#rc.close();
  }

  call<T>(op: string, fields: Record<string, unknown> = {}): Promise<T> {
    return this.#rc.call(op, fields, { timeoutMs: CALL_MS }) as Promise<T>;
  }

  decide(decision: Decision, id?: string): void {
    if (!this.writable.value || !this.desk.decide(decision, Date.now(), id)) return;
    this.#note(`${decision === "approve" ? "Approved" : "Rejected"}; press u to take it back.`);
    this.deskTurn.value++;
  }

  undo(id?: string): void {
    this.#note(this.desk.undo(id) ? "Taken back: it waits again." : "Nothing can be taken back any more.");
    this.deskTurn.value++;
  }

  /** Sends a notification, and says whom it reached. */
  async notify(room: string, title: string, body: string, key = randomKey()): Promise<string> {
    await this.call("publish", { room, event: NOTIFICATION, data: { title, body }, key });
    try {
      const { users, connections } = await this.call<{ users: number; connections: number }>("presence", { room, limit: 1 });
      return `Delivered to ${plural(users, "person", "people")} on ${plural(connections, "connection")} in ${room}.`;
    } catch (error) {
      return `Sent to ${room}; how many are there is not known: ${words(error)}.`;
    }
  }

  async readQueue(): Promise<void> {
    this.#queueAt = Date.now();
    try {
      const { comments } = await this.call<{ comments: Waiting[] }>("queue");
      this.#desk(() => this.desk.load(comments));
      if (this.#queueUnread) this.deskNote.value = "";
      this.#queueUnread = false;
    } catch (error) {
      const note = `The queue could not be read: ${words(error)}.`;
      if (this.deskNote.value !== note) this.#note(note);
      this.#queueUnread = true;
    }
    this.deskTurn.value++;
  }

  async readAudit(more = false): Promise<void> {
    const last = this.entries.value.at(-1)?.offset;
    try {
      const { entries } = await this.call<{ entries: Entry[] }>("audit", more && last !== undefined ? { before: last, limit: 50 } : { limit: 50 });
      this.#keep(entries);
      this.entriesNote.value = more && entries.length === 0 ? "That is all there is." : "";
    } catch (error) {
      this.entriesNote.value = `The log could not be read: ${words(error)}.`;
    }
  }

  /** Reads something out. */
  #say(text: string): void {
    this.spoken.value = [...this.spoken.value, { n: ++this.#spokenOf, text }].slice(-SPOKEN);
  }

  #note(text: string): void {
    this.deskNote.value = text;
    this.#say(text);
  }

  /** Tells that there is work where there was none; not of each comment that comes. */
  #desk(change: () => void): void {
    const before = this.desk.cases.length;
    change();
    if (before === 0 && this.desk.cases.length > 0) this.#say(`${plural(this.desk.cases.length, "comment waits", "comments wait")}.`);
  }

  #keep(entries: readonly Entry[]): void {
    const all = new Map([...this.entries.value, ...entries].map((entry) => [entry.offset, entry]));
    this.entries.value = [...all.values()].sort((a, b) => b.offset - a.offset).slice(0, ENTRIES);
  }

  #told(event: string, data: unknown): void {
    const now = Date.now();
    switch (event) {
      case "cluster": {
        const heard: Heard = this.feed.hear(data, now);
        if (heard === "gap") void this.#ask(false);
        this.beat.value++;
        break;
      }
      case "audit": {
        const entry = data as Entry;
        const newest = this.entries.value[0]?.offset ?? 0;
        this.#keep([entry]);
        if (entry.offset > newest + 1) void this.readAudit();
        break;
      }
      case "pending":
        this.#desk(() => this.desk.arrive(data as Waiting));
        this.deskTurn.value++;
        break;
      case "decided": {
        const { room, comment, state, by } = data as { room: string; comment: string; state: string; by: string };
        this.desk.heard(room, comment, `already ${state} by ${by}`, now);
        this.deskTurn.value++;
        break;
      }
    }
  }

  async #ask(force: boolean): Promise<void> {
    const now = Date.now();
    if (!force && now - this.#askedAt < ASK_EVERY_MS) return;
    this.#askedAt = now;
    try {
      this.feed.asked(await this.call("stats"), Date.now());
    } catch {
      // Silence is shown by itself, and the next message or question may bring it.
    }
    this.beat.value++;
  }

  #tick(): void {
    const now = Date.now();
    this.now.value = now;
    const news = this.#herald.hear(incidents(this.feed, this.state.value.name === "connected", now), now);
    if (news !== undefined) this.#say(news);
    if (this.writable.value) {
      const silent = this.feed.silentMs(now);
      if (silent === undefined || silent >= STALE_MS || this.feed.partial) void this.#ask(false);
      if (now - this.#queueAt >= QUEUE_EVERY_MS) void this.readQueue();
      for (const { item, decision } of this.desk.due(now)) void this.#send(item, decision);
    }
    if (this.desk.cases.some(({ fate }) => fate.name !== "waiting")) {
      if (!this.writable.value) this.desk.due(0);
      this.deskTurn.value++;
    }
  }

  async #send(item: Waiting, decision: Decision): Promise<void> {
    const done = decision === "approve" ? "approved" : "rejected";
    try {
      await this.call("moderate", { room: item.room, comment: item.comment, decision, version: item.version });
      this.desk.done(item);
    } catch (error) {
      const { code, retryMs, current } = (error instanceof RoomcastError ? error : {}) as { code?: string; retryMs?: number; current?: { state?: string } };
      // An answer may be lost and the decision not: whoever finds it made as asked has nothing to complain of.
      if (code === "conflict" && current?.state === done) this.desk.done(item);
      else if (code === "conflict") this.desk.settled(item.room, item.comment, `not ${done}: it is ${current?.state ?? "decided"} already`, Date.now());
      else if (code === "not_found") this.desk.settled(item.room, item.comment, "it is gone", Date.now());
      else if (code === "rate_limited") this.desk.again(item, decision, Date.now() + (retryMs ?? 1_000));
      else this.desk.failed(item, `not ${done}: ${words(error)}`);
    }
    this.deskTurn.value++;
  }
}
