import { Emitter } from "./emitter";
import { Room } from "./room";
import type { CallOptions, ClaimReply, ClientEvents, Frame, Options, Session, State } from "./types";
export declare class Roomcast extends Emitter<ClientEvents> {
    #private;
    constructor(options?: Options);
    get state(): State;
    get session(): Session | undefined;
    /** Opens the connection and keeps it. Harmless where it is open already. */
    connect(): this;
    /** Ends the connection for good; `connect` may begin anew. */
    close(): void;
    /** A handle on a room, which is joined if it is not yet. `recent` asks for so many past events at the first join. */
    room(name: string, options?: {
        recent?: number;
    }): Room;
    /**
     * Any operation of the protocol, by its own fields: those that have no method here are for admins. It is sent once, and
     * not again where its answer was lost.
     */
    call(op: string, fields?: Frame, options?: CallOptions): Promise<unknown>;
    /** The hub's clock, in Unix milliseconds. */
    ping(options?: CallOptions): Promise<number>;
    /** Makes a name this user's within its scope; another's is a `conflict`. */
    claim(scope: string, name: string, options?: CallOptions): Promise<ClaimReply>;
    /** Tries at once instead of waiting out the backoff. */
    retryNow(): void;
}
