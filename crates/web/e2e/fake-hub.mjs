// The fake hub of `@roomcast/client/testing` behind a real HTTP server and real WebSockets, for looking at the pages and
// testing the browser runner itself. It keeps the contract's shapes, not its promises: no limits, no broker, no real
// tokens. The real thing is `roomcast serve --dev`.

import { Decoder, Encoder } from "@msgpack/msgpack";
import { createServer } from "node:http";
import { join } from "node:path";
import { WebSocketServer } from "ws";
import { FakeHub } from "@roomcast/client/testing";
import { RoomcastError } from "@roomcast/client";
import { filesOf, ROOT } from "../scripts/build.mjs";

export const ADMIN_TOKEN = "fake-admin-token";
const CSP = "default-src 'self'; img-src 'self' data:; connect-src 'self' ws: wss:";
const TYPES = { js: "text/javascript; charset=utf-8", css: "text/css; charset=utf-8", svg: "image/svg+xml", html: "text/html; charset=utf-8" };
// The last one is named as a node names itself where nobody does.
const NODES = ["node-a", "node-b", "5f0c2a9be4d17736"];
/** So long a lost node is still told of. */
const LEASE_MS = 4_500;

/** What the dashboard asks for beside rooms. */
const ADMIN_OPS = {
  queue: (hub) => ({ comments: hub.pending }),
  audit: () => ({ entries: [] }),
  drain: () => ({}),
  shed: () => ({}),
};

let guests = 0;
const secrets = new Map();

function identify({ token, guest }) {
  if (token === ADMIN_TOKEN) return { user: "alice", role: "admin" };
  if (token !== undefined) throw new RoomcastError("invalid_token", "the token is not valid");
  const secret = secrets.has(guest) ? guest : `secret-${Math.random().toString(36).slice(2)}`;
  if (!secrets.has(secret)) secrets.set(secret, `g_${String(++guests).padStart(5, "0")}`);
  return { user: secrets.get(secret), role: "guest", guest: secret };
}

/** Starts on a free port of 127.0.0.1 unless one is given. */
export async function startFakeHub(port = 0) {
  const files = await filesOf(join(ROOT, "dist"));
  const started = Date.now();
  const hub = new FakeHub({ identify, moderated: (room) => room.startsWith("wall:"), node: NODES[0] });
  const sockets = new Set();
  let framesIn = 0;
  let framesOut = 0;

  /** `POST /api/v1/{op}`, as far as the steps use it. */
  const operation = (op, { room: name, user = "api", ...fields }) => {
    const room = hub.room(name);
    if (op === "stock") return room.offer(fields.item, fields.stock, fields.per_user, fields.hold_ms) ?? {};
    return room.answer({ user, role: "service", send() {} }, op, fields);
  };

  const server = createServer(async (request, response) => {
    const { pathname } = new URL(request.url, "http://localhost");
    if (request.method === "POST" && pathname.startsWith("/api/v1/")) {
      let body = "";
      for await (const chunk of request) body += chunk;
      try {
        const ok = JSON.stringify(operation(pathname.split("/").at(-1), JSON.parse(body)));
        return response.writeHead(200, { "content-type": "application/json" }).end(ok);
      } catch (error) {
        return response.writeHead(409, { "content-type": "application/problem+json" }).end(JSON.stringify({ code: error.code, detail: error.message }));
      }
    }
    const queue = /^\/api\/v1\/rooms\/([^/]+)\/comments$/.exec(pathname);
    if (queue && request.headers.authorization === `Bearer ${ADMIN_TOKEN}`) {
      const comments = hub.pending.filter(({ room }) => room === decodeURIComponent(queue[1]));
      return response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify({ comments }));
    }
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
    const line = hub.line(
      (frame) => { framesOut++; socket.send(binary ? encoder.encode(frame) : JSON.stringify(frame)); },
      // 1006 is what a socket shows that was never closed.
      (code, reason) => (code === 1006 ? socket.terminate() : socket.close(code, reason)));
    sockets.add(socket);
    socket.on("message", (data) => {
      framesIn++;
      const frame = binary ? decoder.decode(data) : JSON.parse(data.toString());
      const ok = ADMIN_OPS[frame.op]?.(hub);
      // Only the dashboard asks for these, and only behind the room `admin`.
      if (ok && !binary) socket.send(JSON.stringify({ id: frame.id, ok }));
      else line.receive(frame);
    });
    socket.on("close", () => {
      sockets.delete(socket);
      line.gone();
    });
  });

  let muted = false;
  const lost = new Map();
  const told = (node) => Date.now() - (lost.get(node) ?? Date.now()) < LEASE_MS;
  let seq = 0;
  const clock = setInterval(() => {
    if (muted) return;
    const nodes = Object.fromEntries(NODES.filter(told).map((node) => {
      const i = NODES.indexOf(node);
      const own = i === 0;
      return [node, {
        node, version: "0.1.0", uptime_s: Math.floor((Date.now() - started) / 1_000) + i * 4_000, at: lost.get(node) ?? Date.now(),
        connections: own ? sockets.size : 18_200 + Math.round(400 * Math.sin(Date.now() / 9_000 + i)), connections_cap: 100_000,
        rooms: own ? 2 : 310 * i, members: own ? sockets.size : 41_000, in_per_s: own ? framesIn : 30 * i, out_per_s: own ? framesOut : 9_000 * i, drops: 0,
        slow_closed: i === 2 ? 3 : 0, memory_bytes: 96e6 + i * 21e6, redis: "ok", breaker: "closed", phase: "serving",
      }];
    }));
    framesIn = framesOut = 0;
    const sum = (of) => Object.values(nodes).reduce((all, node) => all + node[of], 0);
    const total = Object.fromEntries(["connections", "connections_cap", "rooms", "members", "in_per_s", "out_per_s", "drops", "slow_closed", "memory_bytes"].map((of) => [of, sum(of)]));
    hub.room("admin").push({ push: "signal", event: "cluster", data: { by: "fake", seq: seq++, state: { at: Date.now(), total, nodes, rooms: [] } } });
  }, 1_000);

  await new Promise((done) => server.listen(port, "127.0.0.1", done));
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    hub,
    /** Ends every socket as a lost network would. */
    drop: () => hub.drop(),
    /** Ends every socket, and begins a new epoch with an empty history of the same room. */
    forget(name) { hub.room(name).forget(); hub.drop(); },
    /** Ends the nodes' reports, or lets them go on. */
    mute(on) { muted = on; },
    /** The last node dies without a word, or is back. */
    lose(on) { if (on) lost.set(NODES.at(-1), Date.now()); else lost.clear(); return NODES.at(-1); },
    publish: (room, event, data, from) => hub.room(room).publish(event, data, from),
    like(room, target, times) { for (let n = 0; n < times; n++) hub.room(room).count(target, "like", 1); },
    comment: (room, target, text, user) => hub.room(room).comment(user, target, text),
    async stop() {
      clearInterval(clock);
      for (const socket of sockets) socket.terminate();
      hub.stop();
      upgrades.close();
      server.closeAllConnections();
      await new Promise((done) => server.close(done));
    },
  };
}

// `node e2e/fake-hub.mjs 8080`: to look at the pages without a hub.
if (process.argv[1]?.endsWith("fake-hub.mjs")) {
  const { url, hub } = await startFakeHub(Number(process.argv[2] ?? 8080));
  hub.room("wall:summer-night").offer("print-a3", 10, 2, 60_000);
  console.log(`${url}/ and ${url}/admin#token=${ADMIN_TOKEN}`);
}
