import { Handle } from "./handle";
import type { Live } from "./live";
import type { Comment, CommentReply, KeyedOptions, RoomEvent } from "./types";
/** A target's comments, oldest first, the newest 500 of them. */
export declare class Comments extends Handle<readonly Comment[]> {
    #private;
    /** @internal */
    constructor(live: Live, target: string);
    /** Sends a comment and shows it at once. */
    add(text: string, options?: KeyedOptions): Promise<CommentReply>;
    /** Adds a comment that is known from elsewhere: from the HTTP API, or kept from an earlier visit. */
    remember(comment: Comment): void;
    /** @internal */
    hear({ event, data, at }: RoomEvent): void;
    /** @internal */
    reset(): void;
}
