import { Handle } from "./handle";
import type { Live } from "./live";
import type { Comment, CommentReply, KeyedOptions, RoomEvent } from "./types";
/**
 * What this client knows of a room's comments, whether or not anybody has asked for them yet: shared by all who hold the
 * room, so that who comes later sees what is there.
 */
export declare class CommentBook {
    #private;
    /** `tell` is called with each target whose comments have changed. */
    constructor(user: () => string | undefined, tell: (target: string) => void);
    /** A target's comments, oldest first; what is being sent comes last. */
    of(target: string): readonly Comment[];
    keep(comment: Comment): void;
    /** What was being sent has become a comment, unless its event has told of that already; or nothing. */
    sent(sending: Comment, became: Comment | undefined): void;
    /** An event of the room: a comment, the end of one, or something else. */
    hear({ event, data, at }: Pick<RoomEvent, "event" | "data" | "at">): void;
    /** Forgets what the room will tell anew; one's own that wait or are on their way stay. */
    reset(): void;
}
/** A target's comments, oldest first, the newest 500 of them. */
export declare class Comments extends Handle<readonly Comment[]> {
    #private;
    /** @internal */
    constructor(live: Live, target: string);
    /** Sends a comment and shows it at once. To send one again that failed, give both the same `key`: it is stored once. */
    add(text: string, options?: KeyedOptions): Promise<CommentReply>;
    /** Adds a comment that is known from elsewhere: from the HTTP API, or kept from an earlier visit. */
    remember(comment: Comment): void;
    /** @internal */
    changed(): void;
}
