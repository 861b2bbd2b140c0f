import type { Codec, Frame } from "./types";
export interface WireCodec {
    readonly subprotocol: string;
    encode(frame: Frame): string | Uint8Array<ArrayBuffer>;
    /** Throws where the bytes are no frame. */
    decode(data: unknown): Frame;
}
export declare function wireCodec(name: Codec): WireCodec;
/** How many bytes a frame is on the wire. */
export declare function frameBytes(codec: WireCodec, frame: Frame): number;
