// Live values: what the user did shows at once, and ends where the hub says.

import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { Comment } from "../client/types";
import { accept, answerJoin, connected, FakeSocket, settle } from "./fake-socket";

beforeEach(() => {
  vi.useFakeTimers();
  FakeSocket.all = [];
});
afterEach(() => vi.useRealTimers());

async function joined(counts: unknown[] = []) {
  const { rc, socket } = await connected();
  const room = rc.room("event:a");
  answerJoin(socket, { counts });
  const count = (value: number, version: number, counter = "like", target = "p") => socket.say({ push: "count", room: "event:a", target, counter, value, version });
  return { rc, room, socket, count };
}
const refuse = (socket: FakeSocket, op: string, code: string, more = {}) => socket.say({ id: socket.ops(op).at(-1)!.id, error: { code, message: "no", ...more } });

describe("likes", () => {
  it("move at once, and stand when the hub has answered", async () => {
    const { room, socket } = await joined([{ target: "p", counter: "like", value: 10, version: 5 }]);
    const likes = room.likes("p");
    const seen: unknown[] = [];
    likes.subscribe(({ value, on, pending }) => seen.push([value, on, pending]));
    const done = likes.toggle();
    expect(likes.value).toEqual({ value: 11, on: true, pending: true });
    socket.ok(socket.ops("like")[0]!.id, { value: 11, on: true, version: 6 });
    await done;
    expect(likes.value).toEqual({ value: 11, on: true, pending: false });
    expect(seen).toEqual([[11, true, true], [11, true, false]]);
    await Promise.all([likes.toggle(), settle().then(() => socket.ok(socket.ops("like")[1]!.id, { value: 10, on: false, version: 7 }))]);
    expect(likes.value).toEqual({ value: 10, on: false, pending: false });
  });

  it("never count one's own twice, whether the push or the answer comes first", async () => {
    const { room, socket, count } = await joined([{ target: "p", counter: "like", value: 10, version: 5 }]);
    const values: number[] = [];
    room.likes("p").subscribe(({ value }) => values.push(value));
    const done = room.like("p");
    count(11, 6);
    socket.ok(socket.ops("like")[0]!.id, { value: 11, on: true, version: 6 });
    await done;
    count(11, 6);
    count(12, 7);
    expect(new Set(values)).toEqual(new Set([11, 12]));
  });

  it("never step back while another's comes between", async () => {
    const { room, socket, count } = await joined([{ target: "p", counter: "like", value: 10, version: 5 }]);
    const values: number[] = [];
    room.likes("p").subscribe(({ value }) => values.push(value));
    const done = room.like("p");
    count(11, 6);
    count(12, 7);
    socket.ok(socket.ops("like")[0]!.id, { value: 12, on: true, version: 7 });
    await done;
    expect(values).toEqual([...values].sort((a, b) => a - b));
    expect(room.likes("p").value.value).toBe(12);
  });

  it("go back where the hub refuses", async () => {
    const { room, socket } = await joined([{ target: "p", counter: "like", value: 10, version: 5 }]);
    const likes = room.likes("p");
    const done = likes.set(true);
    refuse(socket, "like", "internal", { retry_ms: 500 });
    await expect(done).rejects.toMatchObject({ code: "internal", retryMs: 500 });
    expect(likes.value).toEqual({ value: 10, on: undefined, pending: false });
  });

  it("follow the last press where two are on their way", async () => {
    const { room, socket } = await joined([{ target: "p", counter: "like", value: 10, version: 5 }]);
    const likes = room.likes("p");
    const both = [likes.set(true), likes.set(false)];
    expect(likes.value).toMatchObject({ value: 10, on: false });
    socket.ok(socket.ops("like")[0]!.id, { value: 11, on: true, version: 6 });
    await both[0];
    expect(likes.value.on).toBe(false);
    socket.ok(socket.ops("like")[1]!.id, { value: 10, on: false, version: 7 });
    await both[1];
    expect(likes.value).toEqual({ value: 10, on: false, pending: false });
  });

  it("can be told what an earlier visit knew, and then take back", async () => {
    const { room } = await joined([{ target: "p", counter: "like", value: 10, version: 5 }]);
    const likes = room.likes("p");
    likes.remember(true);
    expect(likes.value).toEqual({ value: 10, on: true, pending: false });
    likes.toggle().catch(() => {});
    expect(likes.value).toMatchObject({ value: 9, on: false });
  });
});

describe("counters", () => {
  it("add up what is on its way, and never more", async () => {
    const { room, socket, count } = await joined();
    const downloads = room.counter("p", "download");
    const calls = [downloads.add(), downloads.add(4)];
    expect(downloads.value).toEqual({ value: 5, pending: true });
    // Both are in this push, and neither answer has come.
    count(5, 8, "download");
    expect(downloads.value.value).toBe(5);
    socket.ok(socket.ops("count")[0]!.id, { value: 1, version: 7 });
    await calls[0];
    expect(downloads.value).toEqual({ value: 5, pending: true });
    socket.ok(socket.ops("count")[1]!.id, { value: 5, version: 8 });
    await calls[1];
    expect(downloads.value).toEqual({ value: 5, pending: false });
  });

  it("give the same object until something differs, and hear nothing of others", async () => {
    const { room, count } = await joined();
    const views = room.counter("p", "view");
    const before = views.value;
    let heard = 0;
    const end = views.subscribe(() => heard++);
    count(3, 1, "view", "other");
    expect(views.value).toBe(before);
    count(3, 1, "view");
    count(3, 2, "view");
    expect(heard).toBe(1);
    end();
    count(4, 3, "view");
    expect(heard).toBe(1);
    expect(views.value.value).toBe(4);
  });

  it("tell who watches that another epoch knows nothing of them, and show no zero where it does", async () => {
    const known = (value: number, version: number, target: string) => ({ target, counter: "view", value, version });
    const { room, socket } = await joined([known(3, 7, "p"), known(5, 8, "q")]);
    const seen: string[] = [];
    for (const target of ["p", "q"]) room.counter(target, "view").subscribe(({ value }) => seen.push(`${target} ${value}`));
    socket.drop(1006);
    await vi.advanceTimersByTimeAsync(2_000);
    const next = await accept();
    answerJoin(next, { epoch: "e2", recovered: false, counts: [known(1, 1, "p")] });
    expect(seen).toEqual(["p 1", "q 0"]);
    next.say({ push: "reset", room: "event:a", epoch: "e3", offset: 0, reason: "failover" });
    expect(seen).toEqual(["p 1", "q 0", "p 0"]);
  });

  it("begin anew where a reload finds another epoch", async () => {
    const { room, socket } = await joined([{ target: "p", counter: "view", value: 3, version: 7 }]);
    room.reload();
    answerJoin(socket, { epoch: "e2", counts: [{ target: "p", counter: "view", value: 1, version: 1 }] });
    expect(room.value("p", "view")).toBe(1);
  });
});

it("people tell who is here", async () => {
  const { room, socket } = await joined();
  const people = room.people();
  expect(people.value).toEqual({ connections: 1, users: 1 });
  const seen: number[] = [];
  people.subscribe(({ users }) => seen.push(users));
  socket.say({ push: "presence", room: "event:a", connections: 3, users: 2 });
  socket.say({ push: "presence", room: "event:a", connections: 3, users: 2 });
  expect(seen).toEqual([2]);
});

describe("comments", () => {
  const event = (offset: number, comment: string, text: string, user = "g2", at = 1_000 * offset) =>
    ({ push: "event", room: "event:a", event: "comment", data: { comment, target: "p", text, user, at, version: 1 }, offset, at });
  const shown = (list: readonly Comment[]) => list.map(({ text, state }) => `${text}:${state}`);

  it("show one's own at once, then as pending, then for everybody", async () => {
    const { room, socket } = await joined();
    const comments = room.comments("p");
    const added = comments.add("Lovely");
    expect(shown(comments.value)).toEqual(["Lovely:sending"]);
    socket.ok(socket.ops("comment")[0]!.id, { comment: "c1", pending: true, version: 1, at: 5 });
    await added;
    expect(shown(comments.value)).toEqual(["Lovely:pending"]);
    socket.say(event(1, "c1", "Lovely", "g1"));
    expect(shown(comments.value)).toEqual(["Lovely:visible"]);
  });

  it("never show one's own twice where its event comes before the answer", async () => {
    const { room, socket } = await joined();
    const comments = room.comments("p");
    const added = comments.add(" Lovely ");
    socket.say(event(1, "c1", "Lovely", "g1"));
    expect(shown(comments.value)).toEqual(["Lovely:visible"]);
    socket.ok(socket.ops("comment")[0]!.id, { comment: "c1", pending: false, version: 1, at: 5 });
    await added;
    expect(shown(comments.value)).toEqual(["Lovely:visible"]);
  });

  it("take back what the hub refused, forget what was deleted, and keep other targets out", async () => {
    const { room, socket } = await joined();
    const comments = room.comments("p");
    expect(room.comments("p")).toBe(comments);
    const added = comments.add("Spam");
    refuse(socket, "comment", "forbidden");
    await expect(added).rejects.toMatchObject({ code: "forbidden" });
    socket.say(event(1, "c1", "One"));
    socket.say({ ...event(2, "c2", "Elsewhere"), data: { comment: "c2", target: "q", text: "Elsewhere", user: "g2" } });
    socket.say({ ...event(3, "c3", "No text"), data: { comment: "c3", target: "p" } });
    expect(shown(comments.value)).toEqual(["One:visible"]);
    socket.say({ push: "event", room: "event:a", event: "comment_deleted", data: { comment: "c1", target: "p", version: 2 }, offset: 4, at: 1 });
    expect(comments.value).toEqual([]);
  });

  it("start anew after a reset, but for one's own that wait", async () => {
    const { room, socket } = await joined();
    const comments = room.comments("p");
    comments.remember({ comment: "c9", target: "p", text: "Mine", user: "g1", at: 1, state: "pending" });
    socket.say(event(1, "c1", "One"));
    socket.say({ push: "reset", room: "event:a", epoch: "e2", offset: 0, reason: "lost" });
    expect(shown(comments.value)).toEqual(["Mine:pending"]);
  });

  it("are there for who asks later: for another target, or another handle on the room", async () => {
    const { rc, room, socket } = await joined();
    socket.say(event(1, "c1", "One"));
    expect(shown(room.comments("p").value)).toEqual(["One:visible"]);
    void room.comments("p").add("Mine").catch(() => {});
    const later = rc.room("event:a");
    const heard: string[][] = [];
    later.comments("p").subscribe((list) => heard.push(shown(list)));
    expect(shown(later.comments("p").value)).toEqual(["One:visible", "Mine:sending"]);
    socket.say(event(2, "c2", "Two"));
    expect(heard).toEqual([["One:visible", "Two:visible", "Mine:sending"]]);
    later.leave();
    socket.say(event(3, "c3", "Three"));
    expect(heard).toHaveLength(1);
    expect(room.comments("p").value).toHaveLength(4);
  });

  it("are up to date when their event is heard, and when a reset is", async () => {
    const { room, socket } = await joined();
    const seen: number[] = [];
    room.on("event", () => seen.push(room.comments("p").value.length));
    room.on("reset", () => seen.push(room.comments("p").value.length));
    socket.say(event(1, "c1", "One"));
    socket.say({ push: "reset", room: "event:a", epoch: "e2", offset: 0, reason: "lost" });
    expect(seen).toEqual([1, 0]);
  });

  it("show two that are sent at once as two, whatever chance says", async () => {
    vi.spyOn(Math, "random").mockReturnValue(0);
    const { room } = await joined();
    for (const text of ["One", "Two"]) void room.comments("p").add(text).catch(() => {});
    expect(new Set(room.comments("p").value.map(({ comment }) => comment)).size).toBe(2);
    vi.restoreAllMocks();
  });

  it("keep 5,000 of all targets, and drop the oldest of the quietest", async () => {
    const { room, socket } = await joined();
    const seen: number[] = [];
    room.comments("t0").subscribe(({ length }) => seen.push(length));
    for (let n = 0; n < 5_010; n++) {
      const { data, ...rest } = event(n + 1, `c${n}`, `${n}`);
      socket.say({ ...rest, data: { ...data, target: `t${Math.floor(n / 400)}` } });
    }
    const held = Array.from({ length: 13 }, (_, t) => room.comments(`t${t}`).value.length);
    expect(held).toEqual([390, ...Array<number>(11).fill(400), 210]);
    expect(seen.at(-1)).toBe(390);
  });

  it("keep the newest 500", async () => {
    const { room, socket } = await joined();
    const comments = room.comments("p");
    for (let n = 1; n <= 510; n++) socket.say(event(n, `c${n}`, `${n}`));
    expect(comments.value).toHaveLength(500);
    expect(comments.value[0]!.text).toBe("11");
  });
});

describe("stock", () => {
  const item = { target: "print", counter: "remaining", value: 10, version: 100 };

  async function held() {
    const all = await joined([item]);
    const stock = all.room.stock("print");
    const reserving = stock.reserve(2);
    expect(stock.value).toEqual({ remaining: 8, pending: true });
    // The hub's clock is a minute ahead of this one.
    const now = Date.now() + 60_000;
    all.socket.ok(all.socket.ops("ping").at(-1)!.id, { now });
    all.socket.ok(all.socket.ops("reserve")[0]!.id, { reservation: "r1", remaining: 7, expires_at: now + 30_000 });
    return { ...all, stock, hold: await reserving };
  }

  it("is unknown until an item is offered", async () => {
    const { room } = await joined();
    expect(room.stock("print").value).toEqual({ remaining: undefined, pending: false });
  });

  it("falls at once, stands as the answer says, and follows the pushes", async () => {
    const { stock, count } = await held();
    expect(stock.value).toEqual({ remaining: 7, pending: false });
    count(7, 100, "remaining", "print");
    count(5, 101, "remaining", "print");
    expect(stock.value.remaining).toBe(5);
  });

  it("lets no late answer hide a newer push", async () => {
    const { room, socket, count } = await joined([item]);
    const stock = room.stock("print");
    const reserving = stock.reserve(1);
    count(3, 105, "remaining", "print");
    socket.ok(socket.ops("ping")[0]!.id, { now: Date.now() });
    socket.ok(socket.ops("reserve")[0]!.id, { reservation: "r1", remaining: 9, expires_at: Date.now() + 1_000 });
    await reserving;
    expect(stock.value.remaining).toBe(3);
  });

  it("comes back where it is sold out", async () => {
    const { room, socket } = await joined([item]);
    const stock = room.stock("print");
    const reserving = stock.reserve(3);
    refuse(socket, "reserve", "sold_out");
    await expect(reserving).rejects.toMatchObject({ code: "sold_out", retryable: false });
    expect(stock.value).toEqual({ remaining: 10, pending: false });
  });

  it("is held until the hub's clock says so, told in this device's time", async () => {
    const { hold } = await held();
    expect(hold.value).toMatchObject({ reservation: "r1", quantity: 2, state: "held", expiresAt: Date.now() + 30_000 });
    const states: string[] = [];
    hold.subscribe(({ state }) => states.push(state));
    await vi.advanceTimersByTimeAsync(29_999);
    expect(states).toEqual([]);
    await vi.advanceTimersByTimeAsync(1);
    expect(states).toEqual(["expired"]);
  });

  it("is bought once, and no clock takes it back", async () => {
    const { hold, socket } = await held();
    const bought = hold.confirm();
    socket.ok(socket.ops("confirm")[0]!.id, { state: "confirmed", remaining: 7 });
    await bought;
    await vi.advanceTimersByTimeAsync(60_000);
    expect(hold.value.state).toBe("confirmed");
  });

  it("learns from a conflict how it ended", async () => {
    const { hold, socket } = await held();
    const bought = hold.confirm();
    refuse(socket, "confirm", "conflict", { current: { state: "expired" } });
    await expect(bought).rejects.toMatchObject({ code: "conflict" });
    expect(hold.value.state).toBe("expired");
  });
});

describe("uploads", () => {
  it("go forward only, with each step seen here and one a second told", async () => {
    const { room, socket } = await joined();
    const upload = room.upload("u1");
    const started = upload.start();
    socket.ok(socket.ops("upload")[0]!.id, { state: "started", progress: 0 });
    await started;
    const seen: number[] = [];
    upload.subscribe(({ progress }) => seen.push(progress));
    for (const progress of [10, 30, 20, 55.5]) upload.report(progress);
    expect(seen).toEqual([10, 30, 55]);
    expect(socket.ops("upload").slice(1).map(({ progress }) => progress)).toEqual([10]);
    await vi.advanceTimersByTimeAsync(1_000);
    upload.report(80);
    expect(socket.ops("upload").at(-1)).toMatchObject({ state: "progress", progress: 80 });
    const done = upload.complete();
    socket.ok(socket.ops("upload").at(-1)!.id, { state: "complete", progress: 100 });
    await done;
    // An answer that comes late changes nothing any more.
    socket.ok(socket.ops("upload")[1]!.id, { state: "progress", progress: 10 });
    await settle();
    expect(upload.value).toEqual({ state: "complete", progress: 100 });
  });
});

it("a document that is not there is empty, of version 0", async () => {
  const { room, socket } = await joined();
  const read = room.get("plan");
  refuse(socket, "get", "not_found");
  expect(await read).toEqual({ value: null, version: 0 });
});
