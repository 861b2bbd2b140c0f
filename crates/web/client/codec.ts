// Frames to bytes and back, for both subprotocols. It knows no meaning of any frame.

import { decode, encode } from "./msgpack";
import type { Codec, Frame } from "./types";

export interface WireCodec {
  readonly subprotocol: string;
  encode(frame: Frame): string | Uint8Array<ArrayBuffer>;
  /** Throws where the bytes are no frame. */
  decode(data: unknown): Frame;
}

function asFrame(value: unknown): Frame {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw new TypeError("a frame must be an object");
  return value as Frame;
}

const json: WireCodec = {
  subprotocol: "roomcast.v1.json",
  encode: (frame) => JSON.stringify(frame),
  decode(data) {
    if (typeof data !== "string") throw new TypeError("expected a text frame");
    return asFrame(JSON.parse(data));
  },
};

const msgpack: WireCodec = {
  subprotocol: "roomcast.v1.msgpack",
  encode,
  decode(data) {
    if (!(data instanceof ArrayBuffer)) throw new TypeError("expected a binary frame");
    return asFrame(decode(data));
  },
};

export function wireCodec(name: Codec): WireCodec {
  return name === "msgpack" ? msgpack : json;
}

/** How many bytes a frame is on the wire. */
export function frameBytes(codec: WireCodec, frame: Frame): number {
  const data = codec.encode(frame);
  return typeof data === "string" ? new TextEncoder().encode(data).length : data.length;
}
