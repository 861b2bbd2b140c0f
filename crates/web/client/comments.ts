// A target's comments: this client's own on their way, those that wait for approval, those that everybody sees.

import { Handle, Watchers } from "./handle";
import type { Live } from "./live";
import type { Comment, CommentReply, KeyedOptions, RoomEvent } from "./types";

const MAX_COMMENTS = 500;

/** A target's comments, oldest first, the newest 500 of them. */
export class Comments extends Handle<readonly Comment[]> {
  readonly #live: Live;
  readonly #target: string;
  readonly #held: Map<string, Comment>;
  readonly #changed: () => void;

  /** @internal */
  constructor(live: Live, target: string) {
    const held = new Map<string, Comment>();
    const watchers = new Watchers();
    super(() => [...held.values()].sort((a, b) => Number(a.state === "sending") - Number(b.state === "sending") || a.at - b.at), watchers.add);
    this.#live = live;
    this.#target = target;
    this.#held = held;
    this.#changed = () => watchers.tell();
  }

  /** Sends a comment and shows it at once. */
  async add(text: string, options?: KeyedOptions): Promise<CommentReply> {
    const sending: Comment = { comment: `sending-${Math.random()}`, target: this.#target, text, user: this.#live.user() ?? "", at: Date.now(), state: "sending" };
    this.remember(sending);
    try {
      const reply = (await this.#live.keyed("comment", { target: this.#target, text }, options)) as CommentReply;
      this.#held.delete(sending.comment);
      if (!this.#held.has(reply.comment)) {
        this.remember({ ...sending, user: this.#live.user() ?? "", comment: reply.comment, at: reply.at, state: reply.pending ? "pending" : "visible" });
      } else this.#changed();
      return reply;
    } catch (error) {
      this.#held.delete(sending.comment);
      this.#changed();
      throw error;
    }
  }

  /** Adds a comment that is known from elsewhere: from the HTTP API, or kept from an earlier visit. */
  remember(comment: Comment): void {
    this.#held.set(comment.comment, comment);
    for (const oldest of this.#held.keys()) {
      if (this.#held.size <= MAX_COMMENTS) break;
      this.#held.delete(oldest);
    }
    this.#changed();
  }

  /** @internal */
  hear({ event, data, at }: RoomEvent): void {
    const { target, comment, text, user } = (data ?? {}) as Record<string, unknown>;
    if (target !== this.#target || typeof comment !== "string") return;
    if (event === "comment_deleted" && this.#held.delete(comment)) this.#changed();
    if (event !== "comment" || typeof text !== "string" || typeof user !== "string") return;
    // The event may come before the answer: then it stands for what was being sent.
    if (user === this.#live.user() && !this.#held.has(comment)) {
      const mine = [...this.#held.values()].find((held) => held.state === "sending" && held.text.trim() === text);
      if (mine) this.#held.delete(mine.comment);
    }
    const told = (data as { at?: unknown }).at;
    this.remember({ comment, target, text, user, at: typeof told === "number" ? told : at, state: "visible" });
  }

  /** @internal */
  reset(): void {
    for (const { comment, state } of [...this.#held.values()]) if (state === "visible") this.#held.delete(comment);
    this.#changed();
  }
}
