// Typed listeners. A listener that throws is reported, and never keeps the others from hearing.

type Listener = (value: never) => void;

export class Emitter<Events> {
  readonly #listeners = new Map<keyof Events, Set<Listener>>();

  /** Calls `listener` at each `name`; returns the function that ends it. */
  on<Name extends keyof Events>(name: Name, listener: (value: Events[Name]) => void): () => void {
    let set = this.#listeners.get(name);
    if (!set) this.#listeners.set(name, (set = new Set()));
    // Wrapped, so that the same function may listen twice and each unsubscribe ends only its own.
    const entry: Listener = (value) => listener(value);
    set.add(entry);
    return () => void set.delete(entry);
  }

  /** @internal */
  emit<Name extends keyof Events>(name: Name, value: Events[Name]): void {
    for (const listener of [...(this.#listeners.get(name) ?? [])]) {
      try {
        listener(value as never);
      } catch (error) {
        queueMicrotask(() => { throw error; });
      }
    }
  }

  /** @internal */
  forget(): void {
    this.#listeners.clear();
  }
}
