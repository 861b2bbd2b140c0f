// @roomcast/client/react: the client's live values as hooks. React is asked for nothing but `useSyncExternalStore`,
// `useMemo` and a context; whoever renders on a server gets the state before any connection.

import type { CallOptions, Comment, Comments, CountReply, CounterValue, Handle, LikeReply, LikeValue, Presence, Roomcast, Room, State } from "@roomcast/client";
import { createContext, createElement, type ReactNode, useContext, useMemo, useSyncExternalStore } from "react";

const Client = createContext<Roomcast | undefined>(undefined);

/** Gives the client to every hook below. */
export function RoomcastProvider({ client, children }: { client: Roomcast; children?: ReactNode }): ReactNode {
  return createElement(Client.Provider, { value: client }, children);
}

/** The client of the nearest provider. */
export function useRoomcast(): Roomcast {
  const client = useContext(Client);
  if (!client) throw new Error("no <RoomcastProvider> above");
  return client;
}

/** Where the connection stands. */
export function useConnection(): State {
  const client = useRoomcast();
  const [subscribe, read] = useMemo(() => [(changed: () => void) => client.on("state", changed), () => client.state] as const, [client]);
  return useSyncExternalStore(subscribe, read, read);
}

/** A room as a component sees it; `room` is undefined until the component is mounted. */
export interface RoomView {
  readonly room: Room | undefined;
  readonly joined: boolean;
  /** Why the hub refused, or removed this client. */
  readonly error: Error | undefined;
}

const NO_ROOM: RoomView = { room: undefined, joined: false, error: undefined };

/** Holds a room while the component is mounted; all components that name it share one membership. */
export function useRoom(name: string, options: { recent?: number } = {}): RoomView {
  const client = useRoomcast();
  const { recent } = options;
  const [subscribe, read] = useMemo(() => {
    let view = NO_ROOM;
    const holder = (changed: () => void) => {
      const room = client.room(name, recent === undefined ? {} : { recent });
      const show = (error: Error | undefined) => {
        if (view.room === room && view.joined === room.isJoined && view.error === error) return;
        view = { room, joined: room.isJoined, error };
        changed();
      };
      const ends = [
        room.on("joined", () => show(undefined)),
        room.on("recovered", () => show(undefined)),
        // The handles have dropped what they knew. Of several holders the first asks; for the others it is on its way.
        room.on("reset", () => room.reload()),
        room.on("error", show),
        room.on("kicked", ({ reason }) => show(new Error(reason))),
        client.on("state", () => show(view.error)),
      ];
      show(undefined);
      return () => {
        for (const end of ends) end();
        view = NO_ROOM;
        // A moment later: strict mode and moving between pages leave and come back at once.
        setTimeout(() => room.leave());
      };
    };
    return [holder, () => view] as const;
  }, [client, name, recent]);
  return useSyncExternalStore(subscribe, read, () => NO_ROOM);
}

const NEVER = () => () => {};

/** The value of any handle, or `otherwise` while there is none. The handle must stay the same between renders. */
export function useHandle<T extends object>(handle: Handle<T> | undefined, otherwise: T): T {
  const [subscribe, read] = useMemo(() => (handle ? ([(changed: () => void) => handle.subscribe(changed), () => handle.value] as const) : ([NEVER, () => otherwise] as const)), [handle, otherwise]);
  return useSyncExternalStore(subscribe, read, () => otherwise);
}

const NOTHING: CounterValue = { value: 0, pending: false };
const NO_LIKES: LikeValue = { value: 0, pending: false, on: undefined };
const NOBODY: Presence = { connections: 0, users: 0 };
const NO_COMMENTS: readonly Comment[] = [];

/** A counter of a target, and the way to add to it. */
export function useCounter(room: Room | undefined, target: string, counter: string): CounterValue & { add(by?: number, options?: CallOptions): Promise<CountReply> } {
  const handle = useMemo(() => room?.counter(target, counter), [room, target, counter]);
  const value = useHandle(handle, NOTHING);
  return useMemo(() => ({ ...value, add: (by = 1, options) => (handle ? handle.add(by, options) : gone()) }), [value, handle]);
}

/** A target's likes, and the way to like it. */
export function useLikes(room: Room | undefined, target: string): LikeValue & { set(on: boolean): Promise<LikeReply>; toggle(): Promise<LikeReply> } {
  const handle = useMemo(() => room?.likes(target), [room, target]);
  const value = useHandle(handle, NO_LIKES);
  return useMemo(() => ({ ...value, set: (on) => (handle ? handle.set(on) : gone()), toggle: () => (handle ? handle.toggle() : gone()) }), [value, handle]);
}

/** How many are in a room. */
export function usePresence(room: Room | undefined): Presence {
  const handle = useMemo(() => room?.people(), [room]);
  return useHandle(handle, NOBODY);
}

/** A target's comments, oldest first. */
export function useComments(room: Room | undefined, target: string): readonly Comment[] {
  const handle: Comments | undefined = useMemo(() => room?.comments(target), [room, target]);
  return useHandle(handle, NO_COMMENTS);
}

const gone = (): Promise<never> => Promise.reject(new Error("the component does not hold the room"));
