import type { CallOptions, Frame } from "./types";
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
export declare class Outbox {
    #private;
    /** Queues a call and promises its answer. `how.bytes` is the size of `fields` on the wire. */
    add(op: string, fields: Frame, how: {
        room?: string | undefined;
        repeatable: boolean;
        timeoutMs: number;
        bytes: number;
    }, signal?: CallOptions["signal"]): Promise<unknown>;
    /**
     * Sends what may go now, in order: a call that has to wait holds up the later ones of its room, and nothing else.
     * `send` returns the id it used, or nothing where it settled the call itself. Returns when the next call is due, of
     * those that wait for a moment.
     */
    flush(now: number, ready: (call: Call) => boolean, send: (call: Call) => number | undefined): number | undefined;
    /** The call that waits for the answer `id`. */
    answered(id: number): Call | undefined;
    /** To repeat this call would undo what was said after it, and is not in line to be said again. */
    overtaken({ overtakenBy }: Call): boolean;
    /** Puts an answered call back in line, before the calls that were made after it. */
    again(id: number, notBefore: number): void;
    /** The connection went: repeatable calls go back in line, the others have an unknown fate and fail. */
    connectionLost(error: Error): void;
    /** Fails what is in flight, or everything. */
    fail(which: "in flight" | "all", error: Error): void;
}
