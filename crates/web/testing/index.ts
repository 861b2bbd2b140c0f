// @roomcast/client/testing: a hub in memory, for unit tests of pages and components. It needs no network and no clock of
// its own, so it works under fake timers: answers come as microtasks.

import { RoomcastError } from "@roomcast/client";
import type { Frame } from "@roomcast/client";
import { FakeRoom, type Held, type Member } from "./fake-room";

export type { Held, Member } from "./fake-room";

/** Who a `connect` frame makes; throwing a `RoomcastError` refuses it. */
export type Identify = (hello: { token?: string; ticket?: string; guest?: string }) => { user: string; role: string; guest?: string };

export interface FakeHubOptions {
  /** Default: a token or ticket is the user's name with role `member`, anybody else is a new guest. */
  identify?: Identify;
  /** In which rooms comments wait for approval; default: in none. */
  moderated?: (room: string) => boolean;
  /** Who may join a room; default: all but `admin`, which is for role `admin`. */
  mayJoin?: (room: string, role: string) => boolean;
  /** The name of the node that answers. */
  node?: string;
}

/** The hub's end of one connection, for whoever brings another transport than the fake `WebSocket`. */
export interface Line {
  receive(frame: Frame): void;
  /** The other side is gone. */
  gone(): void;
}

interface Connection extends Member {
  user: string;
  role: string;
  close(code: number, reason: string): void;
}

let guests = 0;

export class FakeHub {
  /** Pass it to `new Roomcast({ url: "ws://fake", WebSocket: hub.WebSocket })`. */
  readonly WebSocket: typeof WebSocket;
  /** While true, nobody gets in: every attempt ends with 1006. */
  offline = false;
  /** Every frame that clients sent, oldest first. */
  readonly received: Frame[] = [];
  readonly #options: FakeHubOptions;
  readonly #rooms = new Map<string, FakeRoom>();
  readonly #connections = new Set<Connection>();
  readonly #refusals: { op: string; error: RoomcastError }[] = [];

  constructor(options: FakeHubOptions = {}) {
    this.#options = options;
    this.WebSocket = fakeWebSocket(this) as unknown as typeof WebSocket;
  }

  get connections(): number { return this.#connections.size; }

  /** A room, as it is on the hub: publish in it, count, offer, read its pending comments. */
  room(name: string): FakeRoom {
    let room = this.#rooms.get(name);
    if (!room) this.#rooms.set(name, (room = new FakeRoom(name, this.#options.moderated?.(name) ?? false)));
    return room;
  }

  /** The comments of all rooms that wait for a decision. */
  get pending(): (Held & { room: string })[] {
    return [...this.#rooms.values()].flatMap((room) => [...room.comments.values()].filter(({ state }) => state === "pending").map((held) => ({ ...held, room: room.name })));
  }

  /** Refuses the next `op` with this code. */
  refuseNext(op: string, code: string, retryMs?: number): void {
    this.#refusals.push({ op, error: new RoomcastError(code, `refused by the test: ${code}`, retryMs) });
  }

  /** Closes every connection: as a lost network does, unless told otherwise. */
  drop(code = 1006, reason = ""): void {
    for (const connection of [...this.#connections]) connection.close(code, reason);
  }

  /** Tells everybody to move, as a draining node does. */
  goaway(retryMs: number, reason = "restart"): void {
    for (const { send } of this.#connections) send({ push: "goaway", retry_ms: retryMs, reason });
  }

  /** Tells everybody that the token is about to end. */
  expiring(expiresAt = Date.now() + 60_000): void {
    for (const { send } of this.#connections) send({ push: "expiring", expires_at: expiresAt });
  }

  /** Puts a user out of a room. */
  kick(room: string, user: string, reason = "removed"): void {
    for (const member of [...this.room(room).members]) {
      if (member.user === user && this.room(room).members.delete(member)) member.send({ push: "kicked", room, reason });
    }
  }

  /** A lost continuity in a live room. */
  reset(room: string, reason = "history is too short"): void {
    this.room(room).forget();
    this.room(room).push({ push: "reset", epoch: this.room(room).epoch, offset: 0, reason });
  }

  /** Ends every connection and timer. */
  stop(): void {
    this.drop(1001, "the test is over");
    for (const room of this.#rooms.values()) room.stop();
  }

  /** Connects one client over a transport of the caller's. */
  line(send: (frame: Frame) => void, close: (code: number, reason: string) => void): Line {
    const gone = () => {
      if (!this.#connections.delete(connection)) return;
      for (const room of this.#rooms.values()) if (room.members.delete(connection)) room.push({ push: "presence", ...room.presence });
    };
    const connection: Connection = { user: "", role: "guest", send, close: (code, reason) => { gone(); close(code, reason); } };
    this.#connections.add(connection);
    return { receive: (frame) => this.#receive(connection, frame), gone };
  }

  #receive(connection: Connection, frame: Frame): void {
    this.received.push(frame);
    const { id, op, ...fields } = frame;
    try {
      const refusal = this.#refusals.findIndex((each) => each.op === op);
      if (refusal >= 0) throw this.#refusals.splice(refusal, 1)[0]!.error;
      const ok = this.#answer(connection, op as string, fields);
      if (id !== undefined) connection.send({ id, ok });
    } catch (error) {
      const { code, message, retryMs, current } = error instanceof RoomcastError ? error : new RoomcastError("internal", String(error));
      connection.send({ ...(id === undefined ? {} : { id }), error: { code, message, ...(retryMs === undefined ? {} : { retry_ms: retryMs }), ...(current ? { current } : {}) } });
      if (op === "connect") connection.close(code === "token_expired" ? 4002 : 4500, message);
    }
  }

  #answer(connection: Connection, op: string, fields: Frame): unknown {
    if (op === "connect") {
      const { guest, ...who } = (this.#options.identify ?? identify)(fields);
      Object.assign(connection, who);
      return { session: `session-${connection.user}`, ...who, ...(guest === undefined ? {} : { guest }), ping_ms: 25_000, node: this.#options.node ?? "fake", limits: { frame_bytes: 65_536 } };
    }
    if (op === "ping") return { now: Date.now() };
    if (op === "refresh") return { expires_at: Date.now() + 3_600_000 };
    if (op === "claim") return fields;
    if (op === "confirm" || op === "release") {
      for (const room of this.#rooms.values()) {
        const ok = room.settle(connection, op, fields.reservation as string);
        if (ok) return ok;
      }
      throw new RoomcastError("not_found", "no such reservation");
    }
    const room = this.room(fields.room as string);
    if (op === "join") {
      const mayJoin = this.#options.mayJoin ?? ((name: string, role: string) => name !== "admin" || role === "admin");
      if (!mayJoin(room.name, connection.role)) throw new RoomcastError("forbidden", `role ${connection.role} may not join here`);
      const ok = room.join(connection, fields);
      queueMicrotask(() => room.push({ push: "presence", ...room.presence }));
      return ok;
    }
    if (op === "leave") {
      if (room.members.delete(connection)) room.push({ push: "presence", ...room.presence });
      return {};
    }
    return room.answer(connection, op, fields);
  }
}

const identify: Identify = ({ token, ticket, guest }) => {
  const user = token ?? ticket;
  if (user !== undefined) return { user, role: "member" };
  const secret = guest ?? `guest-secret-${++guests}`;
  return { user: secret.replace("guest-secret-", "guest-"), role: "guest", guest: secret };
};

/** The part of `WebSocket` that the client uses, JSON only. */
function fakeWebSocket(hub: FakeHub) {
  return class FakeWebSocket {
    readyState = 0;
    binaryType = "blob";
    onopen: (() => void) | null = null;
    onmessage: ((event: { data: string }) => void) | null = null;
    onclose: ((event: { code: number; reason: string }) => void) | null = null;
    #line: Line | undefined;

    constructor(readonly url: string, readonly protocols: string[] = []) {
      if (protocols[0] !== undefined && protocols[0] !== "roomcast.v1.json") throw new Error("the fake hub speaks JSON only");
      queueMicrotask(() => {
        if (this.readyState !== 0) return;
        if (hub.offline) return this.#closed(1006, "");
        this.#line = hub.line((frame) => this.#say(frame), (code, reason) => queueMicrotask(() => this.#closed(code, reason)));
        this.readyState = 1;
        this.onopen?.();
      });
    }

    send(data: string): void {
      const frame = JSON.parse(data) as Frame;
      queueMicrotask(() => this.#line?.receive(frame));
    }

    close(): void {
      this.readyState = 3;
      this.#line?.gone();
      this.#line = undefined;
    }

    #say(frame: Frame): void {
      // Through text, as on the wire: no object is shared between the two sides.
      const data = JSON.stringify(frame);
      queueMicrotask(() => { if (this.readyState === 1) this.onmessage?.({ data }); });
    }

    #closed(code: number, reason: string): void {
      if (this.readyState === 3) return;
      this.close();
      this.onclose?.({ code, reason });
    }
  };
}
