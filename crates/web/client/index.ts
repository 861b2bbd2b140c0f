// @roomcast/client: the browser's side of a roomcast hub.

export { backoffMs } from "./backoff";
export { Comments } from "./comments";
export { RoomcastError } from "./errors";
export { Handle } from "./handle";
export { Counter, Likes } from "./live";
export { Room } from "./room";
export { Roomcast } from "./roomcast";
export { Hold, Stock } from "./stock";
export type * from "./types";
export { Upload } from "./upload";
