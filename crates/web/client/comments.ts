// The comments of a room: this client's own on their way, those that wait for approval, those that everybody sees.

import { Handle, Watchers } from "./handle";
import type { Live } from "./live";
import type { Comment, CommentReply, KeyedOptions, RoomEvent } from "./types";

/** Of one target. */
const MAX_COMMENTS = 500;
/** Of all targets of a room: beyond these the oldest goes, of the target that was longest not commented on. */
const MAX_HELD = 5_000;

let sent = 0;

/**
 * What this client knows of a room's comments, whether or not anybody has asked for them yet: shared by all who hold the
 * room, so that who comes later sees what is there.
 */
export class CommentBook {
  /** The targets commented on last come last. */
  readonly #targets = new Map<string, Map<string, Comment>>();
  readonly #user: () => string | undefined;
  readonly #tell: (target: string) => void;
  #size = 0;

  /** `tell` is called with each target whose comments have changed. */
  constructor(user: () => string | undefined, tell: (target: string) => void) {
    this.#user = user;
    this.#tell = tell;
  }

  /** A target's comments, oldest first; what is being sent comes last. */
  of(target: string): readonly Comment[] {
    return [...(this.#targets.get(target)?.values() ?? [])].sort((a, b) => Number(a.state === "sending") - Number(b.state === "sending") || a.at - b.at);
  }

  keep(comment: Comment): void {
    const held = this.#targets.get(comment.target) ?? new Map<string, Comment>();
    this.#targets.delete(comment.target);
    this.#targets.set(comment.target, held);
    if (!held.has(comment.comment)) this.#size++;
    held.set(comment.comment, comment);
    if (held.size > MAX_COMMENTS) this.#dropOldest(comment.target, held);
    if (this.#size > MAX_HELD) {
      const [target, longest] = this.#targets.entries().next().value!;
      this.#dropOldest(target, longest);
      if (target !== comment.target) this.#tell(target);
    }
    this.#tell(comment.target);
  }

  /** What was being sent has become a comment, unless its event has told of that already; or nothing. */
  sent(sending: Comment, became: Comment | undefined): void {
    this.#remove(sending.target, sending.comment);
    if (became && !this.#targets.get(became.target)?.has(became.comment)) this.keep(became);
    else this.#tell(sending.target);
  }

  /** An event of the room: a comment, the end of one, or something else. */
  hear({ event, data, at }: Pick<RoomEvent, "event" | "data" | "at">): void {
    if (event !== "comment" && event !== "comment_deleted") return;
    const { target, comment, text, user, at: told } = (data ?? {}) as Record<string, unknown>;
    if (typeof target !== "string" || typeof comment !== "string") return;
    if (event === "comment_deleted") {
      if (this.#remove(target, comment)) this.#tell(target);
      return;
    }
    if (typeof text !== "string" || typeof user !== "string") return;
    // The event may come before the answer: then it stands for what was being sent.
    if (user === this.#user() && !this.#targets.get(target)?.has(comment)) {
      const mine = this.of(target).find((held) => held.state === "sending" && held.text.trim() === text);
      if (mine) this.#remove(target, mine.comment);
    }
    this.keep({ comment, target, text, user, at: typeof told === "number" ? told : at, state: "visible" });
  }

  /** Forgets what the room will tell anew; one's own that wait or are on their way stay. */
  reset(): void {
    for (const target of [...this.#targets.keys()]) {
      const visible = this.of(target).filter(({ state }) => state === "visible");
      for (const { comment } of visible) this.#remove(target, comment);
      if (visible.length > 0) this.#tell(target);
    }
  }

  #dropOldest(target: string, held: Map<string, Comment>): void {
    for (const oldest of held.keys()) { this.#remove(target, oldest); break; }
  }

  #remove(target: string, comment: string): boolean {
    const held = this.#targets.get(target);
    if (!held?.delete(comment)) return false;
    this.#size--;
    if (held.size === 0) this.#targets.delete(target);
    return true;
  }
}

/** A target's comments, oldest first, the newest 500 of them. */
export class Comments extends Handle<readonly Comment[]> {
  readonly #live: Live;
  readonly #target: string;
  readonly #watchers: Watchers;

  /** @internal */
  constructor(live: Live, target: string) {
    const watchers = new Watchers();
    super(() => live.book.of(target), watchers.add);
    this.#live = live;
    this.#target = target;
    this.#watchers = watchers;
  }

  /** Sends a comment and shows it at once. To send one again that failed, give both the same `key`: it is stored once. */
  async add(text: string, options?: KeyedOptions): Promise<CommentReply> {
    const { book, user } = this.#live;
    const sending: Comment = { comment: `sending-${++sent}`, target: this.#target, text, user: user() ?? "", at: Date.now(), state: "sending" };
    book.keep(sending);
    try {
      const reply = (await this.#live.keyed("comment", { target: this.#target, text }, options)) as CommentReply;
      book.sent(sending, { ...sending, user: user() ?? "", comment: reply.comment, at: reply.at, state: reply.pending ? "pending" : "visible" });
      return reply;
    } catch (error) {
      book.sent(sending, undefined);
      throw error;
    }
  }

  /** Adds a comment that is known from elsewhere: from the HTTP API, or kept from an earlier visit. */
  remember(comment: Comment): void {
    this.#live.book.keep({ ...comment, target: this.#target });
  }

  /** @internal */
  changed(): void {
    this.#watchers.tell();
  }
}
