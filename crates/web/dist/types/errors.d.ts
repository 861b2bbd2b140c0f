/** A refused or failed call. `retryMs` is the hub's own advice, in milliseconds. */
export declare class RoomcastError extends Error {
    readonly code: string;
    readonly retryable: boolean;
    readonly retryMs?: number;
    constructor(code: string, message: string, retryMs?: number);
}
/** 4500–4999 mean: do not come back with the same credentials. Every other close may be followed by a reconnect. */
export declare function isFinalClose(code: number): boolean;
/** Words for a close code where the hub gave none. */
export declare function closeReason(code: number): string;
