// What is counted in one room: the hub's newest value of each counter, and above it what this client hopes for.
//
// A hope makes the value move at once. How it meets the truth: the hub's pushes may contain this client's change before
// the answer to it has come, and nobody can tell. So a hope is a bound, not an addition: from where it began, the value
// is shown at least (going down: at most) so far moved, until the answer has come and the hub's value stands alone.

import type { Count } from "./types";

/** Beyond so many counters in one room the longest known is forgotten; its next push brings it back. */
const MAX_COUNTS = 10_000;

interface Hope {
  from: number;
  by: number;
  open: number;
}

export class Counts {
  readonly #known = new Map<string, Count>();
  readonly #hopes = new Map<string, Hope>();
  readonly #tell: (count: Count) => void;

  constructor(tell: (count: Count) => void) {
    this.#tell = tell;
  }

  /** What to show; nothing where neither the hub has told a value nor anybody hopes. */
  get(target: string, counter: string): Count | undefined {
    const key = keyOf(target, counter);
    const known = this.#known.get(key);
    const hope = this.#hopes.get(key);
    if (!hope) return known;
    const { value, version } = known ?? { value: 0, version: 0 };
    const hoped = Math.max(0, hope.from + hope.by);
    return { target, counter, value: hope.by < 0 ? Math.min(value, hoped) : Math.max(value, hoped), version, pending: true };
  }

  /** Takes a value that the hub told, from wherever; an older one changes nothing. */
  take({ target, counter, value, version }: Count): void {
    const key = keyOf(target, counter);
    const known = this.#known.get(key);
    if (typeof version !== "number" || (known && known.version >= version)) return;
    if (!known && this.#known.size >= MAX_COUNTS) {
      for (const oldest of this.#known.keys()) { this.#known.delete(oldest); break; }
    }
    this.#known.set(key, { target, counter, value, version });
    this.touch(target, counter);
  }

  /** The version of the hub's own value; 0 before the first. */
  version(target: string, counter: string): number {
    return this.#known.get(keyOf(target, counter))?.version ?? 0;
  }

  /**
   * Moves the shown value by `by`. The returned function says how it ended: done (the hub's answer was taken before),
   * or not done.
   */
  hope(target: string, counter: string, by: number): (done: boolean) => void {
    const key = keyOf(target, counter);
    const hope = this.#hopes.get(key) ?? { from: this.#known.get(key)?.value ?? 0, by: 0, open: 0 };
    this.#hopes.set(key, hope);
    hope.by += by;
    hope.open++;
    this.touch(target, counter);
    return (done) => {
      hope.by -= by;
      // The bound stays where it was while others are open: a push may have told of all of them already.
      if (done) hope.from += by;
      if (--hope.open === 0) this.#hopes.delete(key);
      this.touch(target, counter);
    };
  }

  /** Tells what is shown now. */
  touch(target: string, counter: string): void {
    this.#tell(this.get(target, counter) ?? { target, counter, value: 0, version: 0 });
  }

  /**
   * Another epoch: versions start anew. Hopes stay, their answers are still to come. The returned function tells of what
   * is not known any more; in between, the new epoch's values may be taken, so that nobody is shown a zero for nothing.
   */
  forget(): () => void {
    const forgotten = [...this.#known.values()];
    this.#known.clear();
    return () => {
      for (const { target, counter } of forgotten) if (!this.#known.has(keyOf(target, counter))) this.touch(target, counter);
    };
  }
}

const keyOf = (target: string, counter: string): string => `${counter}\n${target}`;
