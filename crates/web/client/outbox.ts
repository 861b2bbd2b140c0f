// Calls that wait for a connection or for their answer. Bounded in number, bytes and time; it knows no socket.

import { RoomcastError } from "./errors";
import type { CallOptions, Frame } from "./types";

const MAX_CALLS = 100;
const MAX_BYTES = 256 * 1024;
/** `{"id":…,"op":"…"}` around the fields. */
const ENVELOPE_BYTES = 40;

export interface Call {
  readonly op: string;
  readonly fields: Frame;
  /** The room whose (re)join must have been answered before this call may go out. */
  readonly room: string | undefined;
  /** Safe to send again on another connection: it carries a key, changes nothing, or sets what is set already. */
  readonly repeatable: boolean;
  readonly bytes: number;
  /** Rises with each call made. */
  readonly order: number;
  /** When it is given up. */
  readonly until: number;
  /** The later call that went out while this one was under way, and says otherwise. */
  overtakenBy: Call | undefined;
  /** Not to be sent before this moment: the hub asked for patience. */
  notBefore: number;
  settle(error: Error | undefined, ok?: unknown): void;
}

export class Outbox {
  /** In the order they were made. */
  #waiting: Call[] = [];
  readonly #inFlight = new Map<number, Call>();
  #bytes = 0;
  #made = 0;

  /** Queues a call and promises its answer. `how.bytes` is the size of `fields` on the wire. */
  add(op: string, fields: Frame, how: { room?: string | undefined; repeatable: boolean; timeoutMs: number; bytes: number }, signal?: CallOptions["signal"]): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(signal.reason);
      const bytes = how.bytes + ENVELOPE_BYTES;
      if (this.#waiting.length + this.#inFlight.size >= MAX_CALLS || this.#bytes + bytes > MAX_BYTES) {
        return reject(new RoomcastError("outbox_full", "too many calls are waiting for an answer"));
      }
      const abort = () => call.settle(signal?.reason);
      const timer = setTimeout(() => call.settle(new RoomcastError("timeout", `no answer to ${op} within ${how.timeoutMs} ms`)), how.timeoutMs);
      const call: Call = {
        op, fields, bytes, room: how.room, repeatable: how.repeatable, order: ++this.#made, until: Date.now() + how.timeoutMs, overtakenBy: undefined, notBefore: 0,
        settle: (error, ok) => {
          if (!this.#remove(call)) return;
          clearTimeout(timer);
          signal?.removeEventListener("abort", abort);
          if (error === undefined) resolve(ok);
          else reject(error);
        },
      };
      signal?.addEventListener("abort", abort);
      this.#bytes += bytes;
      this.#waiting.push(call);
    });
  }

  /**
   * Sends what may go now, in order: a call that has to wait holds up the later ones of its room, and nothing else.
   * `send` returns the id it used, or nothing where it settled the call itself. Returns when the next call is due, of
   * those that wait for a moment.
   */
  flush(now: number, ready: (call: Call) => boolean, send: (call: Call) => number | undefined): number | undefined {
    const held = new Set<string | undefined>();
    let next: number | undefined;
    for (const call of [...this.#waiting]) {
      if (call.notBefore > now) {
        next = Math.min(next ?? Infinity, call.notBefore);
        if (call.room !== undefined) held.add(call.room);
        continue;
      }
      if (held.has(call.room) || !ready(call)) continue;
      const id = send(call);
      if (id === undefined) continue;
      this.#waiting.splice(this.#waiting.indexOf(call), 1);
      for (const earlier of this.#inFlight.values()) if (contradicts(call, earlier)) earlier.overtakenBy = call;
      this.#inFlight.set(id, call);
    }
    return next;
  }

  /** The call that waits for the answer `id`. */
  answered(id: number): Call | undefined {
    return this.#inFlight.get(id);
  }

  /** To repeat this call would undo what was said after it, and is not in line to be said again. */
  overtaken({ overtakenBy }: Call): boolean {
    return overtakenBy !== undefined && !this.#waiting.includes(overtakenBy);
  }

  /** Puts an answered call back in line, before the calls that were made after it. */
  again(id: number, notBefore: number): void {
    const call = this.#inFlight.get(id);
    if (!call) return;
    this.#inFlight.delete(id);
    call.notBefore = notBefore;
    this.#line([call]);
  }

  /** The connection went: repeatable calls go back in line, the others have an unknown fate and fail. */
  connectionLost(error: Error): void {
    const lost = [...this.#inFlight.values()];
    const kept = lost.filter((call) => call.repeatable);
    for (const call of lost) if (!call.repeatable) call.settle(error);
    this.#inFlight.clear();
    this.#line(kept);
    for (const call of kept.reverse()) if (this.overtaken(call)) call.settle(error);
  }

  #line(calls: readonly Call[]): void {
    this.#waiting.push(...calls);
    this.#waiting.sort((a, b) => a.order - b.order);
  }

  /** Fails what is in flight, or everything. */
  fail(which: "in flight" | "all", error: Error): void {
    for (const call of [...this.#inFlight.values()]) call.settle(error);
    if (which === "all") for (const call of [...this.#waiting]) call.settle(error);
  }

  #remove(call: Call): boolean {
    const at = this.#waiting.indexOf(call);
    if (at >= 0) this.#waiting.splice(at, 1);
    else {
      const id = [...this.#inFlight].find(([, held]) => held === call)?.[0];
      if (id === undefined) return false;
      this.#inFlight.delete(id);
    }
    this.#bytes -= call.bytes;
    return true;
  }
}

/** Of the calls that may be repeated only a like sets what another sets differently. */
const contradicts = (call: Call, { op, room, fields }: Call): boolean => op === "like" && call.op === op && call.room === room && call.fields.target === fields.target;
