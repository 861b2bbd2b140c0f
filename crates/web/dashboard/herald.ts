// What is read out to who does not look: that something is wrong, and that it is over. Never the figures, which change
// every second. Pure: every moment is passed in.

import type { Incident } from "./picture";

/** What comes and goes is one trouble: it is over when it was not seen for so long. */
export const CALM_MS = 10_000;
/** More at once are only counted. */
const AT_ONCE = 3;

export class Herald {
  /** What was told, and when it last stood. */
  readonly #standing = new Map<string, number>();
  #begun = false;

  /** What to say now, if anything. */
  hear(incidents: readonly Incident[], now: number): string | undefined {
    const wrong = incidents.filter(({ tone, said }) => tone !== "good" && said !== "").map(({ said }) => said);
    const fresh = wrong.filter((said) => !this.#standing.has(said));
    for (const said of wrong) this.#standing.set(said, now);
    const over = [...this.#standing].filter(([, last]) => now - last >= CALM_MS).map(([said]) => said);
    for (const said of over) this.#standing.delete(said);

    const well = incidents.some(({ tone }) => tone === "good");
    const first = well && !this.#begun;
    if (well || wrong.length > 0) this.#begun = true;
    if (fresh.length > 0) return `${list(fresh)}.`;
    if (first) return "All is well.";
    if (over.length === 0) return undefined;
    return this.#standing.size === 0 ? "All is well again." : `Over: ${list(over)}.`;
  }
}

const list = (said: readonly string[]): string => `${said.slice(0, AT_ONCE).join("; ")}${said.length > AT_ONCE ? `; and ${said.length - AT_ONCE} more` : ""}`;
