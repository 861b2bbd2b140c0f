// What the nodes say of themselves, made into one picture. Pure: every moment is passed in; it touches no page.

/** A node not heard for so long is marked stale, with the seconds told. */
export const STALE_MS = 3_000;
/** Not heard for so long, it is gone. */
export const GONE_MS = 15_000;
/** More nodes than this are not shown: a bound on what a page will hold. */
const MAX_NODES = 500;
/** Seconds of history behind the charts. */
export const HISTORY = 120;

const TOTALS = ["frames_in", "frames_out", "events", "drops"] as const;
const NUMBERS = ["uptime_s", "at", "connections", "connections_cap", "rooms", "members", ...TOTALS, "slow_closed", "memory_bytes"] as const;

type Numbers = Record<(typeof NUMBERS)[number], number>;
export type Rates = Record<(typeof TOTALS)[number], number>;

/** One node's report, as it comes each second. Totals are since its start. */
export interface Sample extends Numbers {
  readonly node: string;
  readonly version: string;
  readonly redis: string;
  readonly breaker: string;
  readonly draining: boolean;
}

export interface NodeView {
  readonly sample: Sample;
  /** Per second, over the last two reports. */
  readonly rates: Rates;
  readonly silentMs: number;
  readonly stale: boolean;
}

export interface Totals extends Rates {
  readonly nodes: number;
  readonly stale: number;
  readonly draining: number;
  readonly connections: number;
  readonly connections_cap: number;
  readonly rooms: number;
  readonly members: number;
  readonly dropsTotal: number;
  readonly slow_closed: number;
  readonly memory_bytes: number;
  /** What is wrong, in words; empty when nothing is. */
  readonly trouble: readonly string[];
}

const NO_RATES: Rates = { frames_in: 0, frames_out: 0, events: 0, drops: 0 };

export class Cluster {
  readonly #nodes = new Map<string, { sample: Sample; rates: Rates; heardAt: number }>();
  readonly history: Totals[] = [];
  #lastHeard: number | undefined;

  /** Takes one report. False where it is none. */
  hear(data: unknown, now: number): boolean {
    const sample = readSample(data);
    if (!sample) return false;
    const known = this.#nodes.get(sample.node);
    if (!known && this.#nodes.size >= MAX_NODES) return false;
    // A straggler of the same life says nothing new. A restarted node's totals begin at 0 again.
    if (known && sample.at <= known.sample.at && sample.uptime_s >= known.sample.uptime_s) return false;
    this.#nodes.set(sample.node, { sample, rates: known ? ratesBetween(known.sample, sample) : NO_RATES, heardAt: now });
    this.#lastHeard = now;
    return true;
  }

  /** Milliseconds since any node was heard. */
  silentMs(now: number): number | undefined {
    return this.#lastHeard === undefined ? undefined : now - this.#lastHeard;
  }

  /** By name; the gone ones are forgotten. */
  nodes(now: number): NodeView[] {
    const views: NodeView[] = [];
    for (const [name, { sample, rates, heardAt }] of this.#nodes) {
      const silentMs = Math.max(0, now - heardAt);
      if (silentMs >= GONE_MS) this.#nodes.delete(name);
      else views.push({ sample, rates, silentMs, stale: silentMs >= STALE_MS });
    }
    return views.sort((a, b) => (a.sample.node < b.sample.node ? -1 : 1));
  }

  totals(now: number): Totals {
    const nodes = this.nodes(now);
    const sum = (of: (node: NodeView) => number) => nodes.reduce((all, node) => all + of(node), 0);
    // A silent node still holds its connections, as far as is known; but it moves nothing.
    const rate = (of: keyof Rates) => sum(({ stale, rates }) => (stale ? 0 : rates[of]));
    const trouble = nodes.flatMap(({ sample, stale, silentMs }) => [
      ...(stale ? [`${sample.node} has not been heard for ${Math.floor(silentMs / 1_000)} s`] : []),
      ...(sample.redis === "down" ? [`${sample.node} has lost Redis`] : []),
      ...(sample.breaker === "open" ? [`${sample.node}: the breaker is open, writes are refused`] : []),
      ...(sample.draining ? [`${sample.node} is draining`] : []),
    ]);
    return {
      nodes: nodes.length,
      stale: nodes.filter(({ stale }) => stale).length,
      draining: nodes.filter(({ sample }) => sample.draining).length,
      connections: sum(({ sample }) => sample.connections),
      connections_cap: sum(({ sample }) => sample.connections_cap),
      rooms: sum(({ sample }) => sample.rooms),
      members: sum(({ sample }) => sample.members),
      frames_in: rate("frames_in"),
      frames_out: rate("frames_out"),
      events: rate("events"),
      drops: rate("drops"),
      dropsTotal: sum(({ sample }) => sample.drops),
      slow_closed: sum(({ sample }) => sample.slow_closed),
      memory_bytes: sum(({ sample }) => sample.memory_bytes),
      trouble,
    };
  }

  /** Once a second: adds the present to the history behind the charts. */
  tick(now: number): Totals {
    const totals = this.totals(now);
    // Before anything was heard there is no zero to show, only ignorance.
    if (this.#lastHeard !== undefined) this.history.push(totals);
    if (this.history.length > HISTORY) this.history.shift();
    return totals;
  }
}

function ratesBetween(before: Sample, after: Sample): Rates {
  const seconds = (after.at - before.at) / 1_000;
  const restarted = after.uptime_s < before.uptime_s;
  if (restarted || seconds <= 0) return NO_RATES;
  const rates = { ...NO_RATES };
  for (const name of TOTALS) rates[name] = Math.max(0, after[name] - before[name]) / seconds;
  return rates;
}

/** Anything missing or of another type reads as 0: an older node has fewer figures, and is shown all the same. */
function readSample(data: unknown): Sample | undefined {
  if (typeof data !== "object" || data === null) return undefined;
  const raw = data as Record<string, unknown>;
  if (typeof raw.node !== "string" || raw.node === "") return undefined;
  const text = (value: unknown) => (typeof value === "string" ? value : "–");
  const numbers = {} as Numbers;
  for (const name of NUMBERS) {
    const value = raw[name];
    numbers[name] = typeof value === "number" && Number.isFinite(value) ? value : 0;
  }
  return { ...numbers, node: raw.node, version: text(raw.version), redis: text(raw.redis), breaker: text(raw.breaker), draining: raw.draining === true };
}
