// Handles on what is counted in a room. Each shows this client's own change at once and takes it back where the hub says no.

import type { CommentBook } from "./comments";
import type { Counts } from "./counts";
import { Handle } from "./handle";
import type { CallOptions, Count, CounterValue, CountReply, Frame, KeyedOptions, LikeReply, LikeValue } from "./types";

/** What a handle needs of its room. */
export interface Live {
  readonly counts: Counts;
  readonly liked: Liked;
  readonly book: CommentBook;
  call(op: string, fields: Frame, options?: CallOptions): Promise<unknown>;
  /** The same under a key, so that a repetition is harmless. */
  keyed(op: string, fields: Frame, options?: KeyedOptions): Promise<unknown>;
  /** To the hub itself, and not to a room. */
  ask(op: string, fields: Frame, options?: CallOptions): Promise<unknown>;
  onCount(listener: (count: Count) => void): () => void;
  user(): string | undefined;
}

const LIKE = "like";
const MAX_LIKED = 10_000;

export const watchCount = (live: Live, target: string, counter: string) => (changed: () => void) =>
  live.onCount((count) => { if (count.target === target && count.counter === counter) changed(); });

/** What this client's user likes: `on` as last asked for, `sure` as last answered. */
export class Liked {
  readonly #targets = new Map<string, { on: boolean; sure: boolean | undefined; open: number }>();

  get(target: string): boolean | undefined {
    return this.#targets.get(target)?.on;
  }

  /** How the number moves, and what to call when it is known how it ended. */
  ask(target: string, on: boolean): { by: number; ended: (on: boolean | undefined) => void } {
    const known = this.#targets.get(target);
    const by = known ? Number(on) - Number(known.on) : Number(on);
    const entry = known ?? { on, sure: undefined, open: 0 };
    if (!known && this.#targets.size >= MAX_LIKED) for (const oldest of this.#targets.keys()) { this.#targets.delete(oldest); break; }
    this.#targets.set(target, entry);
    entry.on = on;
    entry.open++;
    return {
      by,
      ended: (answered) => {
        if (answered !== undefined) entry.sure = answered;
        if (--entry.open > 0) return;
        if (entry.sure === undefined) this.#targets.delete(target);
        else entry.on = entry.sure;
      },
    };
  }
}

/** Likes or takes back, with the number moving at once. */
export async function like(live: Live, target: string, on: boolean, options?: CallOptions): Promise<LikeReply> {
  const { by, ended } = live.liked.ask(target, on);
  const settle = live.counts.hope(target, LIKE, by);
  try {
    const reply = (await live.call(LIKE, { target, on }, options)) as LikeReply;
    live.counts.take({ target, counter: LIKE, value: reply.value, version: reply.version });
    ended(reply.on);
    settle(true);
    return reply;
  } catch (error) {
    ended(undefined);
    settle(false);
    throw error;
  }
}

/** Adds to a counter, with the number moving at once. */
export async function add(live: Live, target: string, counter: string, by: number, options?: KeyedOptions): Promise<CountReply> {
  const settle = live.counts.hope(target, counter, by);
  try {
    const reply = (await live.keyed("count", { target, counter, by }, options)) as CountReply;
    live.counts.take({ target, counter, value: reply.value, version: reply.version });
    settle(true);
    return reply;
  } catch (error) {
    settle(false);
    throw error;
  }
}

/** A target's likes. */
export class Likes extends Handle<LikeValue> {
  readonly #live: Live;
  readonly #target: string;

  /** @internal */
  constructor(live: Live, target: string) {
    super(() => ({ ...counterValue(live, target, LIKE), on: live.liked.get(target) }), watchCount(live, target, LIKE));
    this.#live = live;
    this.#target = target;
  }

  set(on: boolean, options?: CallOptions): Promise<LikeReply> {
    return like(this.#live, this.#target, on, options);
  }

  toggle(options?: CallOptions): Promise<LikeReply> {
    return this.set(!this.value.on, options);
  }

  /** Tells the handle what an application knows from an earlier visit: the hub counts likes, it does not list them. */
  remember(on: boolean): void {
    this.#live.liked.ask(this.#target, on).ended(on);
    this.#live.counts.touch(this.#target, LIKE);
  }
}

/** One counter of a target. */
export class Counter extends Handle<CounterValue> {
  /** Adds `by`, 1–100. */
  readonly add: (by?: number, options?: KeyedOptions) => Promise<CountReply>;

  /** @internal */
  constructor(live: Live, target: string, counter: string) {
    super(() => counterValue(live, target, counter), watchCount(live, target, counter));
    this.add = (by = 1, options) => add(live, target, counter, by, options);
  }
}

function counterValue({ counts }: Live, target: string, counter: string): CounterValue {
  const { value = 0, pending = false } = counts.get(target, counter) ?? {};
  return { value, pending };
}
