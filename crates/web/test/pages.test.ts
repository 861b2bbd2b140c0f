import { expect, it } from "vitest";
import { GALLERY } from "../demo/gallery";
import { readNotification } from "../shared/admin";
import { Attempts } from "../shared/key";
import { readToken } from "../shared/token";
import { ago, bytes, compact, duration, explain, plural, unanswered } from "../shared/words";
// @ts-expect-error a plain script of the build
import { photos } from "../scripts/photos.mjs";

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

it("takes a token out of whatever link it was pasted with", () => {
  const token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJtZSJ9.c2ln-_";
  for (const pasted of [token, ` ${token}\n`, `#token=${token}`, `token=${token} `, `http://127.0.0.1:8080/admin#token=${token}`, ` http://[::1]/?room=wall:x#token=${token}&more\n`]) expect(readToken(pasted)).toBe(token);
  for (const nothing of ["", "  ", "http://127.0.0.1/admin#token=", "#token= "]) expect(readToken(nothing)).toBe("");
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

it("says why the hub has not answered", () => {
  expect(unanswered({ name: "connecting", attempt: 0 })).toContain("has not answered");
  expect(unanswered({ name: "reconnecting", inMs: 1, attempt: 1, code: 1006, reason: "the connection was lost" })).toContain("cannot be reached: the connection was lost");
});

it("gives all attempts at one thing one key, and the same thing once more another", () => {
  const attempts = new Attempts();
  const first = attempts.key("a");
  expect(first).toMatch(/^[0-9a-f]{32}$/);
  expect(attempts.key("a")).toBe(first);
  expect(attempts.key("b")).not.toBe(first);
  const again = attempts.key("b");
  attempts.done();
  expect(attempts.key("b")).not.toBe(again);
});
