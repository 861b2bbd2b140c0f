/** A connection that held this long proves the hub well: the next loss starts from the first attempt again. */
export declare const STABLE_MS = 10000;
/**
 * The delay before retry `attempt` (0 is the first), in milliseconds. `random` is uniform in [0, 1).
 * The first retry comes within 0–2 s: a single lost connection should heal at once. Later ones within 0.5–20 s.
 */
export declare function backoffMs(attempt: number, random: number): number;
