// The connection badge: a word at a glance, and on request everything about the connection, in plain language.

import type { Roomcast, Room, State } from "@roomcast/client";
import { h, need, setText } from "../shared/dom";
import { explain } from "../shared/words";

export function connectionBadge(rc: Roomcast, room: Room, codec: string): void {
  const badge = need("badge");
  const title = need("badge-title");
  const detail = need("badge-detail");
  const facts = need("badge-facts");
  const retry = need<HTMLButtonElement>("badge-retry");
  const announced = need("badge-status");
  let state: State = rc.state;
  let since = Date.now();
  let lost = false;

  const draw = () => {
    const said = explain(state, since, Date.now());
    badge.dataset.tone = said.tone;
    setText(title, state.name === "connected" ? `Live · ${state.session.node}` : said.title);
    // A long name is shortened where the page is narrow.
    title.title = state.name === "connected" ? state.session.node : "";
    setText(detail, said.detail);
    retry.hidden = state.name !== "reconnecting" && state.name !== "closed";
    const session = rc.session;
    const rows: [string, string][] = [
      ["State", state.name],
      ["Node", session?.node ?? "–"],
      ["You are", session ? `${session.role} ${session.user}` : "–"],
      ["Session", session?.session ?? "–"],
      ["Room", `${room.name}${room.isJoined ? "" : " (not joined)"}`],
      ["Position", room.position ? `event ${room.position.offset} of epoch ${room.position.epoch.slice(0, 8)}` : "–"],
      ["Wire", `roomcast.v1.${codec}`],
    ];
    if (facts.children.length === 0) facts.append(...rows.flatMap(([name]) => [h("dt", {}, name), h("dd")]));
    rows.forEach(([, value], i) => setText(facts.children[i * 2 + 1]!, value));
  };

  rc.on("state", (next) => {
    // Told once for each loss: not at each attempt to come back, nor at each second until it.
    if (next.name === "connected") setText(announced, lost ? "The connection is live again." : "The connection is live.");
    else if (next.name === "closed") setText(announced, explain(next, 0, 0).detail);
    else if (next.name === "reconnecting" && !lost) setText(announced, "The connection is lost; this page comes back by itself.");
    lost = next.name !== "connected" && (lost || next.name === "reconnecting");
    state = next;
    since = Date.now();
    draw();
  });
  retry.addEventListener("click", () => (state.name === "closed" ? rc.connect() : rc.retryNow()));
  for (const name of ["event", "joined", "recovered", "reset"] as const) room.on(name, draw);
  setInterval(draw, 500);
  draw();
}
