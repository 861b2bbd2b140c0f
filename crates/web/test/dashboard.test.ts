import { describe, expect, it } from "vitest";
import { Desk, GRACE_MS, type Waiting } from "../dashboard/desk";
import { CALM_MS, Herald } from "../dashboard/herald";
import { drained, Feed, HISTORY, incidents, merge, readPicture, STALE_MS } from "../dashboard/picture";
import { DEAF_MS, GONE_MS, MAX_GONE } from "../dashboard/roll";
import { clock } from "../shared/words";

const node = (more: Record<string, unknown> = {}) => ({ node: "a", version: "1", at: 1, connections: 10, connections_cap: 100, redis: "ok", breaker: "closed", phase: "serving", ...more });
const state = (nodes: Record<string, unknown> = { a: node() }, total: Record<string, unknown> = {}) => ({ at: 1, total: { connections: 10, in_per_s: 5, ...total }, nodes, rooms: [{ room: "event:x", members: 3, per_s: 1, drops_per_s: 0 }] });
const words = (feed: Feed, now: number) => incidents(feed, true, now).map(({ text }) => text);

describe("a merge patch", () => {
  it("does what RFC 7396 shows", () => {
    for (const [target, patch, result] of [
      [{ a: "b" }, { a: "c" }, { a: "c" }], [{ a: "b" }, { b: "c" }, { a: "b", b: "c" }], [{ a: "b" }, { a: null }, {}],
      [{ a: "b", b: "c" }, { a: null }, { b: "c" }], [{ a: ["b"] }, { a: "c" }, { a: "c" }], [{ a: "c" }, { a: ["b"] }, { a: ["b"] }],
      [{ a: { b: "c" } }, { a: { b: "d", c: null } }, { a: { b: "d" } }], [["a", "b"], ["c", "d"], ["c", "d"]], [{ a: "b" }, ["c"], ["c"]],
      [{ a: "foo" }, null, null], [{ e: null }, { a: 1 }, { e: null, a: 1 }], [[1, 2], { a: "b", c: null }, { a: "b" }], [{}, { a: { bb: { ccc: null } } }, { a: { bb: {} } }],
    ] as const) expect(merge(target, patch)).toEqual(result);
  });

  it("changes nothing that it was given, and no prototype", () => {
    const before = { a: { b: 1 } };
    merge(before, { a: { b: 2 } });
    expect(before).toEqual({ a: { b: 1 } });
    merge({}, JSON.parse('{"__proto__":{"polluted":true}}'));
    expect(({} as { polluted?: boolean }).polluted).toBeUndefined();
  });
});

describe("the feed", () => {
  it("lays patches upon a state, one after the other", () => {
    const feed = new Feed();
    expect(feed.hear({ by: "a", seq: 10, state: state() }, 0)).toBe("taken");
    expect(feed.hear({ by: "a", seq: 11, patch: { total: { connections: 12 }, nodes: { a: { connections: 12 }, b: node({ node: "b" }) } } }, 1_000)).toBe("taken");
    expect(feed.picture!.total).toMatchObject({ connections: 12, in_per_s: 5, nodes: 2 });
    expect(feed.picture!.nodes.map(({ node: id, connections }) => [id, connections])).toEqual([["a", 12], ["b", 10]]);
    expect(feed.hear({ by: "a", seq: 12, patch: { nodes: { b: null } } }, 2_000)).toBe("taken");
    expect(feed.picture!.nodes).toHaveLength(1);
    expect(feed.history.map(({ connections }) => connections)).toEqual([10, 12, 12]);
  });

  it("finds out that one is missing, and goes on from the answer of the hub", () => {
    const feed = new Feed();
    expect(feed.hear({ by: "a", seq: 3, patch: {} }, 0)).toBe("gap");
    feed.hear({ by: "a", seq: 10, state: state() }, 0);
    expect(feed.hear({ by: "a", seq: 12, patch: { total: { connections: 99 } } }, 0)).toBe("gap");
    expect(feed.hear({ by: "b", seq: 11, patch: { total: { connections: 99 } } }, 0)).toBe("gap");
    expect(feed.picture!.total.connections).toBe(10);
    feed.asked(state({ a: node({ connections: 20 }) }), 1);
    expect(feed.hear({ by: "b", seq: 40, patch: { nodes: { a: { connections: 21 } } } }, 2)).toBe("taken");
    expect(feed.hear({ by: "b", seq: 42, patch: {} }, 3)).toBe("gap");
    expect(feed.hear({ by: "b", seq: 50, state: state() }, 4)).toBe("taken");
  });

  it("reads anything as a picture, or as none", () => {
    const feed = new Feed();
    for (const none of [null, 1, "x", [], {}, { by: "a", seq: 1 }, { by: 1, seq: 1, state: state() }, { by: "a", seq: 1, state: [] }, { by: "a", seq: 1, state: { nodes: 3 } }]) expect(feed.hear(none, 0)).toBe("ignored");
    expect(feed.silentMs(5)).toBeUndefined();
    const odd = readPicture({ nodes: { a: { connections: "many", version: 7, breaker_log: [1, { at: "x" }], draining: true }, b: null }, rooms: [3, { room: 5 }], total: 9 })!;
    expect(odd.nodes).toHaveLength(1);
    expect(odd.nodes[0]).toMatchObject({ node: "a", connections: 0, version: "–", phase: "draining", breakerLog: [{ at: 0, state: "–" }] });
    expect(odd.rooms).toEqual([{ room: "–", members: 0, per_s: 0, drops_per_s: 0 }]);
  });

  it("bounds what it keeps", () => {
    const feed = new Feed();
    for (let seq = 0; seq < HISTORY + 20; seq++) feed.hear({ by: "a", seq, state: state() }, seq);
    expect(feed.history).toHaveLength(HISTORY);
    const many = Object.fromEntries(Array.from({ length: 700 }, (_, n) => [`n${n}`, node()]));
    expect(readPicture(state(many))!.nodes).toHaveLength(500);
  });
});

describe("what is wrong, in words", () => {
  it("is nothing while all is well, and staleness to the second when it is not", () => {
    const feed = new Feed();
    expect(words(feed, 0)).toEqual(["Connected; waiting for the first figures …"]);
    feed.hear({ by: "a", seq: 0, state: state() }, 0);
    expect(words(feed, 2_900)).toEqual(["All is well: 1 node, 10 connections"]);
    expect(words(feed, 3_000)).toEqual(["Nothing here is fresh: stale for 3 s"]);
    expect(words(feed, 61_500)).toEqual(["Nothing here is fresh: stale for 61 s"]);
    expect(incidents(feed, true, 3_000)[0]!.tone).toBe("bad");
  });

  it("names a node that says nothing new while others do, by this page's clock", () => {
    const feed = new Feed();
    feed.hear({ by: "a", seq: 0, state: state({ a: node({ at: 1 }), b: node({ at: 900_000 }) }) }, 0);
    for (let seq = 1; seq <= 4; seq++) feed.hear({ by: "a", seq, patch: { nodes: { a: { at: seq * 1_000 } } } }, seq * 1_000);
    expect(words(feed, 4_000)).toEqual(["b has said nothing new for 4 s"]);
  });

  it("names lost Redis, breakers, drains, drops, slow consumers and full nodes, the worst first", () => {
    const feed = new Feed();
    feed.hear({ by: "a", seq: 0, state: state({ a: node({ redis: "down", breaker: "open", phase: "leaving", connections: 95 }) }, { drops_per_s: 2, slow_per_s: 1, delivery_p99_ms: 900 }) }, 0);
    const said = incidents(feed, true, 0);
    expect(said.map(({ text }) => text)).toEqual([
      "a has lost Redis", "a: the breaker is open, writes are refused", "Slow consumers are being closed", "Deliveries are slow: p99 900 ms",
      "2 fleeting frames per second are dropped for slow sockets", "a is nearly full", "a is leaving",
    ]);
    feed.asked({ ...state(), partial: true }, 0);
    expect(words(feed, 0)).toEqual(["The other nodes cannot be asked: only a is shown"]);
  });

  it("is read out when it begins and when it is over, and never for its figures", () => {
    const feed = new Feed();
    const herald = new Herald();
    const heard: string[] = [];
    let seq = 0;
    /** The hub's message of that second, and what is read out by it. */
    const second = (at: number, raw?: ReturnType<typeof state>) => {
      if (raw) feed.hear({ by: "a", seq: seq++, state: raw }, at * 1_000);
      const said = herald.hear(incidents(feed, true, at * 1_000), at * 1_000);
      if (said !== undefined) heard.push(`${at}: ${said}`);
    };
    second(0);
    const named = (at: number, ...names: string[]) => Object.fromEntries(names.map((name) => [name, node({ node: name, at, connections: at })]));
    for (let at = 1; at < 20; at++) second(at, state(named(at, "a")));
    // What comes and goes within seconds is one trouble.
    for (let at = 20; at < 40; at++) second(at, state(named(at, "a"), at % 3 === 0 ? {} : { drops_per_s: at, delivery_p99_ms: 251 + at }));
    for (let at = 40; at < 60; at++) second(at, state(named(at, "a")));
    for (let at = 60; at < 75; at++) second(at);
    for (let at = 75; at < 90; at++) {
      const draining = Object.entries(named(at, "a", "b", "c", "d")).map(([name, figures]) => [name, { ...figures, phase: "draining" }]);
      second(at, state(Object.fromEntries(draining)));
    }
    expect(heard).toEqual([
      "1: All is well.",
      "20: Deliveries are slow; Fleeting frames are dropped for slow sockets.",
      `${38 + CALM_MS / 1_000}: All is well again.`,
      "62: Nothing here is fresh.",
      "75: a is draining; b is draining; c is draining; and 1 more.",
      `${74 + CALM_MS / 1_000}: Over: Nothing here is fresh.`,
    ]);
  });

  it("measures a drain from what was there when it began", () => {
    const of = (more: Record<string, unknown>) => drained(readPicture(state({ a: node(more) }))!.nodes[0]!);
    expect(of({})).toBeUndefined();
    expect(of({ phase: "draining", drain_from: 40, connections: 10 })).toBe(0.75);
    expect(of({ phase: "draining", drain_from: 40, connections: 50 })).toBe(0);
    expect(of({ phase: "draining", connections: 0 })).toBe(1);
  });
});

describe("nodes that go", () => {
  const SECOND = 1_000;
  /** A page that hears the cluster once a second. */
  function cluster() {
    const feed = new Feed();
    let seq = 0;
    let at = 0;
    const hear = (nodes: Record<string, unknown>, after = SECOND) => { at += after; feed.hear({ by: "a", seq: seq++, state: state(nodes) }, at); };
    return {
      feed,
      hear,
      now: () => at,
      /** Each says something new every second, for so long. */
      live(names: readonly string[], seconds: number, more: Record<string, unknown> = {}) {
        for (let n = 0; n < seconds; n++) hear({ ...named(names, at + SECOND), ...more });
      },
      said: () => words(feed, at),
    };
  }
  const named = (names: readonly string[], at: number) => Object.fromEntries(names.map((name) => [name, node({ node: name, at })]));
  /** What is told of a dead node until its lease is over. */
  const dead = (at: number) => ({ b: node({ node: "b", at }) });

  it("are told of for ten minutes where they died, though nothing else is wrong", () => {
    const { feed, live, now, said } = cluster();
    live(["a", "b"], 5);
    const died = now();
    live(["a"], 6, dead(died));
    expect(said()).toEqual(["b has said nothing new for 6 s"]);
    live(["a"], 1);
    const missed = now();
    expect(said()).toEqual([`b is gone since ${clock(died)}, without a drain`]);
    expect(incidents(feed, true, missed)[0]!.tone).toBe("bad");
    live(["a"], GONE_MS / SECOND - 1);
    expect(said()).toHaveLength(1);
    expect(said()[0]).toContain("b is gone");
    live(["a"], 1);
    expect(said()).toEqual(["All is well: 1 node, 10 connections"]);
  });

  it("are forgotten when they are back", () => {
    const { live, now, said } = cluster();
    live(["a", "b"], 3);
    live(["a"], 6, dead(now()));
    live(["a"], 20);
    expect(said()[0]).toContain("b is gone");
    live(["a", "b"], 1);
    expect(said()).toEqual(["All is well: 2 nodes, 10 connections"]);
  });

  it("are not missed where they drained, or said goodbye between two messages", () => {
    const { live, said } = cluster();
    live(["a", "b"], 3);
    live(["a"], 3, { b: node({ node: "b", at: 3_000, phase: "draining" }) });
    expect(said()).toEqual(["b has said nothing new for 3 s", "b is draining"]);
    live(["a"], 1);
    expect(said()).toEqual(["All is well: 1 node, 10 connections"]);
    live(["a", "c"], 3);
    live(["a"], 1);
    expect(said()).toEqual(["All is well: 1 node, 10 connections"]);
  });

  it("are missed where the page heard nothing for a while, and it is not said that they died", () => {
    const { feed, hear, live, now, said } = cluster();
    live(["a", "b"], 3);
    const last = now();
    hear(named(["a"], last + 8_000), 8_000);
    expect(said()).toEqual([`b is gone since ${clock(last)}, and may have drained`]);
    expect(incidents(feed, true, now())[0]!.tone).toBe("wait");
  });

  it("are not missed by a page that was away for long, and not where the others could not be asked", () => {
    const { feed, hear, live, now, said } = cluster();
    live(["a", "b"], 3);
    hear(named(["a"], DEAF_MS + 9_000), DEAF_MS + SECOND);
    expect(said()).toEqual(["All is well: 1 node, 10 connections"]);
    live(["a", "b"], 3);
    feed.asked({ ...state(named(["a"], now() + 5_000)), partial: true }, now() + 5_000);
    expect(words(feed, now() + 5_000)).toEqual(["The other nodes cannot be asked: only a is shown"]);
    hear(named(["a", "b"], now() + 6_000), 6_000);
    expect(said()).toEqual(["All is well: 2 nodes, 10 connections"]);
    feed.asked({ ...state(named(["a"], now() + 5_000)), partial: true }, now() + 5_000);
    hear(named(["a"], now() + 8_000), 8_000);
    expect(said()[0]).toContain("b is gone");
  });

  it("are not missed where there are more than are shown", () => {
    const { hear, said } = cluster();
    const many = Array.from({ length: 500 }, (_, n) => `n${n}`);
    hear(named(many, 1));
    for (let second = 2; second < 9; second++) hear(named(["another", ...many], second));
    expect(said()).toEqual([expect.stringContaining("All is well: 500 nodes")]);
  });

  it("are bounded, and the last one is told first", () => {
    const { feed, hear, live, now } = cluster();
    for (let n = 0; n < MAX_GONE + 5; n++) {
      live(["a", `n${n}`], 2);
      hear(named(["a"], now() + 6_000), 6_000);
    }
    const gone = feed.gone(now()).map(({ node: name }) => name);
    expect(gone).toHaveLength(MAX_GONE);
    expect([gone[0], gone.at(-1)]).toEqual([`n${MAX_GONE + 4}`, "n5"]);
  });

  it("are read out as one trouble from their silence until they are back, and not for a moment between two leases", () => {
    const { feed, live, now } = cluster();
    const herald = new Herald();
    const heard: string[] = [];
    const second = (names: readonly string[], more?: Record<string, unknown>) => {
      live(names, 1, more);
      const said = herald.hear(incidents(feed, true, now()), now());
      if (said !== undefined) heard.push(said);
    };
    for (let n = 0; n < 3; n++) second(["a", "b"]);
    const died = now();
    for (let n = 0; n < 6; n++) second(["a"], dead(died));
    for (let n = 0; n < 60; n++) second(["a"]);
    for (let n = 0; n < 20; n++) second(["a", "b"]);
    expect(heard).toEqual(["All is well.", "b says nothing new.", "All is well again."]);

    heard.length = 0;
    live(["a"], 1, { b: node({ node: "b", at: now() }) });
    live(["a"], 1, { b: node({ node: "b", at: now() - SECOND }) });
    for (let n = 0; n < STALE_MS / SECOND - 1; n++) second(["a"]);
    for (let n = 0; n < 20; n++) second(["a", "b"]);
    expect(heard).toEqual([]);
  });
});

describe("the moderator's desk", () => {
  const item = (n: number, more: Partial<Waiting> = {}): Waiting => ({ room: "event:x", comment: `c${n}`, target: "p", text: "t", user: "u", at: n, version: 1, ...more });
  const id = (n: number) => `event:x c${n}`;
  const desk = (count: number) => { const made = new Desk(); made.load(Array.from({ length: count }, (_, n) => item(n))); return made; };
  const fates = (of: Desk) => of.cases.map(({ item: { comment }, fate }) => `${comment} ${fate.name}`);

  it("sends a decision after its grace, and once", () => {
    const made = desk(2);
    expect(made.decide("approve", 0)).toBe(true);
    expect(made.picked).toBe(id(1));
    expect(made.due(GRACE_MS - 1)).toEqual([]);
    expect(made.due(GRACE_MS)).toEqual([{ item: item(0), decision: "approve" }]);
    expect(made.due(GRACE_MS + 10_000)).toEqual([]);
    made.done(item(0));
    expect(fates(made)).toEqual(["c1 waiting"]);
  });

  it("takes the last decision back, or one by name, and none that is on its way", () => {
    const made = desk(3);
    made.decide("approve", 0);
    made.decide("reject", 100);
    expect(made.undo()).toBe(true);
    expect([made.picked, ...fates(made)]).toEqual([id(1), "c0 grace", "c1 waiting", "c2 waiting"]);
    expect(made.undo(id(0))).toBe(true);
    expect(made.undo()).toBe(false);
    made.decide("approve", 200, id(0));
    made.due(200 + GRACE_MS);
    expect(made.undo(id(0))).toBe(false);
    expect(made.decide("reject", 9_999, id(0))).toBe(false);
  });

  it("goes on to the neighbour of a card that is gone, and not to the far end", () => {
    const made = desk(4);
    made.pick(id(2));
    made.done(item(2));
    expect(made.picked).toBe(id(3));
    made.load([item(0), item(1)]);
    expect(made.picked).toBe(id(1));
    made.load([]);
    expect(made.picked).toBeUndefined();
    made.load([item(7), item(6)]);
    expect(made.picked).toBe(id(6));
  });

  it("moves between the first and the last", () => {
    const made = desk(2);
    made.move(-1);
    expect(made.picked).toBe(id(0));
    made.move(1);
    made.move(1);
    expect(made.picked).toBe(id(1));
  });

  it("shows for a while what somebody else decided, and then forgets it", () => {
    const made = desk(2);
    made.decide("approve", 0);
    made.heard("event:x", "c0", "already rejected by bob", 1_000);
    expect(made.cases[0]!.fate).toMatchObject({ name: "settled", words: "already rejected by bob" });
    expect(made.due(GRACE_MS)).toEqual([]);
    made.due(20_000);
    expect(fates(made)).toEqual(["c1 waiting"]);
  });

  it("waits for its own answer rather than believe the news of it", () => {
    const made = desk(1);
    made.decide("approve", 0);
    made.due(GRACE_MS);
    made.heard("event:x", "c0", "already approved by me", GRACE_MS + 1);
    expect(fates(made)).toEqual(["c0 sending"]);
    made.settled("event:x", "c0", "not approved: it is rejected already", GRACE_MS + 2);
    expect(fates(made)).toEqual(["c0 settled"]);
  });

  it("keeps what is being decided about when the queue is read anew, and what failed may be tried again", () => {
    const made = desk(3);
    made.decide("approve", 0);
    made.load([item(2), item(5)]);
    expect(fates(made)).toEqual(["c0 grace", "c2 waiting", "c5 waiting"]);
    made.due(GRACE_MS);
    made.failed(item(0), "not approved: timeout");
    expect(made.decide("approve", 9_000, id(0))).toBe(true);
    made.due(9_000 + GRACE_MS);
    made.again(item(0), "approve", 20_000);
    expect(made.due(20_000)).toHaveLength(1);
  });

  it("holds no more than it can show", () => {
    expect(desk(900).cases).toHaveLength(500);
  });
});
