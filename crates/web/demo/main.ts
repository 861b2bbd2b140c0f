// The photo wall: an event's room as its guests see it. It wires the parts together; what they show is theirs.

import { type Codec, type Presence, Roomcast, RoomcastError } from "@roomcast/client";
import { h, need, setText } from "../shared/dom";
import { count, plural } from "../shared/words";
import { adminStrip } from "./admin-strip";
import { fetchPicture, type Picture } from "./album";
import { connectionBadge } from "./badge";
import { Card, type CardHost } from "./card";
import { GALLERY, type Photo } from "./gallery";
import { Memory } from "./memory";
import { readout } from "./readout";
import { sale } from "./sale";
import { colours } from "./theme";
import { uploads } from "./uploads";

/** Beyond so many photos of guests on the wall the oldest makes room. */
const MAX_GUEST_PHOTOS = 60;

const query = new URLSearchParams(location.search);
const asked = query.get("room") ?? "";
const roomName = /^[a-z][a-z0-9_-]{0,31}:[A-Za-z0-9._~-]{1,128}$/.test(asked) ? asked : "wall:summer-night";
const codec: Codec = query.get("codec") === "msgpack" ? "msgpack" : "json";

const rc = new Roomcast({ codec, guestKey: "roomcast:guest" });
const room = rc.room(roomName, { recent: 200 });
const cards = new Map<string, Card>();
/** Photos of guests, the oldest first. */
const shared: string[] = [];
let memory: Memory | undefined;
let me: string | undefined;
/** One picture is fetched at a time, so that a full wall does not knock on the hub a hundred times at once. */
let fetching: Promise<void> = Promise.resolve();

const nameOf = (user: string): string => (user === me || user === "" ? "You" : `Guest ${user.replace(/^(guest|g)[-_:]?/i, "").slice(-5)}`);
const { announce, comment: readComment } = readout(need("announce"));

const host: CardHost = {
  room,
  nameOf,
  liked: (photo, on) => memory?.like(photo, on),
  waits: (comment) => memory?.wait({ ...comment, user: me ?? "" }),
  failed: (what, error) => toast(refusal(what, error)),
};

function hang(photo: Photo, eager: boolean): Card {
  const card = new Card(photo, host, eager);
  cards.set(photo.id, card);
  return card;
}

/** A photo that a guest has shared, from the moment the hub says that it is complete. */
function hangShared(id: string, user: string, picture: Picture | undefined): void {
  const known = cards.get(id);
  const photo = (found: Picture | undefined): Photo => ({ id, title: found?.title || "A photo", by: nameOf(user), alt: `A photo by ${nameOf(user)}: ${found?.title || "untitled"}`, src: found?.src });
  if (known) {
    if (picture) known.show(photo(picture));
    return;
  }
  const card = hang(photo(picture), true);
  card.element.classList.add("fresh");
  need("wall").prepend(card.element);
  shared.push(id);
  recall();
  if (shared.length > MAX_GUEST_PHOTOS) takeDown(shared.shift()!);
  if (picture) return;
  fetching = fetching.then(async () => {
    const found = await fetchPicture(room, id).catch(() => undefined);
    if (found) card.show(photo(found));
    else takeDown(id);
  });
}

function takeDown(id: string): void {
  cards.get(id)?.end();
  cards.delete(id);
}

function start(): void {
  colours(need<HTMLButtonElement>("colours"));
  setText(need("room"), roomName);
  need("wall").append(...GALLERY.map((photo, i) => hang(photo, i < 6).element));
  connectionBadge(rc, room, codec);
  adminStrip(roomName, toast);
  sale(room, announce);
  uploads(room, { user: () => me, announce, done: (id, picture) => hangShared(id, me ?? "", picture) });
  setInterval(() => { for (const card of cards.values()) card.tick(Date.now()); }, 15_000);

  rc.on("state", (state) => {
    document.body.classList.toggle("offline", state.name !== "connected");
    if (state.name !== "connected" || state.session.user === me) return;
    me = state.session.user;
    memory = new Memory(roomName, me, recall);
    recall();
  });
  room.people().subscribe(showPeople);
  room.on("count", ({ counter }) => {
    if (counter !== "like") return;
    let sum = 0;
    for (const id of cards.keys()) sum += room.value(id, "like");
    setText(need("likes-total"), count(sum));
    setText(need("likes-word"), sum === 1 ? "like" : "likes");
  });
  room.on("event", ({ event, data, replay }) => {
    const { target, comment, text, user } = (data ?? {}) as Record<string, unknown>;
    if (typeof target !== "string" || typeof user !== "string") return;
    if (event === "upload") hangShared(target, user, undefined);
    if (event !== "comment" || typeof comment !== "string") return;
    const approved = memory?.decided(comment) ?? false;
    if (replay || !cards.has(target)) return;
    if (approved) toast("A host has approved your comment.");
    else if (user !== me) readComment(String(text));
  });
  room.on("reset", () => room.reload());
  room.on("error", (error) => { if (!(error instanceof RoomcastError && error.code === "closed")) toast(refusal(`The room ${roomName} is closed to you`, error)); });
  room.on("kicked", ({ reason }) => toast(`You were removed from the room: ${reason}`));
  rc.connect();
}

/** What this browser's guest liked, and said, on an earlier visit or in another tab. */
function recall(): void {
  const liked = new Set(memory?.likes);
  for (const id of cards.keys()) {
    const likes = room.likes(id);
    if (!likes.value.pending && liked.has(id) !== (likes.value.on ?? false)) likes.remember(liked.has(id));
  }
  for (const comment of memory?.waiting(Date.now()) ?? []) {
    if (cards.has(comment.target) && !room.comments(comment.target).value.some((known) => known.comment === comment.comment)) room.comments(comment.target).remember(comment);
  }
}

function showPeople({ users, connections }: Presence): void {
  setText(need("guests"), count(users));
  setText(need("guests-word"), users === 1 ? "guest" : "guests");
  need("guests-pill").title = `${plural(users, "guest")} on ${plural(connections, "screen")}`;
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
