// @vitest-environment jsdom
// An admin token that is pasted into the address of a page that is open already: to a browser that is no new page.

import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { adminStrip } from "../demo/admin-strip";

const opened: { token: string; closed: boolean; join(): void }[] = vi.hoisted(() => []);

vi.mock("../dashboard/link", async () => {
  const { signal } = await import("@preact/signals");
  return {
    Link: class {
      readonly state = signal({ name: "idle" });
      readonly joined = signal(false);
      readonly #tab;
      constructor(token: string) {
        opened.push((this.#tab = { token, closed: false, join: () => { this.joined.value = true; } }));
      }
      connect(): void {}
      close(): void { this.#tab.closed = true; }
    },
  };
});
vi.mock("../dashboard/board", () => ({ Board: () => "the board" }));
vi.mock("../demo/queue", () => ({ queue: () => document.createElement("p") }));
vi.mock("../shared/admin", () => ({
  notificationPanel: () => document.createElement("p"),
  openAdmin: (token: string, on: { joined(): void }) => {
    const tab = { token, closed: false, join: () => on.joined() };
    opened.push(tab);
    return { rc: { connect() {}, room() {} }, room: {}, close: () => { tab.closed = true; } };
  },
}));

const last = () => opened.at(-1)!;
const shown = (id: string) => !document.getElementById(id)!.hidden;

function paste(hash: string): void {
  history.replaceState(null, "", hash);
  dispatchEvent(new Event("hashchange"));
}

beforeEach(() => {
  opened.length = 0;
  sessionStorage.clear();
  vi.spyOn(globalThis, "addEventListener");
});
// The two are pages of their own: what one listens to must not reach it while the other is tested.
afterEach(() => {
  for (const [name, listener] of vi.mocked(addEventListener).mock.calls) removeEventListener(name, listener);
  vi.restoreAllMocks();
});

it("opens the dashboard anew, and is taken out of the address", async () => {
  document.body.innerHTML = `<main id="gate"><form id="gate-form"><input id="token"></form><p id="gate-note"></p><button id="gate-again" hidden></button></main><div id="board" hidden></div>`;
  history.replaceState(null, "", "/admin?x=1#token=one");
  await import("../dashboard/main");
  last().join();
  expect([shown("gate"), shown("board"), document.getElementById("board")!.textContent]).toEqual([false, true, "the board"]);

  paste("#token=two");
  expect(opened.map(({ token, closed }) => [token, closed])).toEqual([["one", true], ["two", false]]);
  expect(location.pathname + location.search + location.hash).toBe("/admin?x=1");
  // Nothing is shown before the hub has let the new one in.
  expect([shown("gate"), shown("board")]).toEqual([true, false]);
  last().join();
  expect([shown("gate"), shown("board"), document.getElementById("board")!.textContent]).toEqual([false, true, "the board"]);

  // A place within the page is no token: what is open stays.
  paste("#nodes");
  expect(opened).toHaveLength(2);
  expect(location.hash).toBe("#nodes");
});

it("opens the hosts' part of the wall", () => {
  document.body.innerHTML = `<p id="admin-intro"></p><form id="admin-form"><input id="admin-token"></form><p id="admin-note"></p><div id="admin-body"></div>`;
  history.replaceState(null, "", "/?room=wall:x");
  adminStrip("wall:x", () => {});
  expect(opened).toEqual([]);
  paste("#token=host");
  expect(opened.map(({ token }) => token)).toEqual(["host"]);
  expect(location.pathname + location.search + location.hash).toBe("/?room=wall:x");
  last().join();
  paste("#wall");
  expect(opened).toHaveLength(1);
  expect(shown("admin-form")).toBe(false);
});
