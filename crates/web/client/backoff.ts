// How long to wait before coming back. Full jitter, so that a crowd which lost one node does not return as one.

const FIRST_CEILING_MS = 2_000;
const FLOOR_MS = 500;
const CEILING_MS = 20_000;

/** A connection that held this long proves the hub well: the next loss starts from the first attempt again. */
export const STABLE_MS = 10_000;

/**
 * The delay before retry `attempt` (0 is the first), in milliseconds. `random` is uniform in [0, 1).
 * The first retry comes within 0–2 s: a single lost connection should heal at once. Later ones within 0.5–20 s.
 */
export function backoffMs(attempt: number, random: number): number {
  if (attempt <= 0) return random * FIRST_CEILING_MS;
  const ceiling = Math.min(CEILING_MS, FIRST_CEILING_MS * 2 ** Math.min(attempt, 10));
  return FLOOR_MS + random * (ceiling - FLOOR_MS);
}
