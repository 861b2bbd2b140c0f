// The dashboard: an admin's view of the whole cluster, fed by the hub's own protocol once a second.

import type { State } from "@roomcast/client";
import { type AdminLink, notificationPanel, openAdmin } from "../shared/admin";
import { need, setText } from "../shared/dom";
import { findToken, keepToken } from "../shared/token";
import { explain } from "../shared/words";
import { Cluster } from "./cluster";
import { banner, chartTwin, NodesTable, OverviewCards } from "./view";

const gate = need("gate");
const board = need("board");
const note = need("gate-note");
const field = need<HTMLInputElement>("token");
let leave: (() => void) | undefined;

function close(why: string): void {
  leave?.();
  leave = undefined;
  keepToken(undefined);
  board.hidden = true;
  gate.hidden = false;
  setText(note, why);
  field.focus();
}

function open(token: string): void {
  leave?.();
  setText(note, "Asking the hub …");
  const cluster = new Cluster();
  const cards = new OverviewCards(need("cards"));
  const table = new NodesTable(need("nodes"));
  const twin = chartTwin(need<HTMLDetailsElement>("twin"), need("twin-table"));
  let state: State = { name: "idle" };
  let since = Date.now();

  const status = () => {
    const now = Date.now();
    const said = explain(state, since, now);
    need("status").dataset.tone = said.tone;
    need("status").title = said.detail;
    setText(need("status-text"), state.name === "connected" ? `Live on ${state.session.node}` : said.title);
    return now;
  };
  const draw = () => {
    const now = status();
    const totals = cluster.tick(now);
    cards.draw(totals, cluster.history);
    table.draw(cluster.nodes(now));
    twin(cluster.history);
    banner(cluster, totals, state.name === "connected", now);
  };

  const link: AdminLink = openAdmin(token, {
    state: (next) => {
      state = next;
      since = Date.now();
      status();
    },
    joined: () => {
      keepToken(token);
      gate.hidden = true;
      board.hidden = false;
      setText(need("who"), link.rc.session?.user ?? "admin");
      draw();
    },
    refused: (why) => close(why),
  });
  link.room.on("signal", (signal) => {
    if (signal.event === "node") cluster.hear(signal.data, Date.now());
  });
  need("notifications").replaceChildren(notificationPanel(link.room, (title, live) => {
    if (live) setText(need("announce"), `Notification: ${title}`);
  }));
  const clock = setInterval(() => { if (!board.hidden) draw(); }, 1_000);
  leave = () => {
    clearInterval(clock);
    link.close();
  };
  link.rc.connect();
}

need<HTMLFormElement>("gate-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const token = field.value.trim();
  field.value = "";
  if (token) open(token);
});
need("sign-out").addEventListener("click", () => close("Signed out."));

const found = findToken();
if (found) open(found);
else field.focus();
