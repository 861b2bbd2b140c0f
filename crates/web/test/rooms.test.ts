import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { RoomEvent } from "../client/types";
import { accept, answerJoin, client, connected, FakeSocket, settle } from "./fake-socket";

beforeEach(() => {
  vi.useFakeTimers();
  vi.spyOn(Math, "random").mockReturnValue(0);
  FakeSocket.all = [];
});
afterEach(() => {
  vi.useRealTimers();
  vi.restoreAllMocks();
});

const past = (offset: number) => ({ event: "e", data: offset, offset, at: 1_000 + offset });
const live = (offset: number) => ({ push: "event", room: "event:a", ...past(offset) });

describe("joining", () => {
  it("joins once for several holders, and leaves with the last", async () => {
    const { rc, socket } = await connected();
    const one = rc.room("event:a");
    answerJoin(socket);
    const two = rc.room("event:a");
    expect(socket.ops("join")).toEqual([{ id: 2, op: "join", room: "event:a" }]);
    one.leave();
    one.leave();
    expect(socket.ops("leave")).toHaveLength(0);
    const heard: unknown[] = [];
    one.on("event", (event) => heard.push(event));
    two.on("event", (event) => heard.push(event.offset));
    socket.say(live(1));
    expect(heard).toEqual([1]);
    two.leave();
    expect(socket.ops("leave")).toEqual([{ id: 3, op: "leave", room: "event:a" }]);
    rc.room("event:a");
    expect(socket.ops("join")).toHaveLength(2);
  });

  it("joins rooms named before the connection stood, and tells recent events, presence and counts", async () => {
    const rc = client();
    const room = rc.room("event:a", { recent: 50 });
    const heard: unknown[] = [];
    room.on("event", ({ offset, replay }) => heard.push([offset, replay]));
    room.on("count", ({ value }) => heard.push(value));
    room.on("presence", ({ users }) => heard.push(`${users} users`));
    rc.connect();
    const socket = await accept();
    expect(socket.ops("join")).toEqual([{ id: 2, op: "join", room: "event:a", recent: 50 }]);
    answerJoin(socket, {
      offset: 2, events: [past(1), past(2)], presence: { connections: 3, users: 2 },
      counts: [{ target: "p", counter: "like", value: 5, version: 9 }],
    });
    await room.ready();
    socket.say(live(2));
    socket.say(live(3));
    expect(heard).toEqual(["2 users", 5, [1, true], [2, true], [3, false]]);
    expect(room.value("p", "like")).toBe(5);
    expect(room.lastPresence).toEqual({ connections: 3, users: 2 });
  });

  it("tries again where the hub says later, and reports where it says no", async () => {
    const { rc, socket } = await connected();
    const room = rc.room("event:a");
    socket.say({ id: 2, error: { code: "unavailable", message: "down", retry_ms: 300 } });
    await vi.advanceTimersByTimeAsync(300);
    expect(socket.ops("join")).toHaveLength(2);
    answerJoin(socket);
    expect(room.isJoined).toBe(true);

    const admin = rc.room("admin");
    const refused = expect(admin.ready()).rejects.toMatchObject({ code: "forbidden" });
    socket.say({ id: socket.sent.at(-1)!.id, error: { code: "forbidden", message: "admins only" } });
    await refused;
  });

  it("does not come back to a room it was removed from", async () => {
    const { rc, socket } = await connected();
    const room = rc.room("event:a");
    answerJoin(socket);
    const kicked: string[] = [];
    room.on("kicked", ({ reason }) => kicked.push(reason));
    socket.say({ push: "kicked", room: "event:a", reason: "spam" });
    expect(kicked).toEqual(["spam"]);
    socket.drop(1006);
    await vi.advanceTimersByTimeAsync(1);
    expect((await accept()).ops("join")).toHaveLength(0);
    await expect(room.ready()).rejects.toThrow("spam");
    rc.room("event:a");
    expect(FakeSocket.last.ops("join")).toHaveLength(1);
  });
});

describe("being ready", () => {
  it("fails where the handle is given up, before or after the question", async () => {
    const { rc } = await connected();
    const room = rc.room("event:a");
    const other = rc.room("event:a");
    const asked = expect(room.ready()).rejects.toMatchObject({ code: "closed", retryable: false });
    room.leave();
    await asked;
    await expect(room.ready()).rejects.toMatchObject({ code: "closed" });
    // The other holder's own question stands, and a handle that was given up stays so.
    const ready = other.ready();
    answerJoin(FakeSocket.last);
    await ready;
    await expect(room.ready()).rejects.toMatchObject({ code: "closed" });
  });

  it("fails where the connection was ended for good, and can be asked for again after connect", async () => {
    const { rc } = await connected();
    rc.close();
    const room = rc.room("event:a");
    await expect(room.ready()).rejects.toMatchObject({ code: "closed" });
    rc.connect();
    const ready = room.ready();
    answerJoin(await accept());
    await ready;
  });

  it("forgets an old refusal where the room is asked for anew", async () => {
    const { rc, socket } = await connected();
    rc.room("event:a");
    socket.say({ id: 2, error: { code: "room_full", message: "full" } });
    socket.drop(1006);
    const ready = rc.room("event:a").ready();
    await vi.advanceTimersByTimeAsync(1);
    answerJoin(await accept());
    await ready;
  });
});

describe("coming back to a room", () => {
  async function rejoined(ok: Record<string, unknown>) {
    const { rc, socket } = await connected();
    const room = rc.room("event:a");
    answerJoin(socket, { offset: 4, counts: [{ target: "p", counter: "like", value: 3, version: 7 }] });
    socket.say(live(5));
    const heard: unknown[] = [];
    room.on("event", (event: RoomEvent) => heard.push(event.offset));
    room.on("recovered", ({ missed }) => heard.push(`recovered ${missed}`));
    room.on("reset", () => heard.push("reset"));
    socket.drop(1006);
    await vi.advanceTimersByTimeAsync(1);
    const next = await accept();
    expect(next.ops("join")).toEqual([{ id: 2, op: "join", room: "event:a", since: { epoch: "e1", offset: 5 } }]);
    answerJoin(next, ok);
    return { room, heard, socket: next };
  }

  it("hears what it missed, once and in order", async () => {
    const { room, heard, socket } = await rejoined({ offset: 7, recovered: true, events: [past(5), past(6), past(7)] });
    socket.say(live(7));
    socket.say(live(8));
    expect(heard).toEqual([6, 7, "recovered 2", 8]);
    expect(room.position).toEqual({ epoch: "e1", offset: 8 });
  });

  it("hears the rest of a long gap as pushes, after the oldest of it", async () => {
    const { room, heard, socket } = await rejoined({ offset: 7, recovered: true, events: [past(6), past(7)] });
    const replays: boolean[] = [];
    room.on("event", ({ replay }) => replays.push(replay));
    for (const offset of [8, 9, 10]) socket.say(live(offset));
    expect(heard).toEqual([6, 7, "recovered 2", 8, 9, 10]);
    expect(replays).toEqual([false, false, false]);
  });

  it("says reset before the events it makes necessary, and forgets counts of another epoch", async () => {
    const { room, heard } = await rejoined({ epoch: "e2", offset: 2, recovered: false, events: [past(2)], counts: [{ target: "p", counter: "like", value: 1, version: 1 }] });
    expect(heard).toEqual(["reset", 2]);
    expect(room.value("p", "like")).toBe(1);
    expect(room.position).toEqual({ epoch: "e2", offset: 2 });
  });

  it("reloads in answer to a reset: the answer that could not recover is superseded", async () => {
    const { rc, socket } = await connected();
    const room = rc.room("event:a", { recent: 50 });
    answerJoin(socket, { offset: 4 });
    const heard: unknown[] = [];
    room.on("reset", () => { heard.push("reset"); room.reload(); });
    room.on("event", ({ offset }) => heard.push(offset));
    room.on("joined", ({ epoch }) => heard.push(epoch));
    socket.drop(1006);
    await vi.advanceTimersByTimeAsync(1);
    const next = await accept();
    answerJoin(next, { epoch: "e2", offset: 3, recovered: false });
    expect(next.ops("join").at(-1)).toEqual({ id: 3, op: "join", room: "event:a", recent: 50 });
    answerJoin(next, { epoch: "e2", offset: 3, recovered: true, events: [past(2), past(3)] });
    next.say(live(4));
    expect(heard).toEqual(["reset", 2, 3, "e2", 4]);
  });

  it("takes a reset in a live room, and can reload from it", async () => {
    const { room, heard, socket } = await rejoined({ offset: 5, recovered: true });
    socket.say({ push: "reset", room: "event:a", epoch: "e9", offset: 1, reason: "failover" });
    expect(heard.at(-1)).toBe("reset");
    expect(room.position).toEqual({ epoch: "e9", offset: 1 });
    room.reload();
    expect(socket.sent.at(-1)).toMatchObject({ op: "join", room: "event:a" });
    expect(socket.sent.at(-1)).not.toHaveProperty("since");
    socket.say(live(3));
    answerJoin(socket, { epoch: "e9", offset: 3, events: [past(2), past(3)] });
    expect(heard.slice(-2)).toEqual([2, 3]);
  });
});

it("never lets a counter run backwards", async () => {
  const { rc, socket } = await connected();
  const room = rc.room("event:a");
  answerJoin(socket);
  const values: number[] = [];
  room.on("count", ({ value }) => values.push(value));
  const count = (value: number, version: number) => socket.say({ push: "count", room: "event:a", target: "p", counter: "like", value, version });
  count(1, 1);
  count(3, 3);
  count(2, 2);
  count(3, 3);
  expect(values).toEqual([1, 3]);
});

describe("calls", () => {
  it("are acknowledged, in either codec", async () => {
    for (const codec of ["json", "msgpack"] as const) {
      const { rc, socket } = await connected({ codec });
      const room = rc.room("event:a");
      answerJoin(socket);
      const published = room.publish("hello", { n: 1, text: "ü", list: [1.5, null, true] }, { key: "k" });
      expect(socket.ops("publish")).toEqual([
        { id: 3, op: "publish", room: "event:a", event: "hello", data: { n: 1, text: "ü", list: [1.5, null, true] }, key: "k" },
      ]);
      socket.ok(3, { epoch: "e1", offset: 1 });
      expect(await published).toEqual({ epoch: "e1", offset: 1 });
    }
  });

  it("wait until their room is joined", async () => {
    const rc = client();
    const room = rc.room("event:a");
    const liked = room.like("p");
    rc.connect();
    const socket = await accept();
    expect(socket.ops("like")).toHaveLength(0);
    answerJoin(socket);
    expect(socket.ops("like")).toEqual([{ id: 3, op: "like", room: "event:a", target: "p", on: true }]);
    socket.ok(3, { value: 1, on: true, version: 4 });
    expect(await liked).toEqual({ value: 1, on: true, version: 4 });
    expect(room.value("p", "like")).toBe(1);
  });

  it("that are fleeting go out without an id, in a joined room only", async () => {
    const { rc, socket } = await connected();
    const room = rc.room("event:a");
    room.signal("typing");
    answerJoin(socket);
    room.signal("typing", true);
    expect(socket.ops("signal")).toEqual([{ op: "signal", room: "event:a", event: "typing", data: true }]);
    room.like("p").catch(() => {});
    expect(socket.ops("like")[0]!.id).toBe(3);
    rc.close();
  });

  it("are sent again under the same key on the next connection", async () => {
    const { rc, socket } = await connected();
    const room = rc.room("event:a");
    answerJoin(socket);
    const published = room.publish("e", 1);
    const counted = room.count("p", "download");
    const [first] = socket.ops("publish");
    expect(first!.key).toMatch(/^[0-9a-f]{32}$/);
    socket.drop(1006);
    await vi.advanceTimersByTimeAsync(1);
    const next = await accept();
    expect(next.ops("publish")).toHaveLength(0);
    answerJoin(next, { recovered: true });
    expect(next.ops("publish")[0]!.key).toBe(first!.key);
    expect(next.ops("count")[0]!.key).toBe(socket.ops("count")[0]!.key);
    next.ok(next.ops("publish")[0]!.id, { epoch: "e1", offset: 1 });
    next.ok(next.ops("count")[0]!.id, { value: 2, version: 2 });
    await expect(published).resolves.toEqual({ epoch: "e1", offset: 1 });
    await expect(counted).resolves.toEqual({ value: 2, version: 2 });
  });

  it("stay in line while the hub is unavailable, after the time it names", async () => {
    const { rc, socket } = await connected();
    const room = rc.room("event:a");
    answerJoin(socket);
    const published = room.publish("e", 1);
    socket.say({ id: 3, error: { code: "unavailable", message: "down", retry_ms: 400 } });
    await vi.advanceTimersByTimeAsync(399);
    expect(socket.ops("publish")).toHaveLength(1);
    await vi.advanceTimersByTimeAsync(1);
    expect(socket.ops("publish")).toHaveLength(2);
    expect(socket.ops("publish")[1]!.key).toBe(socket.ops("publish")[0]!.key);
    socket.ok(4, { epoch: "e1", offset: 1 });
    await expect(published).resolves.toBeDefined();
  });

  it("keep their order in a room where one of them has to wait, and hold up no other room", async () => {
    const { rc, socket } = await connected();
    const room = rc.room("event:a");
    answerJoin(socket);
    const other = rc.room("event:b");
    answerJoin(socket);
    const calls = [room.like("p")];
    socket.say({ id: 4, error: { code: "unavailable", message: "down", retry_ms: 400 } });
    calls.push(room.like("p", false), room.like("q"));
    other.like("p").catch(() => {});
    rc.ping().catch(() => {});
    expect(socket.ops("like").map(({ room, target, on }) => [room, target, on])).toEqual([["event:a", "p", true], ["event:b", "p", true]]);
    expect(socket.ops("ping")).toHaveLength(1);
    await vi.advanceTimersByTimeAsync(400);
    const again = socket.ops("like").slice(2);
    expect(again.map(({ target, on }) => [target, on])).toEqual([["p", true], ["p", false], ["q", true]]);
    rc.close();
    await Promise.allSettled(calls);
  });

  it("are not repeated where that would undo what was said later", async () => {
    const { rc, socket } = await connected();
    const room = rc.room("event:a");
    answerJoin(socket);
    const unavailable = (like: Record<string, unknown>) => socket.say({ id: like.id, error: { code: "unavailable", message: "down", retry_ms: 100 } });
    const likes = (...ons: boolean[]) => ons.map((on) => room.like("p", on).then(() => "done", (error) => error.code as string));

    // Each way that the answers may come in: the later one under way, and done.
    let calls = likes(true, false);
    unavailable(socket.ops("like")[0]!);
    socket.ok(socket.ops("like")[1]!.id, { value: 0, on: false, version: 1 });
    expect(await Promise.all(calls)).toEqual(["unavailable", "done"]);
    calls = likes(true, false);
    socket.ok(socket.ops("like")[3]!.id, { value: 0, on: false, version: 1 });
    unavailable(socket.ops("like")[2]!);
    expect(await Promise.all(calls)).toEqual(["unavailable", "done"]);
    await vi.advanceTimersByTimeAsync(200);
    expect(socket.ops("like")).toHaveLength(4);

    // Where both are refused, both are said again.
    calls = likes(true, false);
    unavailable(socket.ops("like")[5]!);
    unavailable(socket.ops("like")[4]!);
    await vi.advanceTimersByTimeAsync(100);
    expect(socket.ops("like").slice(6).map(({ on }) => on)).toEqual([true, false]);
    // Over a lost connection it is the same.
    socket.ok(socket.ops("like")[7]!.id, { value: 0, on: false, version: 1 });
    socket.drop(1006);
    expect(await Promise.all(calls)).toEqual(["connection_lost", "done"]);
    await vi.advanceTimersByTimeAsync(1);
    let next = await accept();
    answerJoin(next, { recovered: true });
    expect(next.ops("like")).toEqual([]);
    calls = likes(true, false);
    next.drop(1006);
    await vi.advanceTimersByTimeAsync(10_000);
    next = await accept();
    answerJoin(next, { recovered: true });
    expect(next.ops("like").map(({ on }) => on)).toEqual([true, false]);
    for (const { id, on } of next.ops("like")) next.ok(id, { value: Number(on), on, version: 2 + Number(id) });
    expect(await Promise.all(calls)).toEqual(["done", "done"]);
    expect(room.likes("p").value).toEqual({ value: 0, on: false, pending: false });
  });

  it("go out in the order they were made where some were under way when the connection went", async () => {
    const { rc, socket } = await connected();
    const room = rc.room("event:a");
    answerJoin(socket);
    const calls = [room.publish("e", 1), room.publish("e", 2), room.publish("e", 3)];
    socket.say({ id: 3, error: { code: "unavailable", message: "down", retry_ms: 1 } });
    socket.drop(1006);
    await vi.advanceTimersByTimeAsync(1);
    const next = await accept();
    answerJoin(next, { recovered: true });
    await vi.advanceTimersByTimeAsync(1);
    expect(next.ops("publish").map(({ data }) => data)).toEqual([1, 2, 3]);
    rc.close();
    await Promise.allSettled(calls);
  });

  it("are all done after a long time away, though the hub takes a part of them at a time", async () => {
    const rc = client();
    const room = rc.room("event:a");
    const calls = Array.from({ length: 100 }, (_, n) => room.publish("e", n));
    rc.connect();
    const socket = await accept();
    answerJoin(socket);
    const taken: unknown[] = [];
    for (let seen = 0; seen < 1_000 && taken.length < 100; await vi.advanceTimersByTimeAsync(1_000)) {
      const burst = socket.ops("publish").slice(seen);
      seen += burst.length;
      for (const [n, { id, data }] of burst.entries()) {
        if (n >= 20) socket.say({ id, error: { code: "rate_limited", message: "slow down", retry_ms: 900 } });
        else if (taken.push(data)) socket.ok(id, { epoch: "e1", offset: taken.length });
      }
    }
    expect(taken).toEqual(Array.from({ length: 100 }, (_, n) => n));
    expect((await Promise.all(calls)).at(-1)).toEqual({ epoch: "e1", offset: 100 });
  });

  it("that have to wait are sent when their time has come, on whatever connection", async () => {
    const { rc, socket } = await connected();
    const room = rc.room("event:a");
    answerJoin(socket);
    const done = [room.publish("e", 1), rc.claim("slug", "a")];
    socket.say({ id: 3, error: { code: "unavailable", message: "down", retry_ms: 5_000 } });
    socket.say({ id: 4, error: { code: "unavailable", message: "down", retry_ms: 3_000 } });
    socket.drop(1006);
    await vi.advanceTimersByTimeAsync(1);
    const next = await accept();
    answerJoin(next, { recovered: true });
    await vi.advanceTimersByTimeAsync(2_998);
    expect(next.ops("claim")).toHaveLength(0);
    await vi.advanceTimersByTimeAsync(1);
    expect(next.ops("claim")).toHaveLength(1);
    expect(next.ops("publish")).toHaveLength(0);
    await vi.advanceTimersByTimeAsync(2_000);
    for (const op of ["claim", "publish"]) next.ok(next.ops(op)[0]!.id);
    await Promise.all(done);
    expect(vi.getTimerCount()).toBe(1);
  });

  it("fail with the hub's code and advice", async () => {
    const { rc, socket } = await connected();
    const room = rc.room("event:a");
    answerJoin(socket);
    const refused = (call: Promise<unknown>, id: number, retry: { retry_ms?: number } = {}) => {
      socket.say({ id, error: { code: "rate_limited", message: "slow down", ...retry } });
      return expect(call).rejects.toMatchObject({ code: "rate_limited", retryable: true, ...("retry_ms" in retry ? { retryMs: retry.retry_ms } : {}) });
    };
    await refused(room.put("plan", 1, 3), 3, { retry_ms: 900 });
    await refused(room.like("p"), 4);
    // To wait for longer than the caller does is of no use.
    await refused(room.like("p", true, { timeoutMs: 800 }), 5, { retry_ms: 900 });
  });

  it("time out, can be called off, and are bounded", async () => {
    const { rc, socket } = await connected();
    const room = rc.room("event:a");
    answerJoin(socket);
    const late = expect(room.publish("e", 1, { timeoutMs: 500 })).rejects.toMatchObject({ code: "timeout", retryable: true });
    await vi.advanceTimersByTimeAsync(500);
    await late;

    const stop = new AbortController();
    const aborted = expect(room.publish("e", 1, { signal: stop.signal })).rejects.toThrow("enough");
    stop.abort(new Error("enough"));
    await aborted;

    socket.drop(1006);
    const calls = Array.from({ length: 101 }, () => room.like("p").then(() => "ok", (error) => error.code as string));
    expect(await calls[100]).toBe("outbox_full");
    rc.close();
    expect(new Set(await Promise.all(calls.slice(0, 100)))).toEqual(new Set(["closed"]));
  });

  it("fail with what stands where the hub tells it", async () => {
    const { rc, socket } = await connected();
    const room = rc.room("event:a");
    answerJoin(socket);
    const written = room.put("plan", 1, 3);
    socket.say({ id: 3, error: { code: "conflict", message: "no", current: { version: 4, value: "theirs" } } });
    await expect(written).rejects.toMatchObject({ code: "conflict", retryable: false, current: { version: 4, value: "theirs" } });
  });

  it("that would mean something else the second time are not repeated", async () => {
    const { rc, socket } = await connected();
    const room = rc.room("event:a");
    answerJoin(socket);
    const lost = [room.put("plan", 1, 3), room.moderate("c-1", "approve", 1)].map((call) => expect(call).rejects.toMatchObject({ code: "connection_lost", retryable: true }));
    socket.drop(1006);
    await Promise.all(lost);
    const waiting = room.put("plan", 2, 4);
    await vi.advanceTimersByTimeAsync(1);
    const next = await accept();
    answerJoin(next, { recovered: true });
    expect(next.ops("put")).toEqual([{ id: 3, op: "put", room: "event:a", doc: "plan", value: 2, version: 4 }]);
    next.ok(3, { version: 5 });
    await expect(waiting).resolves.toEqual({ version: 5 });
  });

  it("are bounded in bytes, as they are on the wire", async () => {
    for (const codec of ["json", "msgpack"] as const) {
      const rc = client({ codec });
      const room = rc.room("event:a");
      // 9 bytes each in MessagePack, 3 in JSON: 40,000 of them pass one bound and not the other.
      const call = room.publish("e", Array.from({ length: 40_000 }, () => 0.5)).then(() => "ok", (error) => error.code as string);
      const other = room.publish("e", "x".repeat(262_144)).then(() => "ok", (error) => error.code as string);
      expect(await other).toBe("outbox_full");
      rc.connect();
      rc.close();
      expect(await call).toBe(codec === "json" ? "closed" : "outbox_full");
    }
  });

  it("wait for a connection for half a minute by themselves", async () => {
    const rc = client();
    const room = rc.room("event:a");
    const late = expect(room.like("p")).rejects.toMatchObject({ code: "timeout" });
    await vi.advanceTimersByTimeAsync(29_999);
    expect(room.value("p", "like")).toBe(1);
    await vi.advanceTimersByTimeAsync(1);
    await late;
    expect(room.value("p", "like")).toBe(0);
  });

  it("too large for the hub are refused here, and never sent in a circle", async () => {
    const { rc, socket } = await connected();
    const room = rc.room("event:a");
    answerJoin(socket);
    await expect(room.publish("e", "x".repeat(65_536))).rejects.toMatchObject({ code: "too_large" });
    expect(socket.ops("publish")).toHaveLength(0);
    const refused = expect(room.publish("e", "small")).rejects.toMatchObject({ code: "too_large" });
    socket.drop(1009);
    await refused;
  });
});

it("reports a signal that is too large for the hub, and does not send it", async () => {
  for (const codec of ["json", "msgpack"] as const) {
    const { rc, socket } = await connected({ codec });
    const room = rc.room("event:a");
    answerJoin(socket);
    const errors: Error[] = [];
    rc.on("error", (error) => errors.push(error));
    room.signal("ink", "x".repeat(65_536));
    room.signal("ink", "small");
    expect(socket.ops("signal").map(({ data }) => data)).toEqual(["small"]);
    expect(errors).toMatchObject([{ code: "too_large", retryable: false }]);
  }
});

it("lets no listener's failure reach the others", async () => {
  const { rc, socket } = await connected();
  const room = rc.room("event:a");
  answerJoin(socket);
  const thrown: unknown[] = [];
  const original = globalThis.queueMicrotask;
  vi.spyOn(globalThis, "queueMicrotask").mockImplementation((task) => original(() => { try { task(); } catch (error) { thrown.push(error); } }));
  const heard: number[] = [];
  room.on("event", () => { throw new Error("listener"); });
  const end = room.on("event", ({ offset }) => heard.push(offset));
  socket.say(live(1));
  end();
  socket.say(live(2));
  await settle();
  expect(heard).toEqual([1]);
  expect(thrown).toHaveLength(2);
});
