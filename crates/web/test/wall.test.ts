// @vitest-environment jsdom
// Parts of the wall, as who hears or presses keys meets them: what is read out, what stays under the hand, what a page that
// was away finds when it comes back.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { Roomcast } from "@roomcast/client";
import { FakeHub } from "@roomcast/client/testing";
import { queue } from "../demo/queue";
import { EVERY_MS, readout } from "../demo/readout";
import { sale } from "../demo/sale";
import { holdFocus, need } from "../shared/dom";

const page = readFileSync(join(import.meta.dirname, "../demo/index.html"), "utf8").replace(/[^]*<body>|<\/body>[^]*/g, "");
const hub = () => new FakeHub({ identify: ({ token }) => ({ user: token ?? "g", role: token === "host" ? "admin" : "guest" }) });
const soon = (ms = 0) => vi.advanceTimersByTimeAsync(ms);

beforeEach(() => {
  vi.useFakeTimers();
  vi.spyOn(Math, "random").mockReturnValue(0);
  document.body.innerHTML = page;
});
afterEach(() => {
  vi.useRealTimers();
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
});

it("reads out the first of many comments, and then how many came", async () => {
  const region = need("announce");
  const heard = () => [...region.children].map(({ textContent }) => textContent);
  const { announce, comment } = readout(region);
  for (let n = 1; n <= 30; n++) comment(`Hi ${n}`);
  announce("The prints are sold out");
  expect(heard()).toEqual(["New comment: Hi 1", "The prints are sold out"]);
  await soon(EVERY_MS);
  expect(heard().at(-1)).toBe("29 more new comments");
  await soon(EVERY_MS);
  comment("Hi 31");
  expect(heard().at(-1)).toBe("New comment: Hi 31");
  for (let n = 0; n < 9; n++) announce("Again");
  expect(heard()).toEqual(Array(5).fill("Again"));
});

it("says nothing that ticks in a live region of the page", () => {
  // What changes with each message has to be outside of all of them.
  for (const id of ["share-others", "share-list", "guests", "likes-total", "sale-left", "sale-clock", "badge"]) {
    const live = need(id).closest("[aria-live]:not([aria-live=off]), [role=status], [role=alert], [role=log]");
    expect(live, id).toBeNull();
  }
});

it("shows the offer that was made while the page was away", async () => {
  const fake = hub();
  const rc = new Roomcast({ url: "ws://fake", WebSocket: fake.WebSocket }).connect();
  const room = rc.room("wall:x");
  const wall = fake.room("wall:x");
  const host = { user: "host", role: "admin", send() {} };
  const offer = (title: string, version: number) => wall.answer(host, "put", { doc: "sale", value: { item: "print-a3", title }, version });
  const title = () => need("sale-title").textContent;
  offer("First", 0);
  wall.offer("print-a3", 5, 2, 60_000);
  sale(room, () => {});
  await soon();
  expect(title()).toBe("First");
  offer("Second", 1);
  await soon();
  expect(title()).toBe("Second");
  const asked = () => fake.received.filter(({ op }) => op === "get").length;
  const before = asked();
  fake.drop();
  offer("Third", 2);
  offer("Fourth", 3);
  await soon(10);
  expect(title()).toBe("Fourth");
  expect(asked()).toBe(before + 1);
  // An offer that cannot be read just now is no other offer.
  fake.refuseNext("get", "forbidden");
  offer("Fifth", 4);
  await soon();
  expect(title()).toBe("Fourth");
  rc.close();
  fake.stop();
});

it("keeps the focus with what can be done next: reserve, buy, and reserve again", async () => {
  const fake = hub();
  const rc = new Roomcast({ url: "ws://fake", WebSocket: fake.WebSocket }).connect();
  const room = rc.room("wall:x");
  fake.room("wall:x").offer("print-a3", 1, 2, 5_000);
  sale(room, () => {});
  await soon();
  const press = async (id: string) => { need(id).focus(); need(id).click(); await soon(); };
  await press("sale-reserve");
  expect(document.activeElement?.id).toBe("sale-buy");
  await soon(5_000);
  expect(document.activeElement?.id).toBe("sale-reserve");
  await press("sale-reserve");
  await press("sale-buy");
  // Nothing is left to be pressed.
  expect(document.activeElement?.id).toBe("sale");
  rc.close();
  fake.stop();
});

it("a queue that is read anew leaves what is under the hand, and says where it went", async () => {
  const fake = new FakeHub({ identify: () => ({ user: "host", role: "admin" }), moderated: () => true });
  const rc = new Roomcast({ url: "ws://fake", WebSocket: fake.WebSocket }).connect();
  const wall = fake.room("wall:x");
  vi.stubGlobal("fetch", async () => new Response(JSON.stringify({ comments: fake.pending })));
  const element = document.body.appendChild(queue(rc.room("wall:x"), "token"));
  const texts = () => [...element.querySelectorAll("li p")].map((said) => said.firstChild!.textContent);
  wall.comment("ben", "cheers", "One");
  wall.comment("ben", "cheers", "Two");
  await soon(2_000);
  const reject = element.querySelectorAll("button")[1]!;
  reject.focus();
  wall.comment("ben", "cheers", "Three");
  await soon(2_000);
  expect(texts()).toEqual(["One", "Two", "Three"]);
  expect(document.activeElement).toBe(reject);
  // Another host was faster.
  const [first] = fake.pending;
  wall.moderate(first!.comment, "approve", 1);
  await soon(2_000);
  expect(texts()).toEqual(["Two", "Three"]);
  expect(document.activeElement?.id).toBe("queue-heading");
  element.remove();
  await soon(2_000);
  rc.close();
  fake.stop();
});

it("gives the focus back to what had it, or to the nearest around it", () => {
  document.body.innerHTML = '<div id="region" tabindex="0"><p><button id="first">1</button><button id="second">2</button></p></div><button id="else">3</button>';
  const from = (id: string) => { need(id).focus(); const giveBack = holdFocus(); need("else").focus(); return giveBack; };
  from("first")();
  expect(document.activeElement?.id).toBe("first");
  let giveBack = from("first");
  need<HTMLButtonElement>("first").disabled = true;
  giveBack();
  expect(document.activeElement?.id).toBe("region");
  giveBack = from("second");
  need("second").parentElement!.remove();
  giveBack();
  expect(document.activeElement?.id).toBe("region");
});
