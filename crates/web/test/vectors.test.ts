// The golden vectors of the protocol crate, read and written by this client: the same file that the hub is held to.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { wireCodec } from "../client/codec";
import type { Room } from "../client/room";
import type { Roomcast } from "../client/roomcast";
import type { Frame } from "../client/types";
import { answerJoin, client, connected, FakeSocket, settle } from "./fake-socket";

interface Vector {
  readonly name: string;
  readonly direction: "client" | "server";
  readonly json: string;
  readonly msgpack: string;
}

const file = join(import.meta.dirname, "../../protocol/vectors/frames.json");
const vectors = JSON.parse(readFileSync(file, "utf8")) as Vector[];
const named = new Map(vectors.map((vector) => [vector.name, vector]));
const bytes = (hex: string): ArrayBuffer => new Uint8Array(Buffer.from(hex, "hex")).buffer;
const hex = (data: unknown): string => Buffer.from(data as Uint8Array).toString("hex");

beforeEach(() => {
  vi.useFakeTimers();
  FakeSocket.all = [];
});
afterEach(() => vi.useRealTimers());

describe("every vector", () => {
  it.each(vectors)("$name reads the same from both codecs", ({ json, msgpack }) => {
    expect(wireCodec("msgpack").decode(bytes(msgpack))).toEqual(wireCodec("json").decode(json));
  });

  it.each(vectors.filter(({ direction }) => direction === "client"))("$name is written byte for byte", ({ json, msgpack }) => {
    const frame = JSON.parse(json) as Frame;
    expect(wireCodec("json").encode(frame)).toBe(json);
    expect(hex(wireCodec("msgpack").encode(frame))).toBe(msgpack);
  });

  it.each(vectors.filter(({ direction }) => direction === "server"))("$name disturbs no connected client", async ({ json, msgpack }) => {
    for (const codec of ["json", "msgpack"] as const) {
      const { rc, socket } = await connected({ codec });
      rc.room("event:wall");
      answerJoin(socket, { epoch: "0123456789abcdef", offset: 1 });
      const errors: Error[] = [];
      rc.on("error", (error) => errors.push(error));
      socket.onmessage?.({ data: codec === "json" ? json : bytes(msgpack) });
      expect(rc.state.name).toBe("connected");
      // Only a refusal that answers nothing of ours is for the application.
      expect(errors).toHaveLength(json.startsWith('{"error"') ? 1 : 0);
      rc.close();
    }
  });
});

const ADMIN_OPS = new Set(["audit", "disconnect", "drain", "queue", "shed", "stats"]);

describe("the client itself writes", () => {
  const since = { epoch: "0123456789abcdef", offset: 41 };
  const data = () => (JSON.parse(named.get("publish")!.json) as { data: unknown }).data;
  const calls: Record<string, (room: Room, rc: Roomcast) => unknown> = {
    publish: (room) => room.publish("photo", data(), { key: "k-1" }),
    history: (room) => room.history({ limit: 50 }),
    "history/since": (room) => room.history({ since }),
    presence: (room) => room.presence({ cursor: "alice", limit: 100 }),
    "presence/bare": (room) => room.presence(),
    ping: (_room, rc) => rc.ping(),
    like: (room) => room.like("photo-1"),
    count: (room) => room.count("photo-1", "download", 3, { key: "k-2" }),
    "history/before": (room) => room.history({ before: 41, limit: 50 }),
    comment: (room) => room.comment("photo-1", "Schön! 😀", { key: "k-3" }),
    moderate: (room) => room.moderate("c-1", "approve", 1),
    "upload/bare": (room) => room.upload("photo-2").start(),
    upload: (room) => room.upload("photo-2").report(40),
    reserve: (room) => room.stock("print-a3").reserve(2, { key: "k-4" }),
    claim: (_room, rc) => rc.claim("slug", "summer-party"),
    put: (room) => room.put("settings", { theme: "dark" }, 0),
    get: (room) => room.get("settings"),
  };

  it.each(Object.keys(calls))("%s as the vector has it, byte for byte in both codecs", async (name) => {
    for (const codec of ["json", "msgpack"] as const) {
      const { rc, socket } = await connected({ codec });
      const room = rc.room("event:wall");
      answerJoin(socket);
      void Promise.resolve(calls[name]!(room, rc)).catch(() => {});
      const { json, msgpack } = named.get(name)!;
      // The number is the client's own; everything else is in the order of the vector.
      const own = { ...socket.sent.at(-1), id: 7 };
      expect(wireCodec("json").encode(own)).toBe(json);
      expect(hex(wireCodec("msgpack").encode(own))).toBe(msgpack);
      rc.close();
    }
  });

  it("confirm and release of a hold as the vectors have them", async () => {
    const { rc, socket } = await connected();
    const room = rc.room("event:wall");
    answerJoin(socket);
    const reserving = room.stock("print-a3").reserve(2);
    socket.ok(socket.ops("ping")[0]!.id, { now: Date.now() });
    socket.ok(socket.ops("reserve")[0]!.id, { reservation: "r-1", remaining: 8, expires_at: Date.now() + 60_000 });
    const hold = await reserving;
    for (const op of ["confirm", "release"] as const) {
      hold[op]().catch(() => {});
      expect({ ...socket.sent.at(-1), id: 7 }).toEqual(JSON.parse(named.get(op)!.json));
    }
    rc.close();
  });

  it("what only admins ask for by its bare name, as the vectors have it", async () => {
    const own = new Set(vectors.filter(({ name }) => !(name in calls)).map(({ name }) => name));
    for (const { name, json } of vectors) {
      const { id: _id, op, ...fields } = JSON.parse(json) as Frame & { op: string };
      if (!ADMIN_OPS.has(op) || !own.has(name)) continue;
      const { rc, socket } = await connected();
      rc.call(op, fields).catch(() => {});
      expect(wireCodec("json").encode({ ...socket.sent.at(-1), id: 7 }), name).toBe(json);
      rc.close();
    }
  });

  it("every operation that a vector has", () => {
    const ops = new Set(vectors.filter(({ direction }) => direction === "client").map(({ json }) => (JSON.parse(json) as { op: string }).op));
    const tested = new Set([...Object.keys(calls).map((name) => name.split("/")[0]!), "connect", "join", "leave", "refresh", "signal", "confirm", "release", ...ADMIN_OPS]);
    expect([...ops].filter((op) => !tested.has(op))).toEqual([]);
  });

  it.each([["connect", {}], ["connect/token", { token: "a.b.c" }], ["connect/ticket", { getTicket: () => "t-1" }]] as const)("%s as the vector has it", async (name, options) => {
    client(options).connect();
    await settle();
    FakeSocket.last.open();
    expect({ ...FakeSocket.last.sent[0], id: 7 }).toEqual(JSON.parse(named.get(name)!.json));
  });

  it("join, leave and refresh as the vectors have them", async () => {
    const { rc, socket } = await connected({ getToken: () => "a.b.c" });
    const seen: Record<string, unknown> = {};
    const room = rc.room("event:wall");
    seen.join = socket.sent.at(-1);
    answerJoin(socket);
    room.leave();
    seen.leave = socket.sent.at(-1);
    rc.room("event:wall", { recent: 20 });
    seen["join/recent"] = socket.sent.at(-1);
    socket.say({ push: "expiring", expires_at: 1 });
    await settle();
    seen.refresh = socket.sent.at(-1);
    for (const [name, frame] of Object.entries(seen)) expect({ ...(frame as Frame), id: 7 }, name).toEqual(JSON.parse(named.get(name)!.json));
    rc.close();
  });
});
