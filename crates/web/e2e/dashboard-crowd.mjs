// A crowd for a running hub: sockets in a handful of rooms that like, chat, type and comment, so that a dashboard has
// something to show. Used by the dashboard's pictures and its steps.

import { WebSocket } from "ws";

const ROOMS = ["event:garden-party", "event:main-stage", "event:photo-wall", "event:kitchen", "event:after-hours"];
const PHOTOS = ["golden-hour", "cheers", "the-cake", "fireworks", "bouquet"];
const PENDING = ["Who took this one? It is wonderful.", "Call me <b>now</b> for cheap watches!!!", "That cake, though.", "Grandma wants this in large, please."];

/** One guest: connected, and in its room. */
function guest(url, room) {
  const socket = new WebSocket(`${url.replace(/^http/, "ws")}/ws`, ["roomcast.v1.json"], { origin: url });
  let id = 0;
  const say = (op, fields) => socket.readyState === 1 && socket.send(JSON.stringify({ id: ++id, op, ...fields }));
  const ready = new Promise((done, failed) => {
    socket.once("error", failed);
    socket.once("open", () => { say("connect", {}); say("join", { room }); });
    socket.on("message", (text) => { if (JSON.parse(text).id === 2) done(); });
  });
  return { socket, room, say, ready };
}

/** Brings so many guests, spread over the nodes and unevenly over the rooms. `api` is asked with the admin's token. */
export async function crowd(urls, token, { guests = 60, pending = true } = {}) {
  const api = async (op, body) => {
    const response = await fetch(`${urls[0]}/api/v1/${op}`, { method: "POST", headers: { authorization: `Bearer ${token}`, "content-type": "application/json" }, body: JSON.stringify(body) });
    if (!response.ok) throw new Error(`${op}: ${response.status} ${await response.text()}`);
  };
  const all = Array.from({ length: guests }, (_, i) => guest(urls[i % urls.length], ROOMS[Math.floor((i / guests) ** 2 * ROOMS.length)]));
  await Promise.all(all.map(({ ready }) => ready));
  if (pending) for (const [i, text] of PENDING.entries()) await api("comment", { room: ROOMS[i % 2], target: PHOTOS[i], text, user: `guest-${i}` });
  let turn = 0;
  const clock = setInterval(() => {
    turn++;
    for (let n = 0; n < 4; n++) {
      const one = all[(turn * 7 + n * 13) % all.length];
      one.say("like", { room: one.room, target: PHOTOS[turn % PHOTOS.length], on: turn % 3 !== 0 });
    }
    if (turn % 2 === 0) void api("publish", { room: ROOMS[turn % ROOMS.length], event: "photo", data: { src: `photo-${turn}.jpg`, by: `guest-${turn % 40}` } }).catch(() => {});
  }, 250);
  return { rooms: ROOMS, leave() { clearInterval(clock); for (const { socket } of all) socket.terminate(); } };
}
