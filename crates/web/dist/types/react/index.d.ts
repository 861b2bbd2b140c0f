import type { CallOptions, Comment, CountReply, CounterValue, Handle, LikeReply, LikeValue, Presence, Roomcast, Room, State } from "@roomcast/client";
import { type ReactNode } from "react";
/** Gives the client to every hook below. */
export declare function RoomcastProvider({ client, children }: {
    client: Roomcast;
    children?: ReactNode;
}): ReactNode;
/** The client of the nearest provider. */
export declare function useRoomcast(): Roomcast;
/** Where the connection stands. */
export declare function useConnection(): State;
/** A room as a component sees it; `room` is undefined until the component is mounted. */
export interface RoomView {
    readonly room: Room | undefined;
    readonly joined: boolean;
    /** Why the hub refused, or removed this client. */
    readonly error: Error | undefined;
}
/** Holds a room while the component is mounted; all components that name it share one membership. */
export declare function useRoom(name: string, options?: {
    recent?: number;
}): RoomView;
/** The value of any handle, or `otherwise` while there is none. The handle must stay the same between renders. */
export declare function useHandle<T extends object>(handle: Handle<T> | undefined, otherwise: T): T;
/** A counter of a target, and the way to add to it. */
export declare function useCounter(room: Room | undefined, target: string, counter: string): CounterValue & {
    add(by?: number, options?: CallOptions): Promise<CountReply>;
};
/** A target's likes, and the way to like it. */
export declare function useLikes(room: Room | undefined, target: string): LikeValue & {
    set(on: boolean): Promise<LikeReply>;
    toggle(): Promise<LikeReply>;
};
/** How many are in a room. */
export declare function usePresence(room: Room | undefined): Presence;
/** A target's comments, oldest first. */
export declare function useComments(room: Room | undefined, target: string): readonly Comment[];
