// The moderator's desk: what waits, what is picked, and decisions that may still be taken back. A decision is final exactly
// once, so none is sent before its grace is over. Pure: every moment is passed in, and sending is the caller's.

/** A decision may be taken back for so long. */
export const GRACE_MS = 5_000;
/** More comments are not held; what is beyond stays in the hub's queue. */
const MAX_HELD = 500;

export interface Waiting {
  readonly room: string;
  readonly comment: string;
  readonly target: string;
  readonly text: string;
  readonly user: string;
  readonly at: number;
  readonly version: number;
}

export type Decision = "approve" | "reject";

export type Fate =
  | { readonly name: "waiting" }
  | { readonly name: "grace"; readonly decision: Decision; readonly until: number }
  | { readonly name: "sending"; readonly decision: Decision }
  /** Decided about by somebody else, or gone. */
  | { readonly name: "settled"; readonly words: string; readonly until: number }
  | { readonly name: "failed"; readonly words: string };

export interface Case { readonly item: Waiting; readonly fate: Fate }

/** How long a card stays that somebody else has settled: long enough to be read. */
const TOLD_MS = 6_000;
const key = (room: string, comment: string): string => `${room} ${comment}`;

export class Desk {
  #cases = new Map<string, Case>();
  #picked: string | undefined;

  get cases(): readonly Case[] { return [...this.#cases.values()]; }
  get picked(): string | undefined { return this.#picked; }
  static key(item: Waiting): string { return key(item.room, item.comment); }

  /** The hub's queue as it stands; what is being decided about stays as it is. */
  load(items: readonly Waiting[]): void {
    const fresh = new Map(items.map((item) => [Desk.key(item), item]));
    for (const [id, { fate }] of this.#cases) if ((fate.name === "waiting" || fate.name === "failed") && !fresh.has(id)) this.#drop(id);
    const picked = this.#picked;
    for (const item of fresh.values()) this.arrive(item);
    this.#picked = picked ?? this.#cases.keys().next().value;
  }

  arrive(item: Waiting): void {
    const id = Desk.key(item);
    if (this.#cases.has(id) || this.#cases.size >= MAX_HELD) return;
    this.#cases.set(id, { item, fate: { name: "waiting" } });
    this.#cases = new Map([...this.#cases].sort(([, a], [, b]) => a.item.at - b.item.at || (a.item.comment < b.item.comment ? -1 : 1)));
    this.#picked ??= id;
  }

  pick(id: string): void { if (this.#cases.has(id)) this.#picked = id; }

  /** To the next or the previous one. */
  move(by: 1 | -1): void {
    const ids = [...this.#cases.keys()];
    const at = ids.indexOf(this.#picked ?? "");
    this.#picked = ids[Math.min(ids.length - 1, Math.max(0, at + by))];
  }

  /** Decides about the picked one, and goes on to the next that waits. */
  decide(decision: Decision, now: number, id = this.#picked): boolean {
    const found = id === undefined ? undefined : this.#cases.get(id);
    if (!found || (found.fate.name !== "waiting" && found.fate.name !== "failed")) return false;
    this.#set(id!, { name: "grace", decision, until: now + GRACE_MS });
    const ids = [...this.#cases.keys()];
    const after = [...ids.slice(ids.indexOf(id!) + 1), ...ids.slice(0, ids.indexOf(id!))];
    this.#picked = after.find((other) => this.#cases.get(other)!.fate.name === "waiting") ?? id;
    return true;
  }

  /** Takes a decision back whose grace is not over: this one, or the last. */
  undo(id?: string): boolean {
    const last = [...this.#cases].filter(([, { fate }]) => fate.name === "grace")
      .sort(([, a], [, b]) => (a.fate as { until: number }).until - (b.fate as { until: number }).until).at(-1)?.[0];
    const which = id ?? last;
    if (which === undefined || this.#cases.get(which)?.fate.name !== "grace") return false;
    this.#set(which, { name: "waiting" });
    this.#picked = which;
    return true;
  }

  /** What is to be sent now; each is given out once. */
  due(now: number): readonly { readonly item: Waiting; readonly decision: Decision }[] {
    const due = [];
    for (const [id, { item, fate }] of this.#cases) {
      if (fate.name === "grace" && fate.until <= now) {
        this.#set(id, { name: "sending", decision: fate.decision });
        due.push({ item, decision: fate.decision });
      } else if (fate.name === "settled" && fate.until <= now) this.#drop(id);
    }
    return due;
  }

  /** The hub took it. */
  done(item: Waiting): void {
    this.#drop(Desk.key(item));
  }

  /** Somebody else was faster: what stands is shown for a while. */
  settled(room: string, comment: string, words: string, now: number): void {
    const id = key(room, comment);
    const fate = this.#cases.get(id)?.fate.name;
    if (fate !== undefined && fate !== "settled") this.#set(id, { name: "settled", words, until: now + TOLD_MS });
  }

  /** Our own decision came back as news, or another's. */
  heard(room: string, comment: string, words: string, now: number): void {
    // While ours is on its way the answer will tell more.
    if (this.#cases.get(key(room, comment))?.fate.name !== "sending") this.settled(room, comment, words, now);
  }

  /** It was not taken, and may be tried again. */
  failed(item: Waiting, words: string): void {
    if (this.#cases.has(Desk.key(item))) this.#set(Desk.key(item), { name: "failed", words });
  }

  /** Sends again what the hub asked to wait with. */
  again(item: Waiting, decision: Decision, at: number): void {
    if (this.#cases.has(Desk.key(item))) this.#set(Desk.key(item), { name: "grace", decision, until: at });
  }

  #set(id: string, fate: Fate): void { this.#cases.set(id, { item: this.#cases.get(id)!.item, fate }); }

  /** The pick goes on to the next one, at the end to the one before: not to the far end of the list. */
  #drop(id: string): void {
    if (this.#picked === id) {
      const ids = [...this.#cases.keys()];
      const at = ids.indexOf(id);
      this.#picked = ids[at + 1] ?? ids[at - 1];
    }
    this.#cases.delete(id);
  }
}
