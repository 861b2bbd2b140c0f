// The comments that wait, for a host: read over the HTTP API, decided about over the host's own connection. What is read
// anew stays the same on the page: a button that somebody is about to press does not go from under the hand.

import { type Room, RoomcastError } from "@roomcast/client";
import { h, setText } from "../shared/dom";
import { ago, plural } from "../shared/words";

const LOOK_EVERY_MS = 2_000;
const SHOWN = 20;

interface Waiting {
  readonly comment: string;
  readonly target: string;
  readonly text: string;
  readonly user: string;
  readonly at: number;
  readonly version: number;
}

/** Shows the queue of `room` until it is taken out of the page. */
export function queue(room: Room, token: string): HTMLElement {
  const head = h("h3", { tabindex: -1 }, "Waiting comments");
  const note = h("p", { class: "form-note", role: "status" });
  const list = h("ol", { class: "queue", "aria-labelledby": "queue-heading" });
  head.id = "queue-heading";
  const shown = new Map<string, { version: number; element: HTMLElement; draw(now: number): void }>();

  async function decide(item: Waiting, decision: "approve" | "reject"): Promise<void> {
    head.focus();
    try {
      await room.moderate(item.comment, decision, item.version);
      setText(note, decision === "approve" ? "Approved: everybody sees it now." : "Rejected: nobody will see it.");
    } catch (error) {
      setText(note, error instanceof RoomcastError && error.code === "conflict" ? "Another host was faster." : `Not done: ${(error as Error).message}`);
    }
    await look();
  }

  async function look(): Promise<void> {
    const response = await fetch(`/api/v1/rooms/${encodeURIComponent(room.name)}/comments?state=pending&limit=${SHOWN}`, { headers: { authorization: `Bearer ${token}` } }).catch(() => undefined);
    // A balancer keeps the API from the public; then the dashboard is the place.
    if (!response?.ok) return setText(note, "The queue is not to be had from this address; the dashboard has it, too.");
    const { comments = [] } = (await response.json()) as { comments?: Waiting[] };
    setText(head, comments.length === 0 ? "No comment waits" : `${plural(comments.length, "comment waits", "comments wait")}`);
    for (const [comment, { version, element: gone }] of shown) {
      if (comments.some((item) => item.comment === comment && item.version === version)) continue;
      // Another host was faster: who was here finds the heading rather than nothing.
      if (gone.contains(document.activeElement)) head.focus();
      gone.remove();
      shown.delete(comment);
    }
    comments.forEach((item, i) => {
      const known = shown.get(item.comment) ?? card(item);
      shown.set(item.comment, known);
      known.draw(Date.now());
      if (list.children[i] !== known.element) list.insertBefore(known.element, list.children[i] ?? null);
    });
  }

  function card(item: Waiting) {
    const where = h("small", {});
    const element = h("li", { "data-comment": item.comment },
      h("p", {}, item.text, " ", where),
      h("div", { class: "order" },
        h("button", { type: "button", class: "primary", onclick: () => void decide(item, "approve") }, "Approve"),
        h("button", { type: "button", onclick: () => void decide(item, "reject") }, "Reject")));
    return { version: item.version, element, draw: (now: number) => setText(where, `on ${item.target}, ${ago(item.at, now)}`) };
  }

  const element = h("div", { class: "queue-panel" }, head, note, list);
  const clock = setInterval(() => (element.isConnected ? void look() : clearInterval(clock)), LOOK_EVERY_MS);
  void look();
  return element;
}
