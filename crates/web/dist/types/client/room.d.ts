import { CommentBook, Comments } from "./comments";
import { Counts } from "./counts";
import { Emitter } from "./emitter";
import { RoomcastError } from "./errors";
import { Handle } from "./handle";
import { Counter, Liked, Likes } from "./live";
import { Stock } from "./stock";
import type { CallOptions, CommentReply, CountReply, Doc, Frame, HistoryReply, JoinReply, KeyedOptions, LikeReply, ModerateReply, Position, Presence, PresenceReply, RoomEvents } from "./types";
import { Upload } from "./upload";
/** What a room needs of its client. */
export interface RoomHost {
    call(op: string, fields: Frame, how: {
        room?: string;
        repeatable: boolean;
    }, options?: CallOptions): Promise<unknown>;
    /** Sends without asking for an answer. */
    tell(op: string, fields: Frame): void;
    leave(state: RoomState): void;
    rejoin(state: RoomState): void;
    /** Why there will be no answer, where the connection was ended for good. */
    ended(): RoomcastError | undefined;
}
type Status = "wanted" | "joining" | "joined" | "failed" | "kicked";
export declare class RoomState {
    #private;
    readonly name: string;
    readonly user: () => string | undefined;
    status: Status;
    holders: Set<Room>;
    recent: number | undefined;
    position: Position | undefined;
    presence: Presence | undefined;
    failure: Error | undefined;
    /** How often a join was refused with "later" since the last success. */
    refusals: number;
    readonly counts: Counts;
    readonly liked: Liked;
    readonly book: CommentBook;
    /** `user` tells who this client is, while it is connected. */
    constructor(name: string, user: () => string | undefined);
    emit<Name extends keyof RoomEvents>(name: Name, value: RoomEvents[Name]): void;
    /** To be joined at the next opportunity: what was refused before is no answer any more. */
    want(): void;
    joinFrame(): Frame;
    /** `since` is what the join asked for. Reset comes before the events it makes necessary. */
    joined(reply: JoinReply, since: Position | undefined): void;
    failed(error: Error): void;
    /** A push for this room. */
    push(frame: Frame): void;
}
/** One holder's view of a room. The room is left when its last holder has left. */
export declare class Room extends Emitter<RoomEvents> {
    #private;
    /** @internal */
    constructor(state: RoomState, host: RoomHost);
    get name(): string;
    /** True while the hub has this client in the room. */
    get isJoined(): boolean;
    get position(): Position | undefined;
    get lastPresence(): Presence | undefined;
    /** The newest known value of a counter, own changes on their way included; 0 where none was heard. */
    value(target: string, counter: string): number;
    /** How many like a target, and whether this user does. */
    likes(target: string): Likes;
    /** A counter of a target: `download`, `view`, … */
    counter(target: string, counter: string): Counter;
    /** A target's comments as far as this room's events have told of them; the same handle each time. */
    comments(target: string): Comments;
    /** @internal */
    commented(target: string): void;
    /** What is left of an item, and the way to get hold of one. */
    stock(item: string): Stock;
    /** An upload of this user's own. */
    upload(target: string): Upload;
    /** How many are here. */
    people(): Handle<Presence>;
    /** Resolves once joined; rejects where the hub refuses for good, and with `closed` where nobody waits for it any more. */
    ready(): Promise<void>;
    /**
     * Sends an event to everyone in the room; retried under one key until it is acknowledged. The names `comment`,
     * `comment_deleted`, `doc`, `purged`, `upload` and all that begin with `admin:` are `forbidden` to guests and members.
     */
    publish(event: string, data: unknown, options?: KeyedOptions): Promise<Position>;
    /**
     * Sends a fleeting message: it is not kept, not queued, and not sent where the room is not joined just now. One that is
     * too large for the hub is not sent either; the client's `error` tells of it. `publish` says which names are reserved.
     */
    signal(event: string, data?: unknown): void;
    /** Sets or takes back this user's like; setting it twice is setting it once. */
    like(target: string, on?: boolean, options?: CallOptions): Promise<LikeReply>;
    /** Adds `by` (1–100) to a counter. */
    count(target: string, counter: string, by?: number, options?: KeyedOptions): Promise<CountReply>;
    /** Sends a comment; `comments(target).add` also shows it at once. */
    comment(target: string, text: string, options?: KeyedOptions): Promise<CommentReply>;
    /** Decides about a pending comment, by the version that was looked at; a `conflict` tells what stands in `current`. */
    moderate(comment: string, decision: "approve" | "reject", version: number, options?: CallOptions): Promise<ModerateReply>;
    /** Reads a document; version 0 where there is none. */
    get(doc: string, options?: CallOptions): Promise<Doc>;
    /** Writes a document over the `version` that was read; a `conflict` tells version and value in `current`. */
    put(doc: string, value: unknown, version: number, options?: CallOptions): Promise<{
        version: number;
    }>;
    /** Events after `since`, or before the offset `before`; oldest first either way. */
    history(query?: {
        since?: Position;
        before?: number;
        limit?: number;
    }, options?: CallOptions): Promise<HistoryReply>;
    presence(page?: {
        cursor?: string;
        limit?: number;
    }, options?: CallOptions): Promise<PresenceReply>;
    /** Joins anew from nothing: the answer to a `reset` for who shows the room's recent events. */
    reload(): void;
    /** Gives up this handle and its listeners. */
    leave(): void;
}
export {};
