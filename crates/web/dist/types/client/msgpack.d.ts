/** The bytes of a value, in memory of their own. */
export declare function encode(value: unknown): Uint8Array<ArrayBuffer>;
/** The one value that `data` holds. Throws where it is not whole, not alone, or nothing that JSON could hold. */
export declare function decode(data: ArrayBuffer): unknown;
