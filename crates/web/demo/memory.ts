// What this browser remembers for its guest, because the hub counts likes and does not list them, and shows a comment that
// waits to nobody: which photos are liked, and which comments wait. Shared by the browser's tabs; bounded.

import type { Comment } from "@roomcast/client";

const MAX_WAITING = 50;
/** A comment that nobody has approved by then was not approved. */
const WAITS_MS = 24 * 3_600_000;

export class Memory {
  readonly #likes: string;
  readonly #waiting: string;

  /** `changed` is called when another tab has changed something. */
  constructor(room: string, user: string, changed: () => void) {
    this.#likes = `roomcast:likes:${room}:${user}`;
    this.#waiting = `roomcast:waiting:${room}:${user}`;
    addEventListener("storage", ({ key }) => { if (key === this.#likes || key === this.#waiting) changed(); });
  }

  get likes(): string[] {
    return read(this.#likes).filter((id): id is string => typeof id === "string");
  }

  like(photo: string, on: boolean): void {
    write(this.#likes, [...new Set([...this.likes.filter((id) => id !== photo), ...(on ? [photo] : [])])]);
  }

  waiting(now: number): Comment[] {
    return read(this.#waiting).filter((item): item is Comment => isComment(item) && now - item.at < WAITS_MS);
  }

  wait(comment: Comment): void {
    write(this.#waiting, [...this.waiting(Date.now()).filter((item) => item.comment !== comment.comment), comment].slice(-MAX_WAITING));
  }

  /** True where it was waiting until now. */
  decided(comment: string): boolean {
    const before = this.waiting(Date.now());
    const after = before.filter((item) => item.comment !== comment);
    if (after.length < before.length) write(this.#waiting, after);
    return after.length < before.length;
  }
}

function isComment(item: unknown): item is Comment {
  const { comment, target, text, user, at } = (item ?? {}) as Record<string, unknown>;
  return [comment, target, text, user].every((field) => typeof field === "string") && typeof at === "number";
}

function read(key: string): unknown[] {
  try {
    const held: unknown = JSON.parse(localStorage.getItem(key) ?? "[]");
    return Array.isArray(held) ? held : [];
  } catch {
    return [];
  }
}

function write(key: string, items: unknown[]): void {
  try {
    localStorage.setItem(key, JSON.stringify(items));
  } catch {
    // Forgotten with the page, then.
  }
}
