// One room as this client knows it: where it stands in the room's history, and the newest value of what is counted there.
// `RoomState` is shared by all holders; `Room` is one holder's handle. Neither knows the socket.

import { CommentBook, Comments } from "./comments";
import { Counts } from "./counts";
import { Emitter } from "./emitter";
import { RoomcastError } from "./errors";
import { Handle } from "./handle";
import { add, Counter, like, Liked, Likes, type Live } from "./live";
import { Stock } from "./stock";
import type {
  CallOptions, CommentReply, Count, CountReply, Doc, Frame, HistoryReply, JoinReply, KeyedOptions, LikeReply, ModerateReply, Position, Presence, PresenceReply, RoomEvent, RoomEvents,
} from "./types";
import { Upload } from "./upload";

/** What a room needs of its client. */
export interface RoomHost {
  call(op: string, fields: Frame, how: { room?: string; repeatable: boolean }, options?: CallOptions): Promise<unknown>;
  /** Sends without asking for an answer. */
  tell(op: string, fields: Frame): void;
  leave(state: RoomState): void;
  rejoin(state: RoomState): void;
  /** Why there will be no answer, where the connection was ended for good. */
  ended(): RoomcastError | undefined;
}

const NOBODY: Presence = { connections: 0, users: 0 };

type Status = "wanted" | "joining" | "joined" | "failed" | "kicked";

export class RoomState {
  status: Status = "wanted";
  holders = new Set<Room>();
  recent: number | undefined;
  position: Position | undefined;
  presence: Presence | undefined;
  failure: Error | undefined;
  /** How often a join was refused with "later" since the last success. */
  refusals = 0;
  readonly counts = new Counts((count) => this.emit("count", count));
  readonly liked = new Liked();
  readonly book: CommentBook;
  /** The epoch of all that is known here. */
  #heardOf: string | undefined;

  /** `user` tells who this client is, while it is connected. */
  constructor(readonly name: string, readonly user: () => string | undefined) {
    this.book = new CommentBook(user, (target) => { for (const room of [...this.holders]) room.commented(target); });
  }

  emit<Name extends keyof RoomEvents>(name: Name, value: RoomEvents[Name]): void {
    for (const room of [...this.holders]) room.emit(name, value);
  }

  /** To be joined at the next opportunity: what was refused before is no answer any more. */
  want(): void {
    this.status = "wanted";
    this.failure = undefined;
  }

  joinFrame(): Frame {
    const frame: Frame = { room: this.name };
    if (this.position) frame.since = this.position;
    if (this.recent !== undefined) frame.recent = this.recent;
    return frame;
  }

  /** `since` is what the join asked for. Reset comes before the events it makes necessary. */
  joined(reply: JoinReply, since: Position | undefined): void {
    const resumed = since !== undefined && reply.recovered;
    this.status = "joined";
    this.failure = undefined;
    this.refusals = 0;
    // Not by the position: a reload has given that up, and what was heard before it is still known.
    const anew = this.#heardOf !== undefined && this.#heardOf !== reply.epoch;
    const tellForgotten = anew ? this.counts.forget() : undefined;
    if (anew) this.book.reset();
    this.#heardOf = reply.epoch;
    this.position = { epoch: reply.epoch, offset: reply.offset };
    if (since && !resumed) this.#reset("the gap was larger than the room's history");
    // A listener may have asked for a reload, or left: then this answer is superseded.
    if (this.status !== "joined" || this.holders.size === 0) return tellForgotten?.();
    if (reply.presence) this.#presence(reply.presence);
    for (const count of reply.counts ?? []) this.counts.take(count);
    tellForgotten?.();
    const missed = (reply.events ?? []).filter((event) => !resumed || event.offset > since.offset);
    for (const event of missed) this.#tell({ ...event, replay: true });
    if (resumed) this.emit("recovered", { missed: missed.length });
    else this.emit("joined", this.position);
  }

  failed(error: Error): void {
    this.status = "failed";
    this.failure = error;
    this.emit("error", error);
  }

  /** A push for this room. */
  push(frame: Frame): void {
    switch (frame.push) {
      case "event": return this.#event(frame as unknown as RoomEvent);
      case "signal": return this.emit("signal", frame as unknown as RoomEvents["signal"]);
      case "count": return this.counts.take(frame as unknown as Count);
      case "presence": return this.#presence(frame as unknown as Presence);
      case "reset": {
        const tellForgotten = this.counts.forget();
        this.#heardOf = frame.epoch as string;
        this.position = { epoch: this.#heardOf, offset: frame.offset as number };
        this.#reset(String(frame.reason));
        return tellForgotten();
      }
      case "kicked":
        this.status = "kicked";
        this.failure = new RoomcastError("forbidden", `removed from ${this.name}: ${String(frame.reason)}`);
        return this.emit("kicked", { reason: String(frame.reason) });
    }
  }

  #event(frame: RoomEvent): void {
    // Before the join is answered, a push can only be a straggler of an earlier stay: the answer will contain it.
    if (this.status !== "joined" || !this.position || frame.offset <= this.position.offset) return;
    this.position = { epoch: this.position.epoch, offset: frame.offset };
    const { event, data, offset, at, from } = frame;
    this.#tell({ event, data, offset, at, ...(from === undefined ? {} : { from }), replay: false });
  }

  /** The handles come first: whoever hears the event finds them up to date. */
  #tell(event: RoomEvent): void {
    this.book.hear(event);
    this.emit("event", event);
  }

  #reset(reason: string): void {
    this.book.reset();
    this.emit("reset", { reason });
  }

  #presence({ connections, users }: Presence): void {
    this.presence = { connections, users };
    this.emit("presence", this.presence);
  }
}

/** One holder's view of a room. The room is left when its last holder has left. */
export class Room extends Emitter<RoomEvents> {
  readonly #state: RoomState;
  readonly #host: RoomHost;
  readonly #live: Live;
  readonly #comments = new Map<string, Comments>();
  /** Who waits for the room to be joined: to be told when this handle is given up before that. */
  readonly #waiting = new Set<(error: Error) => void>();

  /** @internal */
  constructor(state: RoomState, host: RoomHost) {
    super();
    this.#state = state;
    this.#host = host;
    this.#live = {
      counts: state.counts,
      liked: state.liked,
      book: state.book,
      call: (op, fields, options) => this.#call(op, fields, true, options),
      keyed: (op, fields, options) => this.#keyed(op, fields, options),
      ask: (op, fields, options) => host.call(op, fields, { repeatable: true }, options),
      onCount: (listener) => this.on("count", listener),
      user: state.user,
    };
    state.holders.add(this);
  }

  get name(): string { return this.#state.name; }
  /** True while the hub has this client in the room. */
  get isJoined(): boolean { return this.#state.status === "joined"; }
  get position(): Position | undefined { return this.#state.position; }
  get lastPresence(): Presence | undefined { return this.#state.presence; }

  /** The newest known value of a counter, own changes on their way included; 0 where none was heard. */
  value(target: string, counter: string): number {
    return this.#state.counts.get(target, counter)?.value ?? 0;
  }

  // Handles: live values with this client's own changes in them

  /** How many like a target, and whether this user does. */
  likes(target: string): Likes {
    return new Likes(this.#live, target);
  }

  /** A counter of a target: `download`, `view`, … */
  counter(target: string, counter: string): Counter {
    return new Counter(this.#live, target, counter);
  }

  /** A target's comments as far as this room's events have told of them; the same handle each time. */
  comments(target: string): Comments {
    let comments = this.#comments.get(target);
    if (!comments) this.#comments.set(target, (comments = new Comments(this.#live, target)));
    return comments;
  }

  /** @internal */
  commented(target: string): void {
    this.#comments.get(target)?.changed();
  }

  /** What is left of an item, and the way to get hold of one. */
  stock(item: string): Stock {
    return new Stock(this.#live, item);
  }

  /** An upload of this user's own. */
  upload(target: string): Upload {
    return new Upload(this.#live, target);
  }

  /** How many are here. */
  people(): Handle<Presence> {
    return new Handle(() => this.#state.presence ?? NOBODY, (changed) => this.on("presence", changed));
  }

  // Calls

  /** Resolves once joined; rejects where the hub refuses for good, and with `closed` where nobody waits for it any more. */
  ready(): Promise<void> {
    if (!this.#state.holders.has(this)) return Promise.reject(this.#given());
    if (this.#state.status === "joined") return Promise.resolve();
    const failure = this.#state.failure ?? this.#host.ended();
    if (failure) return Promise.reject(failure);
    return new Promise((resolve, reject) => {
      const fail = (error: Error) => { stop(); reject(error); };
      const ends = [
        this.on("joined", () => { stop(); resolve(); }),
        this.on("recovered", () => { stop(); resolve(); }),
        this.on("kicked", () => fail(this.#state.failure!)),
        this.on("error", fail),
      ];
      const stop = () => {
        for (const end of ends) end();
        this.#waiting.delete(fail);
      };
      this.#waiting.add(fail);
    });
  }

  /**
   * Sends an event to everyone in the room; retried under one key until it is acknowledged. The names `comment`,
   * `comment_deleted`, `doc`, `purged`, `upload` and all that begin with `admin:` are `forbidden` to guests and members.
   */
  publish(event: string, data: unknown, options?: KeyedOptions): Promise<Position> {
    return this.#keyed("publish", { event, data }, options) as Promise<Position>;
  }

  /**
   * Sends a fleeting message: it is not kept, not queued, and not sent where the room is not joined just now. One that is
   * too large for the hub is not sent either; the client's `error` tells of it. `publish` says which names are reserved.
   */
  signal(event: string, data: unknown = null): void {
    if (this.isJoined) this.#host.tell("signal", { room: this.name, event, data });
  }

  /** Sets or takes back this user's like; setting it twice is setting it once. */
  like(target: string, on = true, options?: CallOptions): Promise<LikeReply> {
    return like(this.#live, target, on, options);
  }

  /** Adds `by` (1–100) to a counter. */
  count(target: string, counter: string, by = 1, options?: KeyedOptions): Promise<CountReply> {
    return add(this.#live, target, counter, by, options);
  }

  /** Sends a comment; `comments(target).add` also shows it at once. */
  comment(target: string, text: string, options?: KeyedOptions): Promise<CommentReply> {
    return this.#keyed("comment", { target, text }, options) as Promise<CommentReply>;
  }

  /** Decides about a pending comment, by the version that was looked at; a `conflict` tells what stands in `current`. */
  moderate(comment: string, decision: "approve" | "reject", version: number, options?: CallOptions): Promise<ModerateReply> {
    return this.#call("moderate", { comment, decision, version }, false, options) as Promise<ModerateReply>;
  }

  /** Reads a document; version 0 where there is none. */
  async get(doc: string, options?: CallOptions): Promise<Doc> {
    try {
      return (await this.#call("get", { doc }, true, options)) as Doc;
    } catch (error) {
      if (error instanceof RoomcastError && error.code === "not_found") return { value: null, version: 0 };
      throw error;
    }
  }

  /** Writes a document over the `version` that was read; a `conflict` tells version and value in `current`. */
  put(doc: string, value: unknown, version: number, options?: CallOptions): Promise<{ version: number }> {
    return this.#call("put", { doc, value, version }, false, options) as Promise<{ version: number }>;
  }

  /** Events after `since`, or before the offset `before`; oldest first either way. */
  history(query: { since?: Position; before?: number; limit?: number } = {}, options?: CallOptions): Promise<HistoryReply> {
    return this.#call("history", query, true, options) as Promise<HistoryReply>;
  }

  presence(page: { cursor?: string; limit?: number } = {}, options?: CallOptions): Promise<PresenceReply> {
    return this.#call("presence", page, true, options) as Promise<PresenceReply>;
  }

  /** Joins anew from nothing: the answer to a `reset` for who shows the room's recent events. */
  reload(): void {
    this.#host.rejoin(this.#state);
  }

  /** Gives up this handle and its listeners. */
  leave(): void {
    if (!this.#state.holders.delete(this)) return;
    this.forget();
    for (const fail of [...this.#waiting]) fail(this.#given());
    if (this.#state.holders.size === 0) this.#host.leave(this.#state);
  }

  #given(): RoomcastError {
    return new RoomcastError("closed", `this handle on ${this.name} was given up`);
  }

  #keyed(op: string, fields: Frame, { key = makeKey(), ...options }: KeyedOptions = {}): Promise<unknown> {
    return this.#call(op, { ...fields, key }, true, options);
  }

  /** `repeatable`: harmless to send again where the answer was lost. */
  #call(op: string, fields: Frame, repeatable: boolean, options?: CallOptions): Promise<unknown> {
    return this.#host.call(op, { room: this.name, ...fields }, { room: this.name, repeatable }, options);
  }
}

function makeKey(): string {
  // Not `randomUUID`: that is missing on plain-http pages.
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
