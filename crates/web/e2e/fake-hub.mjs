// A hub in one file for looking at the pages and testing the browser runner itself. It keeps the contract's shapes, not
// its promises: no limits, no broker, no real tokens. The real thing is `roomcast serve --dev`.

import { Decoder, Encoder } from "@msgpack/msgpack";
import { createServer } from "node:http";
import { randomBytes } from "node:crypto";
import { WebSocketServer } from "ws";
import { filesOf, ROOT } from "../scripts/build.mjs";
import { join } from "node:path";

export const ADMIN_TOKEN = "fake-admin-token";
const CSP = "default-src 'self'; img-src 'self' data:";
const TYPES = { js: "text/javascript; charset=utf-8", css: "text/css; charset=utf-8", svg: "image/svg+xml", html: "text/html; charset=utf-8" };
const NODES = ["node-a", "node-b", "node-c"];

const hex = (bytes) => randomBytes(bytes).toString("hex");

/** Starts on a free port of 127.0.0.1 unless one is given. */
export async function startFakeHub(port = 0) {
  const files = await filesOf(join(ROOT, "dist"));
  const started = Date.now();
  const rooms = new Map();
  const guests = new Map();
  const sockets = new Set();
  let framesOut = 0;
  let framesIn = 0;
  let extra = 0;

  const roomOf = (name) => {
    if (!rooms.has(name)) rooms.set(name, { name, epoch: hex(8), offset: 0, log: [], counts: new Map(), likes: new Map(), members: new Set(), keys: new Map() });
    return rooms.get(name);
  };
  const presence = (room) => ({ connections: room.members.size, users: new Set([...room.members].map(({ user }) => user)).size });
  const push = (room, frame) => { for (const member of room.members) member.send({ ...frame, room: room.name }); };
  const count = (room, target, counter, by) => {
    const key = `${counter} ${target}`;
    const old = room.counts.get(key) ?? { target, counter, value: 0, version: 0 };
    const next = { ...old, value: old.value + by, version: old.version + 1 };
    room.counts.set(key, next);
    push(room, { push: "count", ...next });
    return next;
  };
  const publish = (room, event, data, from) => {
    const entry = { event, data, offset: ++room.offset, at: Date.now(), ...(from ? { from } : {}) };
    room.log.push(entry);
    push(room, { push: "event", ...entry });
    return { epoch: room.epoch, offset: room.offset };
  };

  const OPS = {
    join(member, { room: name, since, recent }) {
      if (name === "admin" && member.role !== "admin") throw { code: "forbidden", message: "only role admin may join admin" };
      const room = roomOf(name);
      room.members.add(member);
      const recovered = since === undefined || since.epoch === room.epoch;
      const events = since ? room.log.filter(({ offset }) => recovered && offset > since.offset) : recent ? room.log.slice(-recent) : [];
      setTimeout(() => push(room, { push: "presence", ...presence(room) }), 30);
      return { epoch: room.epoch, offset: room.offset, recovered, events, presence: presence(room), counts: [...room.counts.values()] };
    },
    leave(member, { room }) {
      roomOf(room).members.delete(member);
      push(roomOf(room), { push: "presence", ...presence(roomOf(room)) });
      return {};
    },
    publish: (member, { room, event, data }) => publish(roomOf(room), event, data, member.user),
    like(member, { room: name, target, on }) {
      const room = roomOf(name);
      const key = `${target} ${member.user}`;
      if ((room.likes.get(key) ?? false) !== on) count(room, target, "like", on ? 1 : -1);
      room.likes.set(key, on);
      const { value = 0, version = 0 } = room.counts.get(`like ${target}`) ?? {};
      return { value, on, version };
    },
    count(_member, { room, target, counter, by }) {
      const { value, version } = count(roomOf(room), target, counter, by);
      return { value, version };
    },
    comment(member, { room: name, target, text }) {
      const room = roomOf(name);
      const comment = hex(6);
      const { version } = count(room, target, "comment", 1);
      publish(room, "comment", { comment, target, text, user: member.user, at: Date.now(), version });
      return { comment, pending: false, version, at: Date.now() };
    },
    ping: () => ({ now: Date.now() }),
    refresh: () => ({ expires_at: Date.now() + 3_600_000 }),
  };

  const server = createServer((request, response) => {
    const { pathname } = new URL(request.url, "http://localhost");
    const name = pathname === "/" ? "demo/index.html" : pathname === "/admin" ? "admin/index.html" : pathname.slice(1);
    const body = files.get(name);
    if (!body) return response.writeHead(404).end();
    response.writeHead(200, { "content-type": TYPES[name.split(".").at(-1)] ?? "text/plain", "content-security-policy": CSP, "x-content-type-options": "nosniff" }).end(body);
  });

  const upgrades = new WebSocketServer({ server, path: "/ws", handleProtocols: (offered) => [...offered].find((name) => name.startsWith("roomcast.v1.")) ?? false });
  upgrades.on("connection", (socket) => {
    const encoder = new Encoder();
    const decoder = new Decoder();
    const binary = socket.protocol === "roomcast.v1.msgpack";
    const member = {
      user: undefined,
      role: "guest",
      send(frame) { framesOut++; socket.send(binary ? encoder.encode(frame) : JSON.stringify(frame)); },
    };
    sockets.add(socket);
    socket.on("message", (data) => {
      framesIn++;
      const { id, op, ...fields } = binary ? decoder.decode(data) : JSON.parse(data.toString());
      if (op === "connect") {
        if (fields.token !== undefined && fields.token !== ADMIN_TOKEN) {
          member.send({ id, error: { code: "invalid_token", message: "the token is not valid" } });
          return socket.close(4500, "invalid token");
        }
        const secret = fields.token ? undefined : guests.has(fields.guest) ? fields.guest : hex(16);
        if (secret && !guests.has(secret)) guests.set(secret, `g_${hex(6)}`);
        member.role = fields.token ? "admin" : "guest";
        member.user = fields.token ? "alice" : guests.get(secret);
        return member.send({ id, ok: { session: hex(8), user: member.user, role: member.role, ...(secret ? { guest: secret } : {}), ping_ms: 25_000, node: NODES[0], limits: { frame_bytes: 65_536 } } });
      }
      try {
        if (!OPS[op]) throw { code: "unknown_op", message: `unknown op ${op}` };
        member.send({ id, ok: OPS[op](member, fields) });
      } catch (error) {
        member.send({ id, error });
      }
    });
    socket.on("close", () => {
      sockets.delete(socket);
      for (const room of rooms.values()) if (room.members.delete(member)) push(room, { push: "presence", ...presence(room) });
    });
  });

  let muted = false;
  const clock = setInterval(() => {
    if (muted) return;
    extra += 40 + Math.round(30 * Math.sin(Date.now() / 5_000));
    NODES.forEach((node, i) => {
      const own = i === 0 ? 1 : 0;
      push(roomOf("admin"), { push: "signal", event: "node", data: {
        node, version: "0.1.0", uptime_s: Math.floor((Date.now() - started) / 1_000) + i * 4_000, at: Date.now(),
        connections: own ? sockets.size : 18_200 + Math.round(400 * Math.sin(Date.now() / 9_000 + i)), connections_cap: 100_000,
        rooms: own ? rooms.size : 310 * i, members: [...rooms.values()].reduce((sum, room) => sum + room.members.size, 0) + (own ? 0 : 41_000),
        frames_in: framesIn + extra * i * 3, frames_out: framesOut + extra * i * 900, events: extra * i, drops: 0, slow_closed: i === 2 ? 3 : 0,
        memory_bytes: 96e6 + i * 21e6, redis: "ok", breaker: "closed", draining: i === 2,
      } });
    });
  }, 1_000);

  await new Promise((done) => server.listen(port, "127.0.0.1", done));
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    /** Ends every socket as a lost network would. */
    drop() { for (const socket of sockets) socket.terminate(); },
    /** Ends every socket, and begins a new epoch with an empty history of the same room. */
    forget(name) { Object.assign(roomOf(name), { epoch: hex(8), offset: 0, log: [] }); this.drop(); },
    /** Ends the nodes' reports, or lets them go on. */
    mute(on) { muted = on; },
    publish: (room, event, data, from) => publish(roomOf(room), event, data, from),
    like(room, target, times) { for (let n = 0; n < times; n++) count(roomOf(room), target, "like", 1); },
    comment: (room, target, text, user, at = Date.now()) => { const { version } = count(roomOf(room), target, "comment", 1); publish(roomOf(room), "comment", { comment: hex(6), target, text, user, at, version }); },
    async stop() {
      clearInterval(clock);
      for (const socket of sockets) socket.terminate();
      upgrades.close();
      server.closeAllConnections();
      await new Promise((done) => server.close(done));
    },
  };
}
