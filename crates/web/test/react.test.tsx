// @vitest-environment jsdom
// The hooks, in a real React, against the fake hub: what users of both subpaths would write.

import { act, type ReactNode, StrictMode } from "react";
import { createRoot, type Root } from "react-dom/client";
import { renderToString } from "react-dom/server";
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { RoomcastProvider, useComments, useConnection, useCounter, useLikes, usePresence, useRoom } from "@roomcast/client/react";
import { FakeHub } from "@roomcast/client/testing";
import { Roomcast } from "@roomcast/client";

let hub: FakeHub;
let rc: Roomcast;
let root: Root;
let container: HTMLElement;

/** Lets the hub answer and React draw, `ms` later. */
const soon = (ms = 0) => act(() => vi.advanceTimersByTimeAsync(ms));
const text = () => container.textContent;
const wrap = (children: ReactNode) => <StrictMode><RoomcastProvider client={rc}>{children}</RoomcastProvider></StrictMode>;

beforeEach(() => {
  vi.useFakeTimers();
  vi.spyOn(Math, "random").mockReturnValue(0);
  Object.assign(globalThis, { IS_REACT_ACT_ENVIRONMENT: true });
  hub = new FakeHub();
  rc = new Roomcast({ url: "ws://fake", WebSocket: hub.WebSocket, token: "alice" });
  container = document.body.appendChild(document.createElement("div"));
  root = createRoot(container);
});
afterEach(async () => {
  act(() => root.unmount());
  await vi.advanceTimersByTimeAsync(0);
  rc.close();
  hub.stop();
  container.remove();
  vi.useRealTimers();
  vi.restoreAllMocks();
});

it("useConnection follows the connection", async () => {
  const Badge = () => <p>{useConnection().name}</p>;
  act(() => root.render(wrap(<Badge />)));
  expect(text()).toBe("idle");
  rc.connect();
  await soon();
  expect(text()).toBe("connected");
  hub.offline = true;
  await act(async () => {
    hub.drop();
    await vi.advanceTimersByTimeAsync(0);
  });
  expect(text()).toBe("reconnecting");
});

it("useRoom shares one membership between components, survives strict mode, and leaves with the last", async () => {
  const Member = ({ name }: { name: string }) => {
    const { room, joined } = useRoom(name);
    return <p>{`${room?.name}:${joined} `}</p>;
  };
  act(() => root.render(wrap(<><Member name="event:a" /><Member name="event:a" /></>)));
  rc.connect();
  await soon();
  expect(text()).toBe("event:a:true event:a:true ");
  expect(hub.received.filter(({ op }) => op === "join")).toHaveLength(1);
  act(() => root.render(wrap(<Member name="event:a" />)));
  await soon();
  expect(hub.received.filter(({ op }) => op === "leave")).toHaveLength(0);
  act(() => root.render(wrap(<Member name="event:b" />)));
  await soon();
  expect(text()).toBe("event:b:true ");
  expect(hub.room("event:a").presence.connections).toBe(0);
  expect(hub.room("event:b").presence.connections).toBe(1);
});

it("useRoom tells a refusal", async () => {
  const Board = () => <p>{useRoom("admin").error?.message ?? "fine"}</p>;
  rc.connect();
  act(() => root.render(wrap(<Board />)));
  await soon();
  expect(text()).toContain("may not join");
});

it("useLikes and useCounter move at once and settle", async () => {
  const Photo = () => {
    const { room } = useRoom("event:a");
    const likes = useLikes(room, "p");
    const downloads = useCounter(room, "p", "download");
    return <><button id="like" onClick={() => void likes.toggle()}>{`${likes.value} ${String(likes.on)} ${likes.pending}`}</button><button id="get" onClick={() => void downloads.add(2)}>{` ${downloads.value}`}</button></>;
  };
  act(() => root.render(wrap(<Photo />)));
  rc.connect();
  await soon();
  hub.room("event:a").count("p", "like", 4);
  await soon();
  expect(text()).toBe("4 undefined false 0");
  act(() => { document.getElementById("like")!.click(); document.getElementById("get")!.click(); });
  expect(text()).toBe("5 true true 2");
  await soon();
  expect(text()).toBe("5 true false 2");
  hub.refuseNext("like", "forbidden");
  vi.spyOn(console, "error").mockImplementation(() => {});
  act(() => void rc.room("event:a").likes("p").set(false).catch(() => {}));
  expect(text()).toBe("4 false true 2");
  await soon();
  expect(text()).toBe("5 true false 2");
});

it("usePresence and useComments follow the room through a lost connection", async () => {
  const View = () => {
    const { room } = useRoom("event:a", { recent: 10 });
    return <p>{`${usePresence(room).users} ${useComments(room, "p").map(({ text }) => text).join(",")}`}</p>;
  };
  hub.room("event:a").comment("bob", "p", "one");
  act(() => root.render(wrap(<View />)));
  rc.connect();
  await soon();
  expect(text()).toBe("1 one");
  hub.drop();
  hub.room("event:a").comment("bob", "p", "two");
  await soon(10);
  expect(text()).toBe("1 one,two");
});

it("a component that is mounted later sees what is there", async () => {
  const View = ({ photo }: { photo: string }) => {
    const { room } = useRoom("event:a", { recent: 10 });
    return <p>{`${useLikes(room, photo).value} ${useComments(room, photo).map(({ text }) => text).join(",")};`}</p>;
  };
  const wall = hub.room("event:a");
  wall.comment("bob", "p", "one");
  act(() => root.render(wrap(<View photo="p" />)));
  rc.connect();
  await soon();
  wall.comment("bob", "q", "two");
  wall.count("q", "like", 2);
  await soon();
  act(() => root.render(wrap(<><View photo="p" /><View photo="p" /><View photo="q" /></>)));
  await soon();
  expect(text()).toBe("0 one;0 one;2 two;");
  expect(hub.received.filter(({ op }) => op === "join")).toHaveLength(1);
});

it("what a room shows is there again after its continuity was lost, asked for once", async () => {
  const View = () => {
    const { room } = useRoom("event:a", { recent: 10 });
    return <p>{`${useLikes(room, "p").value} ${useComments(room, "p").map(({ text }) => text).join(",")} `}</p>;
  };
  const wall = hub.room("event:a");
  wall.comment("bob", "p", "one");
  wall.count("p", "like", 3);
  act(() => root.render(wrap(<><View /><View /></>)));
  rc.connect();
  await soon();
  expect(text()).toBe("3 one 3 one ");
  // As after a failover: another epoch, in which the past is still known.
  const { log, offset } = wall;
  hub.reset("event:a", "failover");
  Object.assign(wall, { log, offset });
  await soon();
  expect(text()).toBe("3 one 3 one ");
  expect(hub.received.filter(({ op }) => op === "join")).toHaveLength(2);
});

it("draws on a server, without a connection", () => {
  const View = () => {
    const { room, joined } = useRoom("event:a");
    return <p>{`${useConnection().name} ${joined} ${usePresence(room).users} ${useCounter(room, "p", "view").value}`}</p>;
  };
  expect(renderToString(wrap(<View />))).toBe("<p>idle false 0 0</p>");
});

it("says what is missing where there is no provider", () => {
  const View = () => <p>{useConnection().name}</p>;
  expect(() => renderToString(<View />)).toThrow("RoomcastProvider");
});
