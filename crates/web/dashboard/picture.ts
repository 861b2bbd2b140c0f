// The cluster as the hub tells it: one state now and then, and merge patches (RFC 7396) in between. Pure: every moment is
// passed in, and what comes from outside is read with care.

import { clock, plural } from "../shared/words";
import { type Gone, howGone, Roll } from "./roll";

/** Not heard for so long, what is shown is called stale. */
export const STALE_MS = 3_000;
/** Seconds behind the charts. */
export const HISTORY = 300;
/** More is not shown: bounds on what a page will hold. */
const MAX_NODES = 500;
const MAX_ROOMS = 100;

const NUMBERS = [
  "uptime_s", "started_at", "at", "connections", "rooms", "members", "frames_in", "frames_out", "events", "drops", "slow_closed",
  "memory_bytes", "queue_bytes", "in_per_s", "out_per_s", "bytes_per_s", "events_per_s", "drops_per_s", "slow_per_s", "redis_reconnects",
] as const;
const MAYBE = ["connections_cap", "delivery_p99_ms", "redis_rtt_ms", "redis_lag_ms", "drain_from"] as const;

type Numbers = Readonly<Record<(typeof NUMBERS)[number], number>> & Readonly<Partial<Record<(typeof MAYBE)[number], number>>>;

export interface BreakerChange { readonly at: number; readonly state: string }

export interface NodeFigures extends Numbers {
  readonly node: string;
  readonly version: string;
  readonly redis: string;
  readonly breaker: string;
  readonly phase: string;
  readonly shedding: boolean;
  readonly breakerLog: readonly BreakerChange[];
}

export interface Total extends Numbers { readonly nodes: number }
export interface RoomFigures { readonly room: string; readonly members: number; readonly per_s: number; readonly drops_per_s: number }

export interface Picture {
  readonly at: number;
  readonly total: Total;
  readonly nodes: readonly NodeFigures[];
  readonly rooms: readonly RoomFigures[];
}

/** One second of the cluster, for the charts. */
export interface Sample {
  readonly at: number;
  readonly connections: number;
  readonly in: number;
  readonly out: number;
  readonly p99: number | null;
  readonly drops: number;
  readonly rtt: number | null;
  readonly lag: number | null;
}

type Json = Record<string, unknown>;
const isObject = (value: unknown): value is Json => typeof value === "object" && value !== null && !Array.isArray(value);

/** RFC 7396: null takes away, an object goes deeper, everything else replaces. Nothing that was given is changed. */
export function merge(target: unknown, patch: unknown): unknown {
  if (!isObject(patch)) return patch;
  const merged: Json = isObject(target) ? { ...target } : {};
  for (const [name, value] of Object.entries(patch)) {
    if (value === null) delete merged[name];
    else Object.defineProperty(merged, name, { value: merge(Object.hasOwn(merged, name) ? merged[name] : undefined, value), enumerable: true, configurable: true, writable: true });
  }
  return merged;
}

const number = (value: unknown): number => (typeof value === "number" && Number.isFinite(value) ? value : 0);
const text = (value: unknown): string => (typeof value === "string" ? value : "–");

function numbers(raw: Json): Numbers {
  const read: Record<string, number> = {};
  for (const name of NUMBERS) read[name] = number(raw[name]);
  for (const name of MAYBE) if (typeof raw[name] === "number") read[name] = number(raw[name]);
  return read as Numbers;
}

/** Anything missing or of another type reads as 0 or “–”: a node of another version is shown all the same. */
export function readPicture(raw: unknown): Picture | undefined {
  if (!isObject(raw) || !isObject(raw.nodes)) return undefined;
  const nodes = Object.entries(raw.nodes).slice(0, MAX_NODES).flatMap(([id, node]) => (isObject(node) ? [{
    ...numbers(node), node: id, version: text(node.version), redis: text(node.redis), breaker: text(node.breaker),
    phase: typeof node.phase === "string" ? node.phase : node.draining === true ? "draining" : "serving", shedding: node.shedding === true,
    breakerLog: (Array.isArray(node.breaker_log) ? node.breaker_log : []).filter(isObject).slice(-16).map(({ at, state }) => ({ at: number(at), state: text(state) })),
  }] : []));
  nodes.sort((a, b) => (a.node < b.node ? -1 : 1));
  const rooms = (Array.isArray(raw.rooms) ? raw.rooms : []).filter(isObject).slice(0, MAX_ROOMS)
    .map((room) => ({ room: text(room.room), members: number(room.members), per_s: number(room.per_s), drops_per_s: number(room.drops_per_s) }));
  return { at: number(raw.at), total: { ...numbers(isObject(raw.total) ? raw.total : {}), nodes: nodes.length }, nodes, rooms };
}

/** What a message came to: `gap` means that one before it is missing, and the whole has to be asked for. */
export type Heard = "taken" | "gap" | "ignored";

export class Feed {
  #raw: unknown;
  #by: string | undefined;
  #seq: number | undefined;
  #heardAt: number | undefined;
  readonly #roll = new Roll();
  picture: Picture | undefined;
  /** The node that answered could not ask the others. */
  partial = false;
  history: readonly Sample[] = [];

  /** A `cluster` signal of the hub. */
  hear(data: unknown, now: number): Heard {
    if (!isObject(data) || typeof data.by !== "string" || typeof data.seq !== "number") return "ignored";
    if (isObject(data.state)) return this.#take(data.state, data.by, data.seq, now);
    if (!isObject(data.patch)) return "ignored";
    if (this.#raw === undefined) return "gap";
    const follows = this.#by === data.by && this.#seq !== undefined && data.seq === this.#seq + 1;
    // What `stats` answered is no older than the last message: the next patch may be laid upon it.
    const fresh = this.#by === undefined;
    if (!follows && !fresh) return "gap";
    return this.#take(merge(this.#raw, data.patch), data.by, data.seq, now);
  }

  /** An answer to `stats`. */
  asked(reply: unknown, now: number): void {
    if (!isObject(reply)) return;
    const { partial, ...state } = reply;
    this.#take(state, undefined, undefined, now, partial === true);
  }

  /** Milliseconds since the cluster was heard; undefined before. */
  silentMs(now: number): number | undefined {
    return this.#heardAt === undefined ? undefined : Math.max(0, now - this.#heardAt);
  }

  /** Milliseconds since this node said anything new, by this page's own clock. */
  nodeSilentMs(node: string, now: number): number {
    return this.#roll.silentMs(node, now);
  }

  /** The nodes that went while this page was open, but for those that drained; the last one first. */
  gone(now: number): readonly Gone[] {
    return this.#roll.gone(now);
  }

  #take(raw: unknown, by: string | undefined, seq: number | undefined, now: number, partial = false): Heard {
    const picture = readPicture(raw);
    if (!picture) return "ignored";
    this.#raw = raw;
    this.#by = by;
    this.#seq = seq;
    this.#heardAt = now;
    this.partial = partial;
    this.picture = picture;
    if (partial) this.#roll.hear(picture.nodes, now);
    // Of very many nodes not all are shown, and those have not gone.
    else this.#roll.call(picture.nodes, (node) => Object.hasOwn((raw as { nodes: Json }).nodes, node), now);
    this.history = [...this.history, sample(picture, now)].slice(-HISTORY);
    return "taken";
  }
}

const worst = (values: readonly (number | undefined)[]): number | null => values.reduce<number | null>((most, value) => (value === undefined ? most : Math.max(most ?? 0, value)), null);

function sample({ total, nodes }: Picture, now: number): Sample {
  return {
    at: now, connections: total.connections, in: total.in_per_s, out: total.out_per_s, p99: total.delivery_p99_ms ?? null, drops: total.drops_per_s,
    rtt: worst(nodes.map((node) => node.redis_rtt_ms)), lag: worst(nodes.map((node) => node.redis_lag_ms)),
  };
}

export interface Incident {
  readonly tone: "good" | "wait" | "bad";
  readonly text: string;
  /** The same without figures: alike as long as it is the same trouble. Empty where nothing is to be told. */
  readonly said: string;
}

/** What is wrong, in words, the worst first; or that nothing is. */
export function incidents(feed: Feed, connected: boolean, now: number): readonly Incident[] {
  const silent = feed.silentMs(now);
  const picture = feed.picture;
  if (silent === undefined || !picture) return [{ tone: "wait", text: connected ? "Connected; waiting for the first figures …" : "Connecting …", said: "" }];
  const all: Incident[] = [];
  const say = (tone: Incident["tone"], text: string, said = text) => all.push({ tone, text, said });
  if (silent >= STALE_MS) say("bad", `Nothing here is fresh: stale for ${Math.floor(silent / 1_000)} s`, "Nothing here is fresh");
  if (feed.partial) say("bad", `The other nodes cannot be asked: only ${picture.nodes[0]?.node ?? "one node"} is shown`);
  // To who listens it is the trouble that began as the node's silence; and told once it is more than a moment between leases.
  const gone = (died: boolean) => {
    for (const node of feed.gone(now)) if (node.died === died) say(died ? "bad" : "wait", `${node.node} is gone since ${clock(node.since)}, ${howGone(node)}`, now - node.missedAt < STALE_MS ? "" : `${node.node} says nothing new`);
  };
  gone(true);
  const { total } = picture;
  for (const node of picture.nodes) {
    const quiet = feed.nodeSilentMs(node.node, now);
    if (node.redis === "down") say("bad", `${node.node} has lost Redis`);
    if (node.breaker === "open") say("bad", `${node.node}: the breaker is open, writes are refused`);
    if (silent < STALE_MS && quiet >= STALE_MS) say("bad", `${node.node} has said nothing new for ${Math.floor(quiet / 1_000)} s`, `${node.node} says nothing new`);
  }
  if (total.slow_per_s > 0) say("bad", "Slow consumers are being closed");
  if ((total.delivery_p99_ms ?? 0) > 250) say("wait", `Deliveries are slow: p99 ${Math.round(total.delivery_p99_ms!)} ms`, "Deliveries are slow");
  if (total.drops_per_s > 0) say("wait", `${plural(total.drops_per_s, "fleeting frame per second is", "fleeting frames per second are")} dropped for slow sockets`, "Fleeting frames are dropped for slow sockets");
  for (const node of picture.nodes) {
    if (node.connections_cap !== undefined && node.connections > node.connections_cap * 0.9) say("wait", `${node.node} is nearly full`);
    if (node.phase !== "serving") say("wait", `${node.node} is ${node.phase}`);
    if (node.breaker === "half_open") say("wait", `${node.node}: the breaker probes`);
    if ((node.redis_rtt_ms ?? 0) > 50) say("wait", `${node.node}: Redis answers after ${Math.round(node.redis_rtt_ms!)} ms`, `${node.node}: Redis answers slowly`);
  }
  gone(false);
  return all.length > 0 ? all : [{ tone: "good", said: "All is well", text: `All is well: ${plural(picture.nodes.length, "node")}, ${plural(total.connections, "connection")}` }];
}

/** How far a drain is, 0 to 1; undefined while the node serves. */
export function drained({ phase, drain_from, connections }: NodeFigures): number | undefined {
  if (phase === "serving") return undefined;
  return drain_from ? Math.min(1, Math.max(0, 1 - connections / drain_from)) : connections === 0 ? 1 : 0;
}
