// What can go wrong, in one shape. Error codes are the hub's own; four are the client's:
// `timeout`, `closed`, `connection_lost`, `outbox_full`.

/** Codes for which the same call may succeed later, unchanged. */
const RETRYABLE = new Set(["rate_limited", "unavailable", "internal", "room_full", "timeout", "connection_lost", "outbox_full"]);

/** A refused or failed call. */
export class RoomcastError extends Error {
  readonly code: string;
  /** The same call may succeed later, unchanged. */
  readonly retryable: boolean;
  /** The hub's own advice, in milliseconds. */
  readonly retryMs?: number;
  /** Beside some `conflict`s: what stands. */
  readonly current?: Readonly<Record<string, unknown>>;

  constructor(code: string, message: string, retryMs?: number, current?: Readonly<Record<string, unknown>>) {
    super(message);
    this.name = "RoomcastError";
    this.code = code;
    this.retryable = retryMs !== undefined || RETRYABLE.has(code);
    if (retryMs !== undefined) this.retryMs = retryMs;
    if (current !== undefined) this.current = current;
  }
}

/**
 * The hub's table of close codes: 4500–4999 mean that the same client would be refused again, and 1002, 1007 and 1009
 * that it would say again what could not be understood. Every other close may be followed by a reconnect.
 */
export function isFinalClose(code: number): boolean {
  return (code >= 4500 && code <= 4999) || code === 1002 || code === 1007 || code === 1009;
}

/** Words for a close code where the hub gave none. */
export function closeReason(code: number): string {
  switch (code) {
    case 1001: return "the server is going away";
    case 1002: return "protocol error";
    case 1006: return "the connection was lost";
    case 1007: return "a message was no text";
    case 1009: return "a message was too large";
    case 1011: return "the server failed";
    case 1012: return "the server restarts";
    case 1013: return "the server is overloaded";
    case 4000: return "idle";
    case 4001: return "this client was too slow";
    case 4002: return "the token expired";
    case 4003: return "moved to another node";
    case 4004: return "ping timeout";
    case 4500: return "the token was refused";
    case 4501: return "no connect frame in time";
    case 4503: return "disconnected by an admin";
    case 4504: return "too many messages";
    case 4505: return "protocol misuse";
    default: return `close code ${code}`;
  }
}
