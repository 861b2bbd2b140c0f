/** Where a client stands with its hub. */
export type State = {
    readonly name: "idle";
} | {
    readonly name: "connecting";
    readonly attempt: number;
} | {
    readonly name: "connected";
    readonly session: Session;
} | {
    readonly name: "reconnecting";
    readonly inMs: number;
    readonly attempt: number;
    readonly code: number;
    readonly reason: string;
} | {
    readonly name: "closed";
    readonly code: number;
    readonly reason: string;
};
/** The hub's answer to `connect`. */
export interface Session {
    readonly session: string;
    readonly user: string;
    readonly role: string;
    readonly node: string;
    readonly ping_ms: number;
    readonly guest?: string;
    readonly expires_at?: number;
    readonly limits?: Readonly<Record<string, unknown>>;
}
/** Where in a room's history a client stands. */
export interface Position {
    readonly epoch: string;
    readonly offset: number;
}
/**
 * A must-deliver event: in order, once. `replay` is true where it came with the answer to a join, and not pushed. After a
 * long gap the answer holds the oldest of what was missed; the rest is pushed, and looks like what is live.
 */
export interface RoomEvent {
    readonly event: string;
    readonly data: unknown;
    readonly offset: number;
    readonly at: number;
    readonly from?: string;
    readonly replay: boolean;
}
/** A fleeting message: no history, may be dropped under load. */
export interface Signal {
    readonly event: string;
    readonly data: unknown;
    readonly from?: string;
}
/** The newest value of one counter; `version` rises. */
export interface Count {
    readonly target: string;
    readonly counter: string;
    readonly value: number;
    readonly version: number;
    /** True while a change of this client's own is in the value and not yet confirmed by the hub. */
    readonly pending?: boolean;
}
/** How many are in a room: sockets, and the people behind them. */
export interface Presence {
    readonly connections: number;
    readonly users: number;
}
export interface JoinReply extends Position {
    readonly recovered: boolean;
    readonly events?: readonly Omit<RoomEvent, "replay">[];
    readonly presence?: Presence;
    readonly counts?: readonly Count[];
}
/** `version` lets the value take its place among the pushed ones. */
export interface CountReply {
    readonly value: number;
    readonly version: number;
}
export interface LikeReply extends CountReply {
    readonly on: boolean;
}
/** Where `pending`, only its author and admins see the comment until it is approved. */
export interface CommentReply {
    readonly comment: string;
    readonly pending: boolean;
    readonly version: number;
    readonly at: number;
}
export interface ModerateReply {
    readonly state: "approved" | "rejected";
    readonly version: number;
}
export type UploadState = "started" | "progress" | "complete" | "failed";
export interface UploadReply {
    readonly state: UploadState;
    readonly progress: number;
}
export interface ReserveReply {
    readonly reservation: string;
    readonly remaining: number;
    readonly expires_at: number;
}
export interface SettleReply {
    readonly state: "confirmed" | "released" | "expired";
    readonly remaining: number;
}
export interface ClaimReply {
    readonly scope: string;
    readonly name: string;
}
/** A small versioned document; `version` 0 and `value` null where there is none yet. */
export interface Doc {
    readonly value: unknown;
    readonly version: number;
}
/** A comment as this client knows it. `sending` is on its way, `pending` waits for approval and is seen by its author only. */
export interface Comment {
    readonly comment: string;
    readonly target: string;
    readonly text: string;
    readonly user: string;
    readonly at: number;
    readonly state: "sending" | "pending" | "visible";
}
/** A counter with this client's own changes in it, before the hub has confirmed them. */
export interface CounterValue {
    readonly value: number;
    readonly pending: boolean;
}
/** `on` is undefined while this client cannot know whether its user likes the target. */
export interface LikeValue extends CounterValue {
    readonly on: boolean | undefined;
}
/** `remaining` is undefined where nothing is offered, as far as is known. */
export interface StockValue {
    readonly remaining: number | undefined;
    readonly pending: boolean;
}
export interface HoldValue {
    readonly reservation: string;
    readonly item: string;
    readonly quantity: number;
    /** By this device's clock, in Unix milliseconds. */
    readonly expiresAt: number;
    readonly state: "held" | "confirmed" | "released" | "expired";
}
export interface HistoryReply extends Position {
    readonly events: readonly Omit<RoomEvent, "replay">[];
}
/** One user in a room, and over how many sockets. */
export interface Member {
    readonly user: string;
    readonly connections: number;
}
export interface PresenceReply extends Presence {
    readonly members: readonly Member[];
    readonly cursor?: string;
}
/** Anything on the wire. */
export type Frame = Record<string, unknown>;
/** What may accompany any call. */
export interface CallOptions {
    /** Give up after so many milliseconds, waiting for a connection included. */
    timeoutMs?: number;
    signal?: AbortSignal;
}
export interface KeyedOptions extends CallOptions {
    /** Makes a retry harmless for 10 minutes. Made up when absent. */
    key?: string;
}
export type Codec = "json" | "msgpack";
export interface Options {
    /** `wss://…/ws`; default: `/ws` on the page's own host. */
    url?: string;
    /** Wire format; default `json`. */
    codec?: Codec;
    /** A fixed JWT. For anything longer-lived use `getToken`. */
    token?: string;
    /** Asked at every connect, and when the hub says the token is expiring. Nothing means: as a guest. */
    getToken?: (why: "connect" | "expiring" | "expired") => Promise<string | undefined> | string | undefined;
    /** Asked at every connect instead of a token: a ticket is used up by its first use. */
    getTicket?: () => Promise<string> | string;
    /** Keep the guest secret under this key in `localStorage`, so that a reload stays the same guest. */
    guestKey?: string;
    /** For other runtimes and tests. */
    WebSocket?: typeof WebSocket;
}
export interface ClientEvents {
    state: State;
    /** A failure nobody is waiting for: a bad frame, a room that could not be joined, `getToken` throwing. */
    error: Error;
}
export interface RoomEvents {
    /** Every must-deliver event of the room. */
    event: RoomEvent;
    signal: Signal;
    count: Count;
    presence: Presence;
    /** Joined for the first time, or anew after a reset. */
    joined: Position;
    /**
     * Joined again after a lost connection, with nothing lost. `missed` counts the events that came with the answer: after a
     * long gap these are the oldest, and the rest follows as pushes.
     */
    recovered: {
        readonly missed: number;
    };
    /** Continuity was lost: what was built from this room's events must be built anew. `reload` asks for the recent ones. */
    reset: {
        readonly reason: string;
    };
    kicked: {
        readonly reason: string;
    };
    error: Error;
}
