// A WebSocket that goes nowhere: tests read what was sent, and say what the hub answers.

import { Decoder, Encoder } from "@msgpack/msgpack";
import { vi } from "vitest";
import { Roomcast } from "../client/roomcast";
import type { Frame, Options } from "../client/types";

export class FakeSocket {
  static all: FakeSocket[] = [];
  static get last(): FakeSocket { return FakeSocket.all.at(-1)!; }

  readyState = 0;
  binaryType = "blob";
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: unknown }) => void) | null = null;
  onclose: ((event: { code: number; reason: string }) => void) | null = null;
  closedByClient = false;
  readonly raw: unknown[] = [];

  constructor(readonly url: string, readonly protocols: string[]) {
    FakeSocket.all.push(this);
  }

  get binary(): boolean { return this.protocols[0] === "roomcast.v1.msgpack"; }

  get sent(): Frame[] {
    return this.raw.map((data) => (typeof data === "string" ? JSON.parse(data) : new Decoder().decode(data as Uint8Array)) as Frame);
  }

  /** The frames of one op. */
  ops(op: string): Frame[] { return this.sent.filter((frame) => frame.op === op); }

  send(data: unknown): void {
    if (this.readyState !== 1) throw new Error("not open");
    this.raw.push(data);
  }

  close(): void {
    this.closedByClient = true;
    this.readyState = 3;
  }

  open(): void {
    this.readyState = 1;
    this.onopen?.();
  }

  say(frame: Frame): void {
    const data = this.binary ? new Encoder().encode(frame).slice().buffer : JSON.stringify(frame);
    this.onmessage?.({ data });
  }

  ok(id: unknown, ok: Frame = {}): void { this.say({ id, ok }); }

  drop(code: number, reason = ""): void {
    this.readyState = 3;
    this.onclose?.({ code, reason });
  }
}

export const SESSION = { session: "s1", user: "g1", role: "guest", node: "node-a", ping_ms: 25_000, limits: { frame_bytes: 65_536 } };

export function client(options: Options = {}): Roomcast {
  return new Roomcast({ url: "ws://hub/ws", WebSocket: FakeSocket as unknown as typeof WebSocket, ...options });
}

/** Lets promises run; with fake timers no time passes. */
export async function settle(): Promise<void> {
  await vi.advanceTimersByTimeAsync(0);
}

/** Opens the newest socket and answers its `connect`. */
export async function accept(ok: Frame = {}): Promise<FakeSocket> {
  await settle();
  const socket = FakeSocket.last;
  socket.open();
  socket.ok(1, { ...SESSION, ...ok });
  await settle();
  return socket;
}

/** A client that is connected, and its socket. */
export async function connected(options: Options = {}): Promise<{ rc: Roomcast; socket: FakeSocket }> {
  const rc = client(options).connect();
  return { rc, socket: await accept() };
}

/** Answers the newest `join`. */
export function answerJoin(socket: FakeSocket, ok: Frame = {}): void {
  socket.ok(socket.ops("join").at(-1)!.id, { epoch: "e1", offset: 0, recovered: false, events: [], presence: { connections: 1, users: 1 }, ...ok });
}
