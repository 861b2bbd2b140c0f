// The connection to a hub: it opens, proves itself, keeps alive, comes back. What a room means is in `room.ts`.

import { backoffMs, STABLE_MS } from "./backoff";
import { frameBytes, type WireCodec, wireCodec } from "./codec";
import { Emitter } from "./emitter";
import { closeReason, isFinalClose, RoomcastError } from "./errors";
import { guestTurn, loadGuest, saveGuest } from "./guest";
import { type Call, Outbox } from "./outbox";
import { Room, type RoomHost, RoomState } from "./room";
import type { CallOptions, ClaimReply, ClientEvents, Frame, JoinReply, Options, Position, Session, State } from "./types";

/** Upgrade and `connect` together; the hub itself gives 10 s to each. */
const OPEN_LIMIT_MS = 10_000;
const PONG_LIMIT_MS = 10_000;
/** After the page was away, a dead connection should show sooner. */
const WOKEN_PONG_LIMIT_MS = 3_000;
const CALL_LIMIT_MS = 30_000;
const GUEST_TURN_MS = 3_000;
const DEFAULT_PING_MS = 25_000;
/** Nobody waits for longer than a day: timers overflow into "at once". */
const MAX_WAIT_MS = 86_400_000;
/** An overloaded hub is spared the quick first retries. */
const OVERLOADED_ATTEMPT = 3;

export class Roomcast extends Emitter<ClientEvents> {
  readonly #options: Options;
  readonly #codec: WireCodec;
  readonly #url: string;
  readonly #outbox = new Outbox();
  readonly #rooms = new Map<string, RoomState>();
  readonly #host: RoomHost = {
    call: (op, fields, how, options) => this.#call(op, fields, how, options),
    tell: (op, fields) => this.#tell({ op, ...fields }),
    leave: (state) => this.#leave(state),
    rejoin: (state) => this.#rejoin(state),
    ended: () => this.#ended(),
  };

  #state: State = { name: "idle" };
  #socket: WebSocket | undefined;
  /** Rises with each attempt: whatever an older attempt still does finds itself outdated. */
  #turn = 0;
  #attempt = 0;
  #lastId = 0;
  #pending = new Map<number, { room: RoomState; since: Position | undefined }>();
  #pingId = 0;
  /** By when the question must have been answered. */
  #pongBy = Infinity;
  #connectedAt = 0;
  #heardAt = 0;
  #comeBackAt: number | undefined;
  #tokenExpired = false;
  #letNextGuestIn: (() => void) | undefined;
  #openTimer: Timer;
  #retryTimer: Timer;
  #pingTimer: Timer;
  #pongTimer: Timer;
  #flushTimer: Timer;
  #goawayTimer: Timer;

  constructor(options: Options = {}) {
    super();
    this.#options = options;
    this.#codec = wireCodec(options.codec ?? "json");
    this.#url = options.url ?? new URL("/ws", location.href.replace(/^http/, "ws")).href;
  }

  get state(): State { return this.#state; }
  get session(): Session | undefined { return this.#state.name === "connected" ? this.#state.session : undefined; }

  /** Opens the connection and keeps it. Harmless where it is open already. */
  connect(): this {
    if (this.#state.name === "idle" || this.#state.name === "closed") {
      this.#attempt = 0;
      this.#listenToPage(true);
      void this.#open();
    }
    return this;
  }

  /** Ends the connection for good; `connect` may begin anew. */
  close(): void {
    if (this.#state.name === "idle" || this.#state.name === "closed") return;
    this.#detach(1000);
    this.#end(1000, "closed by this client");
  }

  /** A handle on a room, which is joined if it is not yet. `recent` asks for so many past events at the first join. */
  room(name: string, options: { recent?: number } = {}): Room {
    let state = this.#rooms.get(name);
    if (!state) this.#rooms.set(name, (state = new RoomState(name, () => this.session?.user)));
    if (options.recent !== undefined) state.recent = Math.max(state.recent ?? 0, options.recent);
    const room = new Room(state, this.#host);
    // Who asks for a room anew may try again where an earlier holder was refused or removed.
    if (state.status === "kicked" || state.status === "failed") state.want();
    if (this.session && state.status === "wanted") this.#join(state);
    return room;
  }

  /**
   * Any operation of the protocol, by its own fields: those that have no method here are for admins. It is sent once, and
   * not again where its answer was lost.
   */
  call(op: string, fields: Frame = {}, options?: CallOptions): Promise<unknown> {
    return this.#call(op, fields, { repeatable: false }, options);
  }

  /** The hub's clock, in Unix milliseconds. */
  async ping(options?: CallOptions): Promise<number> {
    return ((await this.#call("ping", {}, { repeatable: true }, options)) as { now: number }).now;
  }

  /** Makes a name this user's within its scope; another's is a `conflict`. */
  claim(scope: string, name: string, options?: CallOptions): Promise<ClaimReply> {
    return this.#call("claim", { scope, name }, { repeatable: true }, options) as Promise<ClaimReply>;
  }

  /** Tries at once instead of waiting out the backoff. */
  retryNow(): void {
    if (this.#state.name === "reconnecting") void this.#open();
  }

  // Opening

  async #open(): Promise<void> {
    const turn = ++this.#turn;
    clearTimeout(this.#retryTimer);
    this.#comeBackAt = undefined;
    this.#setState({ name: "connecting", attempt: this.#attempt });
    this.#openTimer = setTimeout(() => this.#lost(1006, "the hub did not answer in time"), OPEN_LIMIT_MS);
    let hello: Frame;
    try {
      hello = await this.#hello();
    } catch (error) {
      if (turn !== this.#turn) return;
      this.emit("error", error as Error);
      if (error instanceof RoomcastError && !error.retryable) return this.#lost(4500, error.message);
      return this.#lost(1006, "no token could be had");
    }
    // An outdated attempt has let the next guest in already; what is held now is a newer attempt's.
    if (turn !== this.#turn) return;

    let socket: WebSocket;
    try {
      socket = new (this.#options.WebSocket ?? WebSocket)(this.#url, [this.#codec.subprotocol]);
    } catch (error) {
      this.emit("error", error as Error);
      return this.#lost(4505, "the address cannot be opened");
    }
    this.#socket = socket;
    this.#lastId = 0;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => turn === this.#turn && this.#send("connect", hello);
    socket.onmessage = ({ data }) => turn === this.#turn && this.#receive(data);
    socket.onclose = ({ code, reason }) => turn === this.#turn && this.#lost(code, reason);
  }

  /** Who we are: ticket, token, or guest, in this order. */
  async #hello(): Promise<Frame> {
    const { getTicket, getToken, guestKey } = this.#options;
    if (getTicket) return { ticket: await getTicket() };
    const why = this.#tokenExpired ? "expired" : "connect";
    const token = getToken ? await getToken(why) : this.#options.token;
    if (token !== undefined) return { token };
    if (guestKey !== undefined && loadGuest(guestKey) === undefined) {
      const turn = this.#turn;
      const next = await guestTurn(guestKey, GUEST_TURN_MS);
      if (turn === this.#turn) this.#letNextGuestIn = next;
      else next();
    }
    const guest = loadGuest(guestKey);
    return guest === undefined ? {} : { guest };
  }

  #guestDone(): void {
    this.#letNextGuestIn?.();
    this.#letNextGuestIn = undefined;
  }

  #connected(session: Session): void {
    clearTimeout(this.#openTimer);
    if (session.guest !== undefined) saveGuest(this.#options.guestKey, session.guest);
    this.#guestDone();
    this.#tokenExpired = false;
    this.#connectedAt = Date.now();
    this.#setState({ name: "connected", session });
    this.#heartbeat();
    for (const room of this.#rooms.values()) if (room.status !== "kicked") this.#join(room);
    this.#flush();
  }

  #refused(error: RoomcastError): void {
    if (error.code === "token_expired" && this.#options.getToken) {
      this.#tokenExpired = true;
      return this.#lost(4002, error.message);
    }
    if (!error.retryable) return this.#lost(4500, error.message);
    if (error.retryMs !== undefined) this.#comeBack(error.retryMs);
    this.#lost(1013, error.message);
  }

  // Losing, and coming back

  #detach(code?: number): void {
    this.#turn++;
    for (const timer of [this.#openTimer, this.#retryTimer, this.#pingTimer, this.#pongTimer, this.#flushTimer, this.#goawayTimer]) clearTimeout(timer);
    const socket = this.#socket;
    this.#socket = undefined;
    this.#pingId = 0;
    this.#pongBy = Infinity;
    this.#pending.clear();
    this.#guestDone();
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      try { socket.close(code); } catch { /* It is closed already. */ }
    }
  }

  #lost(code: number, said: string): void {
    const reason = said || closeReason(code);
    this.#detach();
    for (const room of this.#rooms.values()) if (room.status !== "kicked") room.want();
    // The frame that was too large would be too large again.
    if (code === 1009) this.#outbox.fail("in flight", new RoomcastError("too_large", reason));
    this.#outbox.connectionLost(new RoomcastError("connection_lost", reason));
    if (isFinalClose(code)) return this.#end(code, reason);
    if (code === 4002) this.#tokenExpired = true;

    if (this.#connectedAt > 0 && Date.now() - this.#connectedAt >= STABLE_MS) this.#attempt = 0;
    this.#connectedAt = 0;
    if (code === 1013) this.#attempt = Math.max(this.#attempt, OVERLOADED_ATTEMPT);
    // The hub's own word wins: it has already spread its clients.
    const inMs = Math.round(this.#comeBackAt === undefined ? backoffMs(this.#attempt, Math.random()) : Math.max(0, this.#comeBackAt - Date.now()));
    this.#attempt++;
    this.#retryTimer = setTimeout(() => void this.#open(), inMs);
    this.#setState({ name: "reconnecting", inMs, attempt: this.#attempt, code, reason });
  }

  #end(code: number, reason: string): void {
    this.#listenToPage(false);
    const error = new RoomcastError("closed", reason);
    this.#outbox.fail("all", error);
    for (const room of this.#rooms.values()) {
      if (room.status === "kicked") continue;
      room.want();
      room.emit("error", error);
    }
    this.#setState({ name: "closed", code, reason });
  }

  // Receiving

  #receive(data: unknown): void {
    let frame: Frame;
    try {
      frame = this.#codec.decode(data);
    } catch (error) {
      return this.emit("error", error as Error);
    }
    this.#heardAt = Date.now();
    const id = frame.id as number | undefined;
    if (frame.push !== undefined) this.#push(frame);
    else if (id === undefined) this.emit("error", readError(frame));
    else if (this.#state.name === "connecting") {
      if (frame.error !== undefined) this.#refused(readError(frame));
      else this.#connected(frame.ok as Session);
    } else if (id === this.#pingId) {
      this.#pingId = 0;
      this.#pongBy = Infinity;
      clearTimeout(this.#pongTimer);
    } else if (this.#pending.has(id)) this.#joinAnswered(id, frame);
    else this.#answered(id, frame);
  }

  #answered(id: number, frame: Frame): void {
    const call = this.#outbox.answered(id);
    if (!call) return;
    if (frame.error === undefined) return call.settle(undefined, frame.ok);
    const error = readError(frame);
    // Nothing was applied and the call is harmless to repeat: it stays in line, as long as its own time lasts. After a
    // reconnect all that was waiting goes out at once, and the hub may take a part of it only.
    const later = error.code === "unavailable" || (error.code === "rate_limited" && error.retryMs !== undefined);
    const notBefore = Date.now() + (error.retryMs ?? backoffMs(1, Math.random()));
    if (later && call.repeatable && notBefore < call.until && !this.#outbox.overtaken(call)) {
      this.#outbox.again(id, notBefore);
      this.#flush();
    } else call.settle(error);
  }

  #push(frame: Frame): void {
    switch (frame.push) {
      case "expiring": return void this.#refresh();
      case "goaway": return this.#goaway(frame.retry_ms as number, String(frame.reason));
      default: this.#rooms.get(frame.room as string)?.push(frame);
    }
  }

  async #refresh(): Promise<void> {
    const turn = this.#turn;
    try {
      const token = await this.#options.getToken?.("expiring");
      if (token !== undefined && turn === this.#turn) await this.#call("refresh", { token }, { repeatable: false });
    } catch (error) {
      // The hub will close with 4002, and the way back asks for a token again.
      this.emit("error", error as Error);
    }
  }

  /** The node goes: it is used until it closes, or until our turn to move has come. */
  #goaway(retryMs: number, reason: string): void {
    clearTimeout(this.#goawayTimer);
    this.#goawayTimer = setTimeout(() => this.#lost(1012, reason), this.#comeBack(retryMs));
  }

  /** The hub's own word on when to come back. */
  #comeBack(retryMs: number): number {
    const inMs = Math.min(retryMs, MAX_WAIT_MS);
    this.#comeBackAt = Date.now() + inMs;
    return inMs;
  }

  // Keeping alive: the hub's own pings are invisible to a page, so silence is answered by a question.

  #heartbeat(): void {
    const every = this.session?.ping_ms || DEFAULT_PING_MS;
    const silent = Date.now() - this.#heardAt;
    if (silent >= every) this.#probe(PONG_LIMIT_MS);
    this.#pingTimer = setTimeout(() => this.#heartbeat(), silent >= every ? every : every - silent);
  }

  #probe(limitMs: number): void {
    if (this.#pingId === 0) this.#pingId = this.#send("ping", {}) ?? 0;
    // A deadline that runs is never put off: the heartbeat may come more often than the limit is long.
    const pongBy = Date.now() + limitMs;
    if (this.#pongBy <= pongBy) return;
    this.#pongBy = pongBy;
    clearTimeout(this.#pongTimer);
    this.#pongTimer = setTimeout(() => this.#lost(1006, "the hub fell silent"), limitMs);
  }

  readonly #woken = (): void => {
    if (typeof document !== "undefined" && document.visibilityState === "hidden") return;
    if (this.#state.name === "connected") this.#probe(WOKEN_PONG_LIMIT_MS);
    // Not where the hub itself asked for patience: a whole crowd comes back online at once.
    else if (this.#comeBackAt === undefined) this.retryNow();
  };

  #listenToPage(on: boolean): void {
    if (typeof window === "undefined") return;
    const change = on ? "addEventListener" : "removeEventListener";
    window[change]("online", this.#woken);
    window[change]("pageshow", this.#woken);
    document[change]("visibilitychange", this.#woken);
  }

  // Rooms

  #join(room: RoomState): void {
    const frame = room.joinFrame();
    const id = this.#send("join", frame);
    if (id === undefined) return;
    room.status = "joining";
    room.failure = undefined;
    this.#pending.set(id, { room, since: room.position });
  }

  #joinAnswered(id: number, frame: Frame): void {
    const { room, since } = this.#pending.get(id)!;
    this.#pending.delete(id);
    if (this.#rooms.get(room.name) !== room || room.status !== "joining") return;
    if (frame.error === undefined) room.joined(frame.ok as JoinReply, since);
    else {
      const error = readError(frame);
      if (error.code === "unavailable" || error.code === "rate_limited" || error.code === "internal") {
        const turn = this.#turn;
        setTimeout(() => turn === this.#turn && room.holders.size > 0 && this.#join(room), error.retryMs ?? backoffMs(++room.refusals, Math.random()));
        return;
      }
      room.failed(error);
    }
    this.#flush();
  }

  #leave(room: RoomState): void {
    if (this.#rooms.get(room.name) !== room) return;
    this.#rooms.delete(room.name);
    if (this.session && (room.status === "joined" || room.status === "joining")) this.#send("leave", { room: room.name });
  }

  #rejoin(room: RoomState): void {
    if (room.status !== "joined" || !this.session) return;
    room.position = undefined;
    this.#join(room);
  }

  // Sending

  async #call(op: string, fields: Frame, how: { room?: string; repeatable: boolean }, options: CallOptions = {}): Promise<unknown> {
    const ended = this.#ended();
    if (ended) throw ended;
    const bytes = frameBytes(this.#codec, fields);
    const answer = this.#outbox.add(op, fields, { ...how, bytes, timeoutMs: options.timeoutMs ?? CALL_LIMIT_MS }, options.signal);
    this.#flush();
    return answer;
  }

  #ended(): RoomcastError | undefined {
    return this.#state.name === "closed" ? new RoomcastError("closed", this.#state.reason) : undefined;
  }

  #flush(): void {
    if (!this.session) return;
    const ready = ({ room }: Call) => {
      const status = room === undefined ? undefined : this.#rooms.get(room)?.status;
      return status !== "joining" && status !== "wanted";
    };
    const next = this.#outbox.flush(Date.now(), ready, (call) => {
      const error = this.#tooLarge(call.bytes);
      return error ? void call.settle(error) : this.#send(call.op, call.fields);
    });
    clearTimeout(this.#flushTimer);
    if (next !== undefined) this.#flushTimer = setTimeout(() => this.#flush(), Math.min(next - Date.now(), MAX_WAIT_MS));
  }

  #tell(frame: Frame): void {
    const error = this.#tooLarge(frameBytes(this.#codec, frame));
    if (error) this.emit("error", error);
    else this.#write(frame);
  }

  /** The hub would end the connection over such a frame, and for good. */
  #tooLarge(bytes: number): RoomcastError | undefined {
    const limit = this.session?.limits?.frame_bytes;
    return typeof limit === "number" && bytes > limit ? new RoomcastError("too_large", `a message may have at most ${limit} bytes`) : undefined;
  }

  #send(op: string, fields: Frame): number | undefined {
    const id = this.#lastId + 1;
    if (!this.#write({ id, op, ...fields })) return undefined;
    return (this.#lastId = id);
  }

  #write(frame: Frame): boolean {
    if (!this.#socket || this.#socket.readyState !== 1) return false;
    this.#socket.send(this.#codec.encode(frame));
    return true;
  }

  #setState(state: State): void {
    this.#state = state;
    this.emit("state", state);
  }
}

type Timer = ReturnType<typeof setTimeout> | undefined;

function readError(frame: Frame): RoomcastError {
  const error = (frame.error ?? {}) as { code?: unknown; message?: unknown; retry_ms?: unknown; current?: Frame };
  return new RoomcastError(
    String(error.code ?? "internal"),
    String(error.message ?? "the hub gave no message"),
    typeof error.retry_ms === "number" ? error.retry_ms : undefined,
    error.current,
  );
}
