import type { Frame } from "@roomcast/client";
import { FakeRoom, type Held } from "./fake-room";
export type { Held, Member } from "./fake-room";
/** Who a `connect` frame makes; throwing a `RoomcastError` refuses it. */
export type Identify = (hello: {
    token?: string;
    ticket?: string;
    guest?: string;
}) => {
    user: string;
    role: string;
    guest?: string;
};
export interface FakeHubOptions {
    /** Default: a token or ticket is the user's name with role `member`, anybody else is a new guest. */
    identify?: Identify;
    /** In which rooms comments wait for approval; default: in none. */
    moderated?: (room: string) => boolean;
    /** Who may join a room; default: all but `admin`, which is for role `admin`. */
    mayJoin?: (room: string, role: string) => boolean;
    /** The name of the node that answers. */
    node?: string;
}
/** The hub's end of one connection, for whoever brings another transport than the fake `WebSocket`. */
export interface Line {
    receive(frame: Frame): void;
    /** The other side is gone. */
    gone(): void;
}
export declare class FakeHub {
    #private;
    /** Pass it to `new Roomcast({ url: "ws://fake", WebSocket: hub.WebSocket })`. */
    readonly WebSocket: typeof WebSocket;
    /** While true, nobody gets in: every attempt ends with 1006. */
    offline: boolean;
    /** Every frame that clients sent, oldest first. */
    readonly received: Frame[];
    constructor(options?: FakeHubOptions);
    get connections(): number;
    /** A room, as it is on the hub: publish in it, count, offer, read its pending comments. */
    room(name: string): FakeRoom;
    /** The comments of all rooms that wait for a decision. */
    get pending(): (Held & {
        room: string;
    })[];
    /** Refuses the next `op` with this code. */
    refuseNext(op: string, code: string, retryMs?: number): void;
    /** Closes every connection: as a lost network does, unless told otherwise. */
    drop(code?: number, reason?: string): void;
    /** Tells everybody to move, as a draining node does. */
    goaway(retryMs: number, reason?: string): void;
    /** Tells everybody that the token is about to end. */
    expiring(expiresAt?: number): void;
    /** Puts a user out of a room. */
    kick(room: string, user: string, reason?: string): void;
    /** A lost continuity in a live room. */
    reset(room: string, reason?: string): void;
    /** Ends every connection and timer. */
    stop(): void;
    /** Connects one client over a transport of the caller's. */
    line(send: (frame: Frame) => void, close: (code: number, reason: string) => void): Line;
}
