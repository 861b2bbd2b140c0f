import { describe, expect, it } from "vitest";
import { Cluster, GONE_MS, HISTORY } from "../dashboard/cluster";
import { sparkPath } from "../dashboard/sparkline";
import { GALLERY } from "../demo/gallery";
import { readNotification } from "../shared/admin";
import { ago, bytes, compact, duration, explain, plural } from "../shared/words";
// @ts-expect-error a plain script of the build
import { photos } from "../scripts/photos.mjs";

const report = (node: string, at: number, more: Record<string, unknown> = {}) => ({
  node, version: "0.1.0", uptime_s: at / 1_000, at, connections: 10, connections_cap: 100, rooms: 2, members: 12,
  frames_in: at / 10, frames_out: at, events: at / 100, drops: 0, slow_closed: 1, memory_bytes: 1_000, redis: "ok", breaker: "closed", draining: false, ...more,
});

describe("the cluster", () => {
  it("adds up its nodes and takes rates from differences", () => {
    const cluster = new Cluster();
    for (const at of [1_000, 3_000]) for (const node of ["b", "a"]) expect(cluster.hear(report(node, at), at)).toBe(true);
    expect(cluster.nodes(3_000).map(({ sample }) => sample.node)).toEqual(["a", "b"]);
    expect(cluster.totals(3_000)).toMatchObject({ nodes: 2, connections: 20, connections_cap: 200, members: 24, frames_in: 200, frames_out: 2_000, events: 20, slow_closed: 2, stale: 0, trouble: [] });
  });

  it("marks a node stale after 3 s, counts none of its rates, and forgets it after 15 s", () => {
    const cluster = new Cluster();
    cluster.hear(report("a", 1_000), 1_000);
    cluster.hear(report("a", 2_000), 2_000);
    expect(cluster.nodes(4_999)[0]).toMatchObject({ stale: false });
    expect(cluster.totals(6_000)).toMatchObject({ nodes: 1, stale: 1, connections: 10, frames_out: 0, trouble: ["a has not been heard for 4 s"] });
    expect(cluster.nodes(2_000 + GONE_MS)).toEqual([]);
  });

  it("starts a restarted node from zero, and ignores stragglers", () => {
    const cluster = new Cluster();
    cluster.hear(report("a", 100_000), 1);
    expect(cluster.hear(report("a", 99_000, { uptime_s: 100 }), 2)).toBe(false);
    expect(cluster.hear(report("a", 101_000, { uptime_s: 0, frames_out: 5 }), 3)).toBe(true);
    expect(cluster.nodes(3)[0]!.rates.frames_out).toBe(0);
  });

  it("reads anything as a report, or as none", () => {
    const cluster = new Cluster();
    for (const none of [null, "x", 1, [], {}, { node: "" }, { node: 1 }]) expect(cluster.hear(none, 0)).toBe(false);
    expect(cluster.hear({ node: "a", connections: "many", drops: Number.NaN, version: {} }, 0)).toBe(true);
    expect(cluster.nodes(0)[0]!.sample).toMatchObject({ connections: 0, drops: 0, version: "–", draining: false });
  });

  it("names what is wrong", () => {
    const cluster = new Cluster();
    cluster.hear(report("a", 1, { redis: "down", breaker: "open", draining: true }), 0);
    expect(cluster.totals(0).trouble).toEqual(["a has lost Redis", "a: the breaker is open, writes are refused", "a is draining"]);
  });

  it("bounds what it keeps", () => {
    const cluster = new Cluster();
    cluster.tick(0);
    expect(cluster.history).toHaveLength(0);
    for (let n = 0; n < 600; n++) cluster.hear(report(`n${n}`, 1), 0);
    expect(cluster.nodes(0)).toHaveLength(500);
    for (let n = 0; n < HISTORY + 10; n++) cluster.tick(0);
    expect(cluster.history).toHaveLength(HISTORY);
  });
});

it("draws a line right-aligned, the largest at the top, zero at the floor", () => {
  expect(sparkPath([1], 10, 90, 40)).toBe("");
  expect(sparkPath([0, 5, 10], 10, 90, 40)).toBe("M70 43L80 23L90 3");
  expect(sparkPath([0, 0], 2, 90, 40)).toBe("M0 43L90 43");
});

it("hangs a picture for every photo", () => {
  const drawn = (photos() as { name: string }[]).map(({ name }) => name).sort();
  expect(GALLERY.map(({ id }) => id).sort()).toEqual(drawn);
});

it("takes only notifications with a title for notifications", () => {
  expect(readNotification({ event: "admin:notification", data: { title: "T", body: "B" } })).toEqual({ title: "T", body: "B" });
  expect(readNotification({ event: "admin:notification", data: { title: "T", body: 5 } })).toEqual({ title: "T", body: "" });
  for (const data of [null, "T", { title: "" }, { title: 1 }]) expect(readNotification({ event: "admin:notification", data })).toBeNull();
  expect(readNotification({ event: "other", data: { title: "T" } })).toBeNull();
});

it("says numbers and times as people do", () => {
  expect([compact(0.25), compact(12.34), compact(1_234.5), compact(34_200)]).toEqual(["0.3", "12.3", "1,235", "34.2K"]);
  expect([bytes(512), bytes(2_048), bytes(350e6)]).toEqual(["512 B", "2.0 KiB", "334 MiB"]);
  expect([duration(59), duration(3_599), duration(7_260), duration(90_000)]).toEqual(["59 s", "59 min", "2 h 1 min", "1 d 1 h"]);
  expect([ago(0, 5_000), ago(0, 65_000), ago(5_000, 0)]).toEqual(["just now", "1 min ago", "just now"]);
  expect([plural(1, "guest"), plural(2, "guest")]).toEqual(["1 guest", "2 guests"]);
});

it("explains each state, counting down to the next attempt", () => {
  const lost = { name: "reconnecting", inMs: 4_000, attempt: 1, code: 1012, reason: "the server restarts" } as const;
  expect(explain(lost, 1_000, 2_500)).toMatchObject({ tone: "wait", title: "Back in 3 s" });
  expect(explain(lost, 1_000, 9_000).title).toBe("Back in 0 s");
  expect(explain(lost, 0, 0).detail).toContain("The server restarts (code 1012)");
  expect(explain({ name: "closed", code: 4503, reason: "disconnected by an admin" }, 0, 0)).toMatchObject({ tone: "bad", title: "Closed" });
});
