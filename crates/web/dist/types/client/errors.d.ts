/** A refused or failed call. */
export declare class RoomcastError extends Error {
    readonly code: string;
    /** The same call may succeed later, unchanged. */
    readonly retryable: boolean;
    /** The hub's own advice, in milliseconds. */
    readonly retryMs?: number;
    /** Beside some `conflict`s: what stands. */
    readonly current?: Readonly<Record<string, unknown>>;
    constructor(code: string, message: string, retryMs?: number, current?: Readonly<Record<string, unknown>>);
}
/**
 * The hub's table of close codes: 4500–4999 mean that the same client would be refused again, and 1002, 1007 and 1009
 * that it would say again what could not be understood. Every other close may be followed by a reconnect.
 */
export declare function isFinalClose(code: number): boolean;
/** Words for a close code where the hub gave none. */
export declare function closeReason(code: number): string;
