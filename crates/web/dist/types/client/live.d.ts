import type { CommentBook } from "./comments";
import type { Counts } from "./counts";
import { Handle } from "./handle";
import type { CallOptions, Count, CounterValue, CountReply, Frame, KeyedOptions, LikeReply, LikeValue } from "./types";
/** What a handle needs of its room. */
export interface Live {
    readonly counts: Counts;
    readonly liked: Liked;
    readonly book: CommentBook;
    call(op: string, fields: Frame, options?: CallOptions): Promise<unknown>;
    /** The same under a key, so that a repetition is harmless. */
    keyed(op: string, fields: Frame, options?: KeyedOptions): Promise<unknown>;
    /** To the hub itself, and not to a room. */
    ask(op: string, fields: Frame, options?: CallOptions): Promise<unknown>;
    onCount(listener: (count: Count) => void): () => void;
    user(): string | undefined;
}
export declare const watchCount: (live: Live, target: string, counter: string) => (changed: () => void) => () => void;
/** What this client's user likes: `on` as last asked for, `sure` as last answered. */
export declare class Liked {
    #private;
    get(target: string): boolean | undefined;
    /** How the number moves, and what to call when it is known how it ended. */
    ask(target: string, on: boolean): {
        by: number;
        ended: (on: boolean | undefined) => void;
    };
}
/** Likes or takes back, with the number moving at once. */
export declare function like(live: Live, target: string, on: boolean, options?: CallOptions): Promise<LikeReply>;
/** Adds to a counter, with the number moving at once. */
export declare function add(live: Live, target: string, counter: string, by: number, options?: KeyedOptions): Promise<CountReply>;
/** A target's likes. */
export declare class Likes extends Handle<LikeValue> {
    #private;
    /** @internal */
    constructor(live: Live, target: string);
    set(on: boolean, options?: CallOptions): Promise<LikeReply>;
    toggle(options?: CallOptions): Promise<LikeReply>;
    /** Tells the handle what an application knows from an earlier visit: the hub counts likes, it does not list them. */
    remember(on: boolean): void;
}
/** One counter of a target. */
export declare class Counter extends Handle<CounterValue> {
    /** Adds `by`, 1–100. */
    readonly add: (by?: number, options?: KeyedOptions) => Promise<CountReply>;
    /** @internal */
    constructor(live: Live, target: string, counter: string);
}
