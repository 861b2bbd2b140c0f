// A live value: read it, hear when it changes. The shape that `useSyncExternalStore` and signals ask for.

/** `value` is the same object until something in it differs. */
export class Handle<T extends object> {
  readonly #read: () => T;
  readonly #watch: (changed: () => void) => () => void;
  #last: T | undefined;

  /** @internal */
  constructor(read: () => T, watch: (changed: () => void) => () => void) {
    this.#read = read;
    this.#watch = watch;
  }

  get value(): T {
    const next = this.#read();
    if (!this.#last || !sameEntries(this.#last, next)) this.#last = next;
    return this.#last;
  }

  /** Calls `listener` with each new value; returns the function that ends it. */
  subscribe(listener: (value: T) => void): () => void {
    let before = this.value;
    return this.#watch(() => {
      const now = this.value;
      if (now !== before) listener((before = now));
    });
  }
}

/** Whoever wants to hear of a change. */
export class Watchers {
  readonly #all = new Set<() => void>();

  readonly add = (changed: () => void): (() => void) => {
    // Wrapped, so that the same function may watch twice.
    const entry = () => changed();
    this.#all.add(entry);
    return () => void this.#all.delete(entry);
  };

  tell(): void {
    for (const entry of [...this.#all]) entry();
  }
}

function sameEntries(a: object, b: object): boolean {
  const [left, right] = [Object.entries(a), Object.entries(b)];
  return left.length === right.length && left.every(([key, value]) => Object.is(value, (b as Record<string, unknown>)[key]));
}
