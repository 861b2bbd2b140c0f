// Photos of guests, in parts: seen by others when all is there, whole or not at all, through whatever the hub refuses.

import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { Roomcast, type Room } from "@roomcast/client";
import { FakeHub } from "@roomcast/client/testing";
import { fetchPicture, MAX_CHARS, share } from "../demo/album";
import { Memory } from "../demo/memory";

let hub: FakeHub;
let clients: Roomcast[];
const src = `data:image/jpeg;base64,${"A".repeat(31_000)}`;

async function guest(user: string): Promise<Room> {
  const rc = new Roomcast({ url: "ws://fake", WebSocket: hub.WebSocket, token: user }).connect();
  clients.push(rc);
  const room = rc.room("wall:x");
  await vi.advanceTimersByTimeAsync(0);
  return room;
}
const done = <T>(call: Promise<T>, ms = 0): Promise<T> => Promise.all([call, vi.advanceTimersByTimeAsync(ms)]).then(([ok]) => ok);

beforeEach(() => {
  vi.useFakeTimers();
  vi.spyOn(Math, "random").mockReturnValue(0);
  hub = new FakeHub();
  clients = [];
});
afterEach(() => {
  for (const rc of clients) rc.close();
  hub.stop();
  vi.useRealTimers();
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
});

it("go in parts, with the way seen, and are fetched whole", async () => {
  const [a, b] = [await guest("a"), await guest("b")];
  const upload = a.upload("p");
  const seen: number[] = [];
  upload.subscribe(({ progress }) => seen.push(progress));
  const events: string[] = [];
  b.on("event", ({ event }) => events.push(event));
  await done(share(a, "p", { title: "T", src }, upload), 100);
  expect(seen).toEqual([25, 50, 75, 100]);
  expect(events).toEqual(["doc", "doc", "doc", "upload"]);
  expect(await done(fetchPicture(b, "p"))).toEqual({ title: "T", src });
});

it("wait where the hub says later, and survive a lost connection in the middle", async () => {
  const a = await guest("a");
  hub.refuseNext("put", "rate_limited", 700);
  const upload = a.upload("p");
  const sharing = share(a, "p", { title: "T", src }, upload);
  await vi.advanceTimersByTimeAsync(699);
  expect(hub.received.filter(({ op }) => op === "put")).toHaveLength(1);
  await vi.advanceTimersByTimeAsync(0);
  hub.drop();
  await done(sharing, 20_000);
  expect(upload.value.state).toBe("complete");
  expect(await done(fetchPicture(a, "p"))).toEqual({ title: "T", src });
});

it("are taken for done where the answer was lost and the same stands there", async () => {
  const a = await guest("a");
  await done(a.put("p/0", { title: "T", parts: 1, data: "data:image/png;base64,AA" }, 0));
  await done(share(a, "p", { title: "T", src: "data:image/png;base64,AA" }, a.upload("p")), 100);
  expect(hub.room("wall:x").log.map(({ event }) => event)).toEqual(["doc", "upload"]);
});

it("fail where another's stand there, and then nobody is told of them", async () => {
  const a = await guest("a");
  await done(a.put("p/0", "another's", 0));
  const upload = a.upload("p");
  await expect(done(share(a, "p", { title: "T", src }, upload), 100)).rejects.toMatchObject({ code: "conflict" });
  await vi.advanceTimersByTimeAsync(0);
  expect(upload.value.state).toBe("failed");
  expect(hub.room("wall:x").log.some(({ event }) => event === "upload")).toBe(false);
});

it("are refused where they are too large", async () => {
  const a = await guest("a");
  await expect(share(a, "p", { title: "T", src: "x".repeat(MAX_CHARS + 1) }, a.upload("p"))).rejects.toThrow("too large");
});

it.each([
  ["nothing", undefined], ["no parts", { data: "data:image/png;base64,AA" }], ["too many parts", { parts: 99, data: "data:image/png;base64,AA" }],
  ["another kind of file", { parts: 1, data: "data:image/svg+xml;base64,AA" }], ["an address", { parts: 1, data: "https://elsewhere.example/a.png" }], ["a part that is missing", { parts: 2, data: "data:text/html," }],
])("are no pictures where there is %s", async (_name, value) => {
  const a = await guest("a");
  if (value) await done(a.put("p/0", value, 0));
  expect(await done(fetchPicture(a, "p"))).toBeUndefined();
});

it("the browser's memory is shared by tabs, bounded, and forgets what waited for a day", () => {
  const held = new Map<string, string>();
  vi.stubGlobal("localStorage", { getItem: (key: string) => held.get(key) ?? null, setItem: (key: string, value: string) => void held.set(key, value) });
  const page = new EventTarget();
  vi.stubGlobal("addEventListener", page.addEventListener.bind(page));
  let changes = 0;
  const memory = new Memory("wall:x", "g1", () => changes++);
  memory.like("a", true);
  memory.like("b", true);
  memory.like("a", false);
  expect(new Memory("wall:x", "g1", () => {}).likes).toEqual(["b"]);
  expect(new Memory("wall:x", "g2", () => {}).likes).toEqual([]);
  page.dispatchEvent(Object.assign(new Event("storage"), { key: "roomcast:likes:wall:x:g1" }));
  page.dispatchEvent(Object.assign(new Event("storage"), { key: "other" }));
  expect(changes).toBe(1);

  const comment = (n: number) => ({ comment: `c${n}`, target: "a", text: "t", user: "g1", at: Date.now(), state: "pending" as const });
  for (let n = 0; n < 60; n++) memory.wait(comment(n));
  expect(memory.waiting(Date.now())).toHaveLength(50);
  expect(memory.decided("c59")).toBe(true);
  expect(memory.decided("c59")).toBe(false);
  expect(memory.waiting(Date.now() + 25 * 3_600_000)).toEqual([]);
  held.set("roomcast:waiting:wall:x:g1", "{not json");
  expect(memory.waiting(Date.now())).toEqual([]);
});
