// Which nodes are here, when each last said something new, and which of them went and may have died. Pure: every moment is
// passed in. It knows what this page has seen since it was opened, and nothing from before.

/** A node that went is told of for so long, unless it comes back. */
export const GONE_MS = 600_000;
/** More are not kept, the ones that went first are forgotten: bounds on what a page will hold. */
export const MAX_GONE = 50;
const MAX_HERE = 1_000;
/** A node that says goodbye is missing in the very next message; one that died is told of until its lease is over. */
export const GOODBYE_MS = 1_500;
/** No node that lives says nothing new for so long. */
export const SILENT_MS = 3_000;
/** Who was missing when this page came back from a longer silence may have drained as well. */
export const DEAF_MS = 60_000;

export interface Present { readonly node: string; readonly at: number; readonly phase: string }

/**
 * A node that went: when it last said something new, when this page found it missing, and whether it died: it was told of
 * and said nothing for a while. One that was there in the last message may have drained while nobody told this page.
 */
export interface Gone { readonly node: string; readonly since: number; readonly missedAt: number; readonly died: boolean }

/** What can be said of how it went. */
export const howGone = ({ died }: Gone): string => (died ? "without a drain" : "and may have drained");

interface Known { readonly at: number; readonly changedAt: number; readonly serving: boolean; readonly silent: boolean }

export class Roll {
  readonly #here = new Map<string, Known>();
  #gone: readonly Gone[] = [];
  #calledAt: number | undefined;

  /** The nodes of a picture of the whole cluster; `excused` are those that are not shown and have not gone. */
  call(nodes: readonly Present[], excused: (node: string) => boolean, now: number): void {
    const listened = this.#calledAt !== undefined && now - this.#calledAt <= DEAF_MS;
    this.#calledAt = now;
    const names = new Set(nodes.map(({ node }) => node));
    for (const [node, { changedAt, serving, silent }] of this.#here) {
      if (names.has(node)) continue;
      this.#here.delete(node);
      if (!serving || !listened || excused(node) || now - changedAt < GOODBYE_MS) continue;
      this.#gone = [{ node, since: changedAt, missedAt: now, died: silent }, ...this.#gone].slice(0, MAX_GONE);
    }
    this.hear(nodes, now);
  }

  /** Nodes that are told of, where the others could not be asked: nobody is missed for that. */
  hear(nodes: readonly Present[], now: number): void {
    for (const { node, at, phase } of nodes) {
      const known = this.#here.get(node);
      const changedAt = known?.at === at ? known.changedAt : now;
      this.#here.set(node, { at, changedAt, serving: phase === "serving", silent: now - changedAt >= SILENT_MS });
    }
    for (const node of this.#here.keys()) {
      if (this.#here.size <= MAX_HERE) break;
      this.#here.delete(node);
    }
    this.#gone = this.gone(now).filter(({ node }) => !this.#here.has(node));
  }

  /** Milliseconds since this node said anything new, by this page's own clock. */
  silentMs(node: string, now: number): number {
    const known = this.#here.get(node);
    return known ? Math.max(0, now - known.changedAt) : 0;
  }

  /** The last to go first. */
  gone(now: number): readonly Gone[] {
    return this.#gone.filter(({ missedAt }) => now - missedAt < GONE_MS);
  }
}
