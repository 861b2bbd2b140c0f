// @vitest-environment jsdom
// A photo on the wall: what it hears until it is taken down, what a reader hears of it, and a comment that is tried again.

import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { type Comment, Roomcast } from "@roomcast/client";
import { FakeHub } from "@roomcast/client/testing";
import { Card } from "../demo/card";

beforeEach(() => { vi.useFakeTimers(); });
afterEach(() => { vi.useRealTimers(); });

it("follows its room until it is taken down", async () => {
  const hub = new FakeHub();
  const rc = new Roomcast({ url: "ws://fake", WebSocket: hub.WebSocket, token: "a" }).connect();
  const room = rc.room("wall:x");
  const card = new Card({ id: "p", title: "T", by: "B", alt: "", src: "1.jpg" }, { room, nameOf: (user) => user, liked() {}, waits() {}, failed() {} }, true);
  document.body.append(card.element);
  const tell = async () => {
    const wall = hub.room("wall:x");
    const changes: boolean[] = [];
    for (const one of [() => wall.count("p", "like", 1), () => wall.count("p", "download", 1), () => wall.count("p", "comment", 1), () => wall.publish("comment", { target: "p", comment: `c-${wall.offset}`, text: "Hi", user: "b" })]) {
      const was = card.element.innerHTML;
      one();
      await vi.advanceTimersByTimeAsync(0);
      changes.push(card.element.innerHTML !== was);
    }
    return changes;
  };
  await vi.advanceTimersByTimeAsync(0);
  expect(await tell()).toEqual([true, true, true, true]);
  card.end();
  expect(document.body.children).toHaveLength(0);
  expect(await tell()).toEqual([false, false, false, false]);
  rc.close();
  hub.stop();
});

it("keeps a name as long as it has the focus: one that changes is read anew each time", async () => {
  const hub = new FakeHub();
  const rc = new Roomcast({ url: "ws://fake", WebSocket: hub.WebSocket, token: "a" }).connect();
  const card = new Card({ id: "p", title: "T", by: "B", alt: "", src: "1.jpg" }, { room: rc.room("wall:x"), nameOf: (user) => user, liked() {}, waits() {}, failed() {} }, true);
  document.body.append(card.element);
  const heart = card.element.querySelector<HTMLElement>(".heart")!;
  const counted = async (by: number) => {
    hub.room("wall:x").count("p", "like", by);
    await vi.advanceTimersByTimeAsync(0);
    return heart.getAttribute("aria-label");
  };
  await vi.advanceTimersByTimeAsync(0);
  expect(await counted(1)).toBe("Like T, 1 like");
  heart.focus();
  expect(await counted(6)).toBe("Like T, 1 like");
  heart.blur();
  expect(heart.getAttribute("aria-label")).toBe("Like T, 7 likes");
  card.end();
  rc.close();
  hub.stop();
});

it("sends a comment whose answer was lost once, though it is tried again by hand", async () => {
  const hub = new FakeHub();
  const rc = new Roomcast({ url: "ws://fake", WebSocket: hub.WebSocket, token: "a" }).connect();
  const room = rc.room("wall:x");
  const waiting: Comment[] = [];
  const card = new Card({ id: "p", title: "T", by: "B", alt: "", src: "1.jpg" }, { room, nameOf: (user) => user, liked() {}, waits: (comment) => waiting.push(comment), failed() {} }, true);
  document.body.append(card.element);
  const say = async (text: string) => {
    card.element.querySelector<HTMLInputElement>(".say input")!.value = text;
    card.element.querySelector("form")!.dispatchEvent(new SubmitEvent("submit", { cancelable: true }));
    await vi.advanceTimersByTimeAsync(0);
  };
  await vi.advanceTimersByTimeAsync(0);
  // The hub takes it, and what it answers says that it did not.
  const { answer } = hub.room("wall:x");
  hub.room("wall:x").answer = function (...call) { answer.apply(this, call); throw new Error("lost"); };
  await say("Lovely");
  hub.room("wall:x").answer = answer;
  expect(card.element.querySelector("form .form-note")!.textContent).toContain("Try again");
  await say("Lovely");
  expect([...hub.room("wall:x").comments.values()].map(({ text }) => text)).toEqual(["Lovely"]);
  await say("Lovely");
  expect(hub.room("wall:x").comments.size).toBe(2);
  card.end();
  rc.close();
  hub.stop();
});
