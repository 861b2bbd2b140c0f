// The fake hub keeps the shapes that the real one answers with: users' tests stand on it.

import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { Roomcast } from "@roomcast/client";
import { FakeHub } from "@roomcast/client/testing";

let hub: FakeHub;
const clients: Roomcast[] = [];
const ROLES: Record<string, string> = { guest: "guest", host: "admin", shop: "service" };
const settle = () => vi.advanceTimersByTimeAsync(0);

async function join(user: string, room = "event:a", options: { recent?: number } = {}) {
  const rc = new Roomcast({ url: "ws://fake", WebSocket: hub.WebSocket, token: user }).connect();
  clients.push(rc);
  const held = rc.room(room, options);
  await settle();
  return { rc, room: held };
}

beforeEach(() => {
  vi.useFakeTimers();
  vi.spyOn(Math, "random").mockReturnValue(0);
  hub = new FakeHub({ moderated: (room) => room.startsWith("wall:"), identify: ({ token = "" }) => ({ user: token, role: ROLES[token] ?? "member" }) });
});
afterEach(() => {
  for (const rc of clients.splice(0)) rc.close();
  hub.stop();
  vi.useRealTimers();
  vi.restoreAllMocks();
});

it("carries events, signals, likes and presence between clients", async () => {
  const [a, b] = [await join("a"), await join("b")];
  const heard: unknown[] = [];
  b.room.on("event", ({ event, data, from }) => heard.push([event, data, from]));
  b.room.on("signal", ({ event, from }) => heard.push([event, from]));
  await Promise.all([a.room.publish("hello", { n: 1 }), settle()]);
  a.room.signal("typing");
  await Promise.all([a.room.like("p"), settle()]);
  await settle();
  expect(heard).toEqual([["hello", { n: 1 }, "a"], ["typing", "a"]]);
  expect(b.room.value("p", "like")).toBe(1);
  expect(b.room.people().value).toEqual({ connections: 2, users: 2 });
  expect((await Promise.all([b.room.presence(), settle()]))[0].members).toEqual([{ user: "a", connections: 1 }, { user: "b", connections: 1 }]);
});

it.each(["comment", "comment_deleted", "doc", "purged", "upload", "admin:notification"])("lets nobody but admins and services say %s", async (event) => {
  const heard: string[] = [];
  const watcher = await join("a");
  watcher.room.on("event", ({ from }) => heard.push(`event of ${from}`));
  watcher.room.on("signal", ({ from }) => heard.push(`signal of ${from}`));
  for (const user of ["guest", "member", "host", "shop"]) {
    const { rc, room } = await join(user);
    const errors: Error[] = [];
    rc.on("error", (error) => errors.push(error));
    const said = Promise.all([room.publish(event, {}).catch(({ code }: { code: string }) => code), settle()]).then(([answer]) => answer);
    room.signal(event);
    if (user === "host" || user === "shop") expect(await said).toMatchObject({ offset: user === "host" ? 1 : 2 });
    else {
      expect(await said).toBe("forbidden");
      await settle();
      expect(errors).toMatchObject([{ code: "forbidden" }]);
    }
    await settle();
  }
  expect(heard.sort()).toEqual(["event of host", "event of shop", "signal of host", "signal of shop"]);
  expect(await Promise.all([watcher.room.publish("comments", 1), settle()])).toMatchObject([{ offset: 3 }, expect.anything()]);
});

it("lets a client miss something and get it back, or lose it and be told", async () => {
  const { room } = await join("a");
  const heard: unknown[] = [];
  room.on("event", ({ offset }) => heard.push(offset));
  room.on("recovered", ({ missed }) => heard.push(`recovered ${missed}`));
  room.on("reset", ({ reason }) => heard.push(reason));
  hub.room("event:a").publish("e", 1);
  await settle();
  hub.drop();
  hub.room("event:a").publish("e", 2);
  await vi.advanceTimersByTimeAsync(1);
  expect(heard).toEqual([1, 2, "recovered 1"]);
  hub.reset("event:a", "failover");
  await settle();
  expect(heard.at(-1)).toBe("failover");
  hub.kick("event:a", "a", "spam");
  await settle();
  expect(room.isJoined).toBe(false);
});

it("keeps comments back until they are approved, once", async () => {
  const [a, b, host] = [await join("a", "wall:x"), await join("b", "wall:x"), await join("host", "wall:x")];
  const seen = b.room.comments("p");
  expect((await Promise.all([a.room.comments("p").add("Hi"), settle()]))[0].pending).toBe(true);
  expect(seen.value).toEqual([]);
  const { comment, version } = hub.pending[0]!;
  await expect(Promise.all([b.room.moderate(comment, "approve", version), settle()])).rejects.toMatchObject({ code: "forbidden" });
  const both = [host.room.moderate(comment, "approve", version), host.room.moderate(comment, "reject", version).catch(({ code, current }) => [code, current])];
  await settle();
  expect(await Promise.all(both)).toEqual([{ state: "approved", version: 2 }, ["conflict", { state: "approved", version: 2 }]]);
  expect(seen.value.map(({ text }) => text)).toEqual(["Hi"]);
});

it("sells what there is, and takes back what was not bought", async () => {
  const [a, b] = [await join("a"), await join("b")];
  hub.room("event:a").offer("print", 2, 2, 10_000);
  await settle();
  const [hold] = await Promise.all([a.room.stock("print").reserve(2), settle()]);
  await expect(Promise.all([b.room.stock("print").reserve(1), settle()])).rejects.toMatchObject({ code: "sold_out" });
  expect(b.room.stock("print").value.remaining).toBe(0);
  await vi.advanceTimersByTimeAsync(10_000);
  expect(hold.value.state).toBe("expired");
  expect(b.room.stock("print").value.remaining).toBe(2);
  const [second] = await Promise.all([b.room.stock("print").reserve(2), settle()]);
  expect((await Promise.all([second.confirm(), settle()]))[0]).toEqual({ state: "confirmed", remaining: 0 });
  await expect(Promise.all([b.room.stock("print").reserve(1), settle()])).rejects.toMatchObject({ code: "sold_out" });
});

it("keeps documents by version, and uploads on their way", async () => {
  const { room } = await join("a");
  const done = <T>(call: Promise<T>) => Promise.all([call, settle()]).then(([ok]) => ok);
  expect(await done(room.put("plan", 1, 0))).toEqual({ version: 1 });
  expect(await done(room.put("plan", 2, 0).catch(({ current }) => current as unknown))).toEqual({ version: 1, value: 1 });
  expect(await done(room.get("plan"))).toEqual({ version: 1, value: 1 });
  const events: string[] = [];
  room.on("event", ({ event }) => events.push(event));
  const upload = room.upload("u");
  await done(upload.start());
  await done(upload.complete());
  await expect(done(upload.fail())).rejects.toMatchObject({ code: "conflict", current: { state: "complete" } });
  expect(events).toEqual(["upload"]);
});

it("refuses on demand, is away on demand, and moves its clients", async () => {
  const { rc, room } = await join("a");
  hub.refuseNext("publish", "forbidden");
  await expect(Promise.all([room.publish("e", 1), settle()])).rejects.toMatchObject({ code: "forbidden" });
  hub.goaway(500);
  await vi.advanceTimersByTimeAsync(499);
  expect(hub.connections).toBe(1);
  hub.offline = true;
  await vi.advanceTimersByTimeAsync(2);
  expect(rc.state.name).toBe("reconnecting");
  hub.offline = false;
  await vi.advanceTimersByTimeAsync(20_000);
  expect(rc.state.name).toBe("connected");
});
