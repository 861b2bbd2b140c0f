import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { backoffMs } from "../client/backoff";
import { RoomcastError } from "../client/errors";
import type { State } from "../client/types";
import { accept, client, connected, FakeSocket, settle } from "./fake-socket";

beforeEach(() => {
  vi.useFakeTimers();
  FakeSocket.all = [];
});
afterEach(() => {
  vi.useRealTimers();
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
});

function memoryStorage(): Storage {
  const held = new Map<string, string>();
  return { getItem: (key: string) => held.get(key) ?? null, setItem: (key: string, value: string) => void held.set(key, value) } as unknown as Storage;
}

describe("connecting", () => {
  it("passes from idle through connecting to connected, and connect comes first with id 1", async () => {
    const rc = client({ token: "jwt" });
    const seen: string[] = [];
    rc.on("state", (state) => seen.push(state.name));
    expect(rc.state.name).toBe("idle");
    rc.connect().connect();
    const socket = await accept();
    expect(FakeSocket.all).toHaveLength(1);
    expect(socket.sent[0]).toEqual({ id: 1, op: "connect", token: "jwt" });
    expect(seen).toEqual(["connecting", "connected"]);
    expect(rc.session?.node).toBe("node-a");
  });

  it("offers exactly the subprotocol of its codec", async () => {
    await connected();
    expect(FakeSocket.last.protocols).toEqual(["roomcast.v1.json"]);
    await connected({ codec: "msgpack" });
    expect(FakeSocket.last.protocols).toEqual(["roomcast.v1.msgpack"]);
    expect(FakeSocket.last.raw[0]).toBeInstanceOf(Uint8Array);
  });

  it("keeps the guest secret and shows it the next time", async () => {
    vi.stubGlobal("localStorage", memoryStorage());
    const rc = client({ guestKey: "rc" }).connect();
    const first = await accept({ guest: "secret" });
    expect(first.sent[0]).toEqual({ id: 1, op: "connect" });
    rc.close();
    client({ guestKey: "rc" }).connect();
    const second = await accept();
    expect(second.sent[0]).toEqual({ id: 1, op: "connect", guest: "secret" });
  });

  it("lets one of two new tabs become the guest before the other connects", async () => {
    vi.stubGlobal("localStorage", memoryStorage());
    let tail: Promise<unknown> = Promise.resolve();
    const request = (_name: string, _options: unknown, held: () => Promise<void>) => (tail = tail.then(held));
    vi.stubGlobal("navigator", { locks: { request } });
    client({ guestKey: "rc" }).connect();
    client({ guestKey: "rc" }).connect();
    await settle();
    expect(FakeSocket.all).toHaveLength(1);
    await accept({ guest: "one" });
    await settle();
    expect(FakeSocket.all).toHaveLength(2);
    await accept();
    expect(FakeSocket.last.sent[0]).toEqual({ id: 1, op: "connect", guest: "one" });
  });

  it("keeps its place in that line though an older attempt of its own ends late", async () => {
    vi.stubGlobal("localStorage", memoryStorage());
    let tail: Promise<unknown> = Promise.resolve();
    const request = (_name: string, _options: unknown, held: () => Promise<void>) => (tail = tail.then(held));
    vi.stubGlobal("navigator", { locks: { request } });
    vi.spyOn(Math, "random").mockReturnValue(0);
    const late: ((token: string) => void)[] = [];
    const getToken = () => (late.length === 0 ? new Promise<string>((given) => late.push(given)) : undefined);
    client({ guestKey: "rc", getToken }).connect();
    await vi.advanceTimersByTimeAsync(10_001);
    expect(FakeSocket.all).toHaveLength(1);
    client({ guestKey: "rc" }).connect();
    late[0]!("late");
    await settle();
    // The second tab still waits for the first to become the guest.
    expect(FakeSocket.all).toHaveLength(1);
    await accept({ guest: "one" });
    await accept();
    expect(FakeSocket.last.sent[0]).toEqual({ id: 1, op: "connect", guest: "one" });
  });

  it("prefers a ticket, asked anew at each connect", async () => {
    let made = 0;
    await connected({ getTicket: () => `ticket-${++made}`, token: "unused" });
    FakeSocket.last.drop(1006);
    await vi.advanceTimersByTimeAsync(2_000);
    await accept();
    expect(FakeSocket.all.map((socket) => socket.sent[0]!.ticket)).toEqual(["ticket-1", "ticket-2"]);
  });

  it("gives up an attempt that the hub leaves unanswered", async () => {
    const rc = client().connect();
    await settle();
    FakeSocket.last.open();
    await vi.advanceTimersByTimeAsync(10_000);
    expect(rc.state).toMatchObject({ name: "reconnecting", code: 1006 });
    expect(FakeSocket.last.closedByClient).toBe(true);
  });

  it("closes for good where the token is refused", async () => {
    const rc = client({ token: "bad" }).connect();
    await settle();
    FakeSocket.last.open();
    FakeSocket.last.say({ id: 1, error: { code: "invalid_token", message: "no" } });
    expect(rc.state).toEqual({ name: "closed", code: 4500, reason: "no" });
    await vi.advanceTimersByTimeAsync(60_000);
    expect(FakeSocket.all).toHaveLength(1);
  });

  it("asks for a fresh token where the old one has expired", async () => {
    const asked: string[] = [];
    client({ getToken: (why) => { asked.push(why); return `t${asked.length}`; } }).connect();
    await settle();
    FakeSocket.last.open();
    FakeSocket.last.say({ id: 1, error: { code: "token_expired", message: "old" } });
    await vi.advanceTimersByTimeAsync(2_000);
    const socket = await accept();
    expect(socket.sent[0]!.token).toBe("t2");
    expect(asked).toEqual(["connect", "expired"]);
  });

  it("comes back later when getToken fails, and never when it fails for good", async () => {
    const rc = client({ getToken: () => Promise.reject(new Error("offline")) });
    const errors: Error[] = [];
    rc.on("error", (error) => errors.push(error));
    rc.connect();
    await settle();
    expect(rc.state.name).toBe("reconnecting");
    expect(errors[0]!.message).toBe("offline");

    const refused = client({ getToken: () => Promise.reject(new RoomcastError("forbidden", "signed out")) }).connect();
    await settle();
    expect(refused.state).toEqual({ name: "closed", code: 4500, reason: "signed out" });
  });
});

describe("losing the connection", () => {
  it.each([1001, 1006, 1011, 1012, 1013, 4000, 4001, 4002, 4003, 4004, 4499])("comes back after %d", async (code) => {
    const { rc } = await connected();
    FakeSocket.last.drop(code);
    expect(rc.state).toMatchObject({ name: "reconnecting", code, attempt: code === 1013 ? 4 : 1 });
    await vi.advanceTimersByTimeAsync(20_000);
    expect(FakeSocket.all.length).toBeGreaterThan(1);
  });

  it.each([1002, 1007, 1009, 4500, 4501, 4503, 4504, 4505, 4999])("stays away after %d", async (code) => {
    const { rc, socket } = await connected();
    const waiting = rc.ping();
    socket.drop(code, "because");
    expect(rc.state).toEqual({ name: "closed", code, reason: "because" });
    await expect(waiting).rejects.toMatchObject({ code: code === 1009 ? "too_large" : "closed" });
    await expect(rc.ping()).rejects.toMatchObject({ code: "closed", retryable: false });
    await vi.advanceTimersByTimeAsync(120_000);
    expect(FakeSocket.all).toHaveLength(1);
  });

  it("waits with full jitter: 0–2 s at first, 0.5–20 s later", () => {
    expect(backoffMs(0, 0)).toBe(0);
    expect(backoffMs(0, 0.5)).toBe(1_000);
    expect(backoffMs(1, 0)).toBe(500);
    expect(backoffMs(1, 1)).toBe(4_000);
    expect(backoffMs(3, 1)).toBe(16_000);
    for (const attempt of [4, 10, 5_000]) expect(backoffMs(attempt, 1)).toBe(20_000);
  });

  it("waits longer with each failure, and starts over once a connection was stable", async () => {
    vi.spyOn(Math, "random").mockReturnValue(0.999);
    const { rc, socket } = await connected();
    const waits: number[] = [];
    let inMs = 0;
    rc.on("state", (state: State) => {
      if (state.name !== "reconnecting") return;
      inMs = state.inMs;
      waits.push(Math.round(inMs / 1_000));
    });
    socket.drop(1006);
    for (let n = 0; n < 4; n++) {
      await vi.advanceTimersByTimeAsync(inMs);
      FakeSocket.last.drop(1006);
    }
    expect(waits).toEqual([2, 4, 8, 16, 20]);
    await vi.advanceTimersByTimeAsync(inMs);
    await accept();
    FakeSocket.last.drop(1006);
    expect(waits.at(-1)).toBe(20);
    await vi.advanceTimersByTimeAsync(inMs);
    await accept();
    await vi.advanceTimersByTimeAsync(10_000);
    FakeSocket.last.drop(1006);
    expect(waits.at(-1)).toBe(2);
  });

  it("obeys the retry_ms of a refused connect, whatever the code", async () => {
    const rc = client({ token: "jwt" }).connect();
    await settle();
    FakeSocket.last.open();
    FakeSocket.last.say({ id: 1, error: { code: "limit_reached", message: "too many devices", retry_ms: 9_000 } });
    FakeSocket.last.drop(1013);
    expect(rc.state).toMatchObject({ name: "reconnecting", inMs: 9_000, code: 1013 });
    await vi.advanceTimersByTimeAsync(8_999);
    expect(FakeSocket.all).toHaveLength(1);
    await vi.advanceTimersByTimeAsync(1);
    expect(FakeSocket.all).toHaveLength(2);
  });

  it("waits out even a wait that no timer can hold", async () => {
    const { socket } = await connected();
    socket.say({ push: "goaway", retry_ms: 2 ** 40, reason: "drain" });
    await vi.advanceTimersByTimeAsync(20_000);
    expect(socket.closedByClient).toBe(false);
    expect(FakeSocket.all).toHaveLength(1);
  });

  it("obeys the hub's retry_ms: the socket serves until it closes, the return comes when told", async () => {
    const { rc, socket } = await connected();
    socket.say({ push: "goaway", retry_ms: 7_000, reason: "drain" });
    expect(rc.state.name).toBe("connected");
    await vi.advanceTimersByTimeAsync(3_000);
    socket.drop(1012);
    expect(rc.state).toMatchObject({ name: "reconnecting", inMs: 4_000 });
    await vi.advanceTimersByTimeAsync(3_999);
    expect(FakeSocket.all).toHaveLength(1);
    await vi.advanceTimersByTimeAsync(1);
    expect(FakeSocket.all).toHaveLength(2);
  });

  it("moves by itself at the told time where the hub did not close", async () => {
    const { socket } = await connected();
    socket.say({ push: "goaway", retry_ms: 1_500, reason: "shed" });
    await vi.advanceTimersByTimeAsync(1_501);
    expect(socket.closedByClient).toBe(true);
    expect(FakeSocket.all).toHaveLength(2);
  });

  it("notices a hub that fell silent", async () => {
    vi.spyOn(Math, "random").mockReturnValue(0.999);
    const { rc, socket } = await connected();
    await vi.advanceTimersByTimeAsync(25_000);
    expect(socket.ops("ping")).toHaveLength(1);
    socket.ok(socket.ops("ping")[0]!.id, { now: 1 });
    await vi.advanceTimersByTimeAsync(24_000);
    expect(rc.state.name).toBe("connected");
    await vi.advanceTimersByTimeAsync(11_000);
    expect(rc.state).toMatchObject({ name: "reconnecting", code: 1006 });
  });

  it("notices the same where the hub wants to be asked more often than an answer may take", async () => {
    vi.spyOn(Math, "random").mockReturnValue(0.999);
    const rc = client().connect();
    const socket = await accept({ ping_ms: 5_000 });
    await vi.advanceTimersByTimeAsync(5_000);
    socket.ok(socket.ops("ping")[0]!.id, { now: 1 });
    // Asked at 10 s, and from then on silent for the 10 s that an answer may take.
    await vi.advanceTimersByTimeAsync(14_999);
    expect(rc.state.name).toBe("connected");
    await vi.advanceTimersByTimeAsync(1);
    expect(rc.state).toMatchObject({ name: "reconnecting", code: 1006 });
    // The next connection has a deadline of its own.
    await vi.advanceTimersByTimeAsync(2_000);
    await accept({ ping_ms: 5_000 });
    await vi.advanceTimersByTimeAsync(14_999);
    expect(rc.state.name).toBe("connected");
    await vi.advanceTimersByTimeAsync(1);
    expect(rc.state.name).toBe("reconnecting");
  });

  it("gives a page that wakes a shorter deadline, and none that wakes again a later one", async () => {
    const page = new EventTarget();
    vi.stubGlobal("window", page);
    vi.stubGlobal("document", Object.assign(new EventTarget(), { visibilityState: "visible" }));
    const { rc } = await connected();
    await vi.advanceTimersByTimeAsync(26_000);
    page.dispatchEvent(new Event("online"));
    await vi.advanceTimersByTimeAsync(2_000);
    page.dispatchEvent(new Event("pageshow"));
    await vi.advanceTimersByTimeAsync(999);
    expect(rc.state.name).toBe("connected");
    await vi.advanceTimersByTimeAsync(1);
    expect(rc.state.name).toBe("reconnecting");
  });

  it("probes at once when the page wakes, and does not wait out its backoff", async () => {
    const page = new EventTarget();
    vi.stubGlobal("window", page);
    vi.stubGlobal("document", Object.assign(new EventTarget(), { visibilityState: "visible" }));
    const { rc, socket } = await connected();
    page.dispatchEvent(new Event("online"));
    expect(socket.ops("ping")).toHaveLength(1);
    await vi.advanceTimersByTimeAsync(3_000);
    expect(rc.state.name).toBe("reconnecting");
    vi.spyOn(Math, "random").mockReturnValue(0.9);
    page.dispatchEvent(new Event("pageshow"));
    await settle();
    expect(rc.state.name).toBe("connecting");
    rc.close();
    page.dispatchEvent(new Event("online"));
    expect(rc.state.name).toBe("closed");
  });

  it("leaves a hidden page alone, and wakes when it shows", async () => {
    const page = new EventTarget();
    const document = Object.assign(new EventTarget(), { visibilityState: "hidden" });
    vi.stubGlobal("window", page);
    vi.stubGlobal("document", document);
    const { socket } = await connected();
    document.dispatchEvent(new Event("visibilitychange"));
    expect(socket.ops("ping")).toHaveLength(0);
    document.visibilityState = "visible";
    document.dispatchEvent(new Event("visibilitychange"));
    expect(socket.ops("ping")).toHaveLength(1);
    socket.ok(socket.ops("ping")[0]!.id, { now: 1 });
    await vi.advanceTimersByTimeAsync(3_000);
    expect(FakeSocket.all).toHaveLength(1);
  });

  it("does not break a wait that the hub has asked for when the page wakes", async () => {
    const page = new EventTarget();
    vi.stubGlobal("window", page);
    vi.stubGlobal("document", Object.assign(new EventTarget(), { visibilityState: "visible" }));
    const { rc, socket } = await connected();
    socket.say({ push: "goaway", retry_ms: 5_000, reason: "drain" });
    socket.drop(1012);
    page.dispatchEvent(new Event("online"));
    await settle();
    expect(rc.state.name).toBe("reconnecting");
  });

  it("is closed by close, silently for good, and may be opened again", async () => {
    const { rc, socket } = await connected();
    rc.close();
    expect(rc.state).toMatchObject({ name: "closed", code: 1000 });
    expect(socket.closedByClient).toBe(true);
    rc.connect();
    await accept();
    expect(rc.state.name).toBe("connected");
  });
});

describe("a live token", () => {
  it("is refreshed in band when the hub says it expires", async () => {
    const asked: string[] = [];
    const { rc, socket } = await connected({ getToken: (why) => { asked.push(why); return `t${asked.length}`; } });
    socket.say({ push: "expiring", expires_at: 1 });
    await settle();
    expect(socket.ops("refresh")).toEqual([{ id: 2, op: "refresh", token: "t2" }]);
    socket.ok(2, { expires_at: 2 });
    expect(asked).toEqual(["connect", "expiring"]);
    expect(rc.state.name).toBe("connected");
  });

  it("is asked for anew after 4002", async () => {
    const asked: string[] = [];
    const { socket } = await connected({ getToken: (why) => { asked.push(why); return "t"; } });
    socket.drop(4002);
    await vi.advanceTimersByTimeAsync(2_000);
    expect(asked).toEqual(["connect", "expired"]);
  });
});

it("reports what is no frame and goes on", async () => {
  const { rc, socket } = await connected();
  const errors: Error[] = [];
  rc.on("error", (error) => errors.push(error));
  socket.onmessage?.({ data: "{" });
  socket.onmessage?.({ data: "[]" });
  socket.onmessage?.({ data: new ArrayBuffer(1) });
  socket.say({ error: { code: "bad_frame", message: "what?" } });
  expect(errors).toHaveLength(4);
  expect(errors[3]).toMatchObject({ code: "bad_frame" });
  expect(rc.state.name).toBe("connected");
});
