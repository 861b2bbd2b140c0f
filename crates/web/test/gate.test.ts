// @vitest-environment jsdom
// The dashboard's gate, where the hub does not answer: it says so, and can be told to try again.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { FakeHub } from "@roomcast/client/testing";
import { need } from "../shared/dom";
import { PATIENCE_MS } from "../shared/words";

vi.mock("uplot", () => ({ default: class { setData() {} setSize() {} destroy() {} } }));

const soon = (ms = 0) => vi.advanceTimersByTimeAsync(ms);
let hub: FakeHub;

beforeEach(() => {
  vi.useFakeTimers();
  vi.spyOn(Math, "random").mockReturnValue(0.99);
  vi.stubGlobal("ResizeObserver", class { observe() {} disconnect() {} });
  vi.stubGlobal("matchMedia", () => new EventTarget());
  document.body.innerHTML = readFileSync(join(import.meta.dirname, "../dashboard/index.html"), "utf8").replace(/[^]*<body>|<\/body>[^]*/g, "");
  hub = new FakeHub({ identify: ({ token }) => ({ user: "ada", role: token === "good" ? "admin" : "member" }) });
  vi.stubGlobal("WebSocket", hub.WebSocket);
});
afterEach(() => {
  hub.stop();
  vi.useRealTimers();
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
});

it("says after some seconds that nobody answers, tries again when told to, and opens", async () => {
  hub.offline = true;
  sessionStorage.setItem("roomcast:admin-token", "good");
  await import("../dashboard/main");
  const note = () => need("gate-note").textContent;
  const again = need<HTMLButtonElement>("gate-again");
  await soon(PATIENCE_MS - 1);
  expect([note(), again.hidden]).toEqual(["Asking the hub …", true]);
  await soon(1);
  expect(note()).toContain("The hub cannot be reached");
  expect(again.hidden).toBe(false);

  again.focus();
  again.click();
  expect(note()).toBe("Asking the hub …");
  expect(document.activeElement).toBe(again);
  await soon(PATIENCE_MS);
  expect(note()).toContain("The hub cannot be reached");

  // Its own attempts are far away by now; the button is not.
  hub.offline = false;
  again.click();
  await soon(50);
  expect([need("gate").hidden, need("board").hidden, again.hidden]).toEqual([true, false, true]);
  expect(document.activeElement).toBe(need("board"));
  await soon(PATIENCE_MS);
  expect(again.hidden).toBe(true);

  document.getElementById("sign-out")!.click();
  expect([need("gate").hidden, note(), again.hidden]).toEqual([false, "Signed out.", true]);
  expect(document.activeElement?.id).toBe("token");

  // A no is an answer; the token is taken out of the link that was printed.
  need<HTMLInputElement>("token").value = "http://127.0.0.1:8080/admin#token=member\n";
  need("gate-form").dispatchEvent(new SubmitEvent("submit", { cancelable: true }));
  await soon(50);
  expect(note()).toContain("role is “member”");
  await soon(PATIENCE_MS);
  expect([note()?.includes("role is “member”"), again.hidden]).toEqual([true, true]);
});
