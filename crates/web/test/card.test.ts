// @vitest-environment jsdom
// A photo that was taken down hears nothing more: walls stay open for a whole evening.

import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { Roomcast } from "@roomcast/client";
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
