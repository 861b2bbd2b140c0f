export { backoffMs } from "./backoff";
export { RoomcastError } from "./errors";
export { Room } from "./room";
export { Roomcast } from "./roomcast";
export type * from "./types";
