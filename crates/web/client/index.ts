// @roomcast/client: the browser's side of a roomcast hub.

export { backoffMs } from "./backoff";
export { RoomcastError } from "./errors";
export { Room } from "./room";
export { Roomcast } from "./roomcast";
export type * from "./types";
