// Cards, table and charts: they show a cluster, and ask nothing of it.

import { h, need, setText } from "../shared/dom";
import { bytes, compact, count, duration, plural } from "../shared/words";
import { type Cluster, type NodeView, type Totals } from "./cluster";
import { Sparkline } from "./sparkline";

interface Figure {
  readonly name: string;
  readonly chart?: (totals: Totals) => number;
  readonly value: (totals: Totals) => string;
  readonly note: (totals: Totals) => string;
  /** Alarming, from where on. */
  readonly bad?: (totals: Totals) => boolean;
}

const percent = (part: number, whole: number): string => (whole > 0 ? `${Math.round((part / whole) * 1_000) / 10} % of ${compact(whole)}` : "no cap told");

const FIGURES: readonly Figure[] = [
  { name: "Connections", value: (t) => count(t.connections), note: (t) => percent(t.connections, t.connections_cap), chart: (t) => t.connections, bad: (t) => t.connections_cap > 0 && t.connections > t.connections_cap * 0.9 },
  { name: "Frames out / s", value: (t) => compact(t.frames_out), note: (t) => `${t.events > 0 ? compact(t.frames_out / t.events) : "0"} per event`, chart: (t) => t.frames_out },
  { name: "Frames in / s", value: (t) => compact(t.frames_in), note: () => "from all clients", chart: (t) => t.frames_in },
  { name: "Events / s", value: (t) => compact(t.events), note: () => "must-deliver, into rooms", chart: (t) => t.events },
  { name: "Drops / s", value: (t) => compact(t.drops), note: (t) => `${count(t.dropsTotal)} since start`, chart: (t) => t.drops, bad: (t) => t.drops > 0 },
  { name: "Memory", value: (t) => bytes(t.memory_bytes), note: (t) => (t.connections > 0 ? `${bytes(t.memory_bytes / t.connections)} per connection` : "all nodes"), chart: (t) => t.memory_bytes },
  { name: "Nodes", value: (t) => count(t.nodes), note: (t) => (t.stale + t.draining === 0 ? "all heard" : [t.stale > 0 ? `${t.stale} stale` : "", t.draining > 0 ? `${t.draining} draining` : ""].filter(Boolean).join(", ")), bad: (t) => t.stale > 0 },
  { name: "Rooms", value: (t) => count(t.rooms), note: () => "summed over nodes" },
  { name: "Members", value: (t) => count(t.members), note: (t) => (t.rooms > 0 ? `${compact(t.members / t.rooms)} per room and node` : "in rooms") },
  { name: "Slow closed", value: (t) => count(t.slow_closed), note: () => "consumers, since start" },
];

export class OverviewCards {
  readonly #parts = FIGURES.map((figure) => {
    const value = h("p", { class: "figure" }, "–");
    const note = h("p", { class: "figure-note" });
    const spark = figure.chart ? new Sparkline() : undefined;
    const element = h("article", { class: spark ? "tile charted" : "tile" }, h("h3", {}, figure.name), value, note);
    if (spark) element.append(spark.element);
    return { figure, value, note, spark, element };
  });

  constructor(place: HTMLElement) {
    place.replaceChildren(...this.#parts.map(({ element }) => element));
  }

  draw(totals: Totals, history: readonly Totals[]): void {
    for (const { figure, value, note, spark, element } of this.#parts) {
      setText(value, figure.value(totals));
      setText(note, figure.note(totals));
      element.classList.toggle("alarm", figure.bad?.(totals) ?? false);
      if (spark && figure.chart) spark.draw(history.map(figure.chart));
    }
  }
}

const COLUMNS = ["Node", "State", "Version", "Uptime", "Connections", "Rooms", "Members", "In / s", "Out / s", "Events / s", "Drops", "Slow closed", "Memory", "Redis", "Breaker"];

export class NodesTable {
  readonly #body = h("tbody");
  readonly #rows = new Map<string, HTMLTableRowElement>();

  constructor(place: HTMLElement) {
    place.replaceChildren(h("table", {},
      h("caption", { class: "sr" }, "Nodes of the cluster, refreshed every second"),
      h("thead", {}, h("tr", {}, ...COLUMNS.map((name) => h("th", { scope: "col" }, name)))),
      this.#body));
  }

  draw(nodes: readonly NodeView[]): void {
    for (const [name, row] of this.#rows) {
      if (nodes.some(({ sample }) => sample.node === name)) continue;
      row.remove();
      this.#rows.delete(name);
    }
    nodes.forEach((node, place) => {
      const { node: name } = node.sample;
      let row = this.#rows.get(name);
      if (!row) {
        row = h("tr", { "data-node": name }, h("th", { scope: "row" }, name), ...COLUMNS.slice(1).map(() => h("td")));
        this.#rows.set(name, row);
      }
      // Moved only where its place changed: moving a row each second would take the reader's place.
      if (this.#body.children[place] !== row) this.#body.insertBefore(row, this.#body.children[place] ?? null);
      this.#cells(node).forEach((text, i) => setText(row.children[i + 1]!, text));
      row.dataset.state = node.stale ? "stale" : node.sample.draining ? "draining" : "live";
      row.children[13]!.classList.toggle("bad", node.sample.redis === "down");
      row.children[14]!.classList.toggle("bad", node.sample.breaker === "open");
    });
  }

  #cells({ sample, rates, stale, silentMs }: NodeView): string[] {
    return [
      stale ? `stale for ${Math.floor(silentMs / 1_000)} s` : sample.draining ? "draining" : "live",
      sample.version, duration(sample.uptime_s),
      sample.connections_cap > 0 ? `${count(sample.connections)} / ${compact(sample.connections_cap)}` : count(sample.connections),
      count(sample.rooms), count(sample.members),
      compact(stale ? 0 : rates.frames_in), compact(stale ? 0 : rates.frames_out), compact(stale ? 0 : rates.events),
      count(sample.drops), count(sample.slow_closed), bytes(sample.memory_bytes), sample.redis, sample.breaker.replace("_", "-"),
    ];
  }
}

const EVERY = 5;
const TWIN_COLUMNS = ["Seconds ago", "Connections", "Out / s", "In / s", "Events / s", "Drops / s", "Memory"];

/** The charts' figures as a table, for who reads rather than looks. Drawn only while it is open. */
export function chartTwin(details: HTMLDetailsElement, place: HTMLElement): (history: readonly Totals[]) => void {
  const body = h("tbody");
  place.replaceChildren(h("table", {},
    h("caption", { class: "sr" }, "The last minute of the cluster, one row for every five seconds"),
    h("thead", {}, h("tr", {}, ...TWIN_COLUMNS.map((name) => h("th", { scope: "col" }, name)))), body));
  return (history) => {
    if (!details.open) return;
    const rows: HTMLElement[] = [];
    for (let back = 0; back <= 60 && back < history.length; back += EVERY) {
      const t = history[history.length - 1 - back]!;
      rows.push(h("tr", {}, h("th", { scope: "row" }, String(back)),
        ...[count(t.connections), compact(t.frames_out), compact(t.frames_in), compact(t.events), compact(t.drops), bytes(t.memory_bytes)].map((text) => h("td", {}, text))));
    }
    body.replaceChildren(...rows);
  };
}

/** The banner: what is wrong, or that nothing is. */
export function banner(cluster: Cluster, totals: Totals, connected: boolean, now: number): void {
  const element = need("banner");
  const silent = cluster.silentMs(now);
  const [tone, text] =
    silent === undefined ? ["wait", connected ? "Connected; waiting for the first report of a node …" : "Connecting …"]
    : silent >= 3_000 ? ["bad", `Nothing below is fresh: stale for ${Math.floor(silent / 1_000)} s.`]
    : totals.trouble.length > 0 ? ["wait", `${totals.trouble.slice(0, 3).join(" · ")}${totals.trouble.length > 3 ? ` · and ${totals.trouble.length - 3} more` : ""}`]
    : ["good", `All is well: ${plural(totals.nodes, "node")}, ${plural(totals.connections, "connection")}.`];
  element.dataset.tone = tone;
  setText(need("banner-text"), text!);
}
