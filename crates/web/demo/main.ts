// The photo wall: an event room as its guests see it.

import { type Codec, type Count, Roomcast, RoomcastError } from "@roomcast/client";
import { h, need, setText } from "../shared/dom";
import { count, plural } from "../shared/words";
import { adminStrip } from "./admin-strip";
import { connectionBadge } from "./badge";
import { Card, type Comment } from "./card";
import { GALLERY } from "./gallery";
import { Likes } from "./likes";

const query = new URLSearchParams(location.search);
const asked = query.get("room") ?? "";
const roomName = /^event:[A-Za-z0-9._~-]{1,128}$/.test(asked) ? asked : "event:demo";
const codec: Codec = query.get("codec") === "msgpack" ? "msgpack" : "json";

const rc = new Roomcast({ codec, guestKey: "roomcast:guest" });
const room = rc.room(roomName, { recent: 50 });
let likes: Likes | undefined;
let me: string | undefined;

const cards = new Map(GALLERY.map((photo, i) => [photo.id, new Card(photo, {
  async like(id, on) {
    try {
      await room.like(id, on);
      likes?.set(id, on);
    } catch (error) {
      toast(refusal("Your like did not get through", error));
      throw error;
    }
  },
  async comment(id, text) {
    const reply = await room.comment(id, text);
    return reply.pending ? "Thank you! It appears once a host has approved it." : undefined;
  },
  nameOf: (user) => (user === me ? "You" : `Guest ${user.replace(/^guest[-_:]?/i, "").slice(-5)}`),
}, i < 6)]));

function start(): void {
  setText(need("room"), roomName);
  need("wall").append(...[...cards.values()].map((card) => card.element));
  connectionBadge(rc, room, codec);
  adminStrip(toast);
  setInterval(() => { for (const card of cards.values()) card.tick(Date.now()); }, 15_000);

  rc.on("state", (state) => {
    document.body.classList.toggle("offline", state.name !== "connected");
    if (state.name !== "connected" || state.session.user === me) return;
    me = state.session.user;
    likes = new Likes(roomName, me, showLiked);
    showLiked();
  });
  room.on("presence", ({ users, connections }) => {
    setText(need("guests"), count(users));
    setText(need("guests-word"), users === 1 ? "guest" : "guests");
    need("guests-pill").title = `${plural(users, "guest")} on ${plural(connections, "screen")}`;
  });
  room.on("count", showCount);
  room.on("event", (event) => {
    const comment = event.event === "comment" ? readComment(event.data) : undefined;
    const card = comment && cards.get(comment.target);
    if (!comment || !card?.add(comment) || event.replay || comment.user === me) return;
    setText(need("announce"), `New comment on ${GALLERY.find(({ id }) => id === comment.target)?.title ?? "a photo"}: ${comment.text}`);
  });
  room.on("reset", () => {
    for (const card of cards.values()) card.clear();
    room.reload();
  });
  room.on("error", (error) => toast(refusal(`The room ${roomName} is closed to you`, error)));
  room.on("kicked", ({ reason }) => toast(`You were removed from the room: ${reason}`));
  rc.connect();
}

function showCount({ target, counter, value }: Count): void {
  const card = cards.get(target);
  if (counter === "like") card?.setLikes(value);
  else if (counter === "comment") card?.setCommentCount(value);
  let sum = 0;
  for (const id of cards.keys()) sum += room.value(id, "like");
  setText(need("likes-total"), count(sum));
}

function showLiked(): void {
  for (const [id, card] of cards) card.setLiked(likes?.has(id) ?? false);
}

/** Undefined where it is no comment that could be shown. */
function readComment(data: unknown): Comment | undefined {
  if (typeof data !== "object" || data === null) return undefined;
  const { comment, target, text, user, at } = data as Record<string, unknown>;
  if (typeof target !== "string" || typeof text !== "string" || typeof user !== "string") return undefined;
  return { comment: String(comment), target, text, user, at: typeof at === "number" ? at : Date.now() };
}

function refusal(what: string, error: unknown): string {
  const wait = error instanceof RoomcastError && error.retryMs ? ` Try again in ${Math.ceil(error.retryMs / 1_000)} s.` : "";
  return `${what}: ${(error as Error).message}.${wait}`;
}

function toast(text: string): void {
  const item = h("li", {}, text);
  const list = need("toasts");
  list.append(item);
  while (list.children.length > 3) list.firstElementChild?.remove();
  setTimeout(() => item.remove(), 6_000);
}

start();
