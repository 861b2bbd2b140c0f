import type { Count, Frame, Position } from "@roomcast/client";
/** Someone who is connected. */
export interface Member {
    readonly user: string;
    readonly role: string;
    send(frame: Frame): void;
}
interface Entry {
    readonly event: string;
    readonly data: unknown;
    readonly offset: number;
    readonly at: number;
    readonly from?: string;
}
export interface Held {
    readonly comment: string;
    readonly target: string;
    readonly text: string;
    readonly user: string;
    readonly at: number;
    state: "pending" | "visible" | "rejected";
    version: number;
}
export declare class FakeRoom {
    #private;
    readonly name: string;
    readonly moderated: boolean;
    epoch: string;
    offset: number;
    log: Entry[];
    readonly members: Set<Member>;
    readonly comments: Map<string, Held>;
    constructor(name: string, moderated: boolean);
    get presence(): {
        connections: number;
        users: number;
    };
    push(frame: Frame): void;
    publish(event: string, data: unknown, from?: string): Position;
    /** Sets a counter, `by` more than it was, and tells it. */
    count(target: string, counter: string, by: number): Count;
    value(target: string, counter: string): Count;
    /** Offers so many of an item in all, sold and held ones included. */
    offer(item: string, stock: number, perUser: number, holdMs: number): void;
    /** Ends the room's past: whoever comes back has missed what nobody can tell. */
    forget(): void;
    join(member: Member, { since, recent }: {
        since?: Position;
        recent?: number;
    }): Frame;
    /** Answers an operation in this room. */
    answer(member: Member, op: string, fields: Frame): unknown;
    comment(user: string, target: string, text: string): Frame;
    moderate(comment: string, decision: "approve" | "reject", version: number): Frame;
    /** Confirms or releases; nothing where the reservation is of another room. */
    settle(member: Member, op: string, reservation: string): Frame | undefined;
    /** Ends what the room still waits for. */
    stop(): void;
}
export {};
