/** @jsxImportSource preact */
// The cluster at a glance: what is wrong in words, the figures, and how they went.

import { bytes, compact, count, plural } from "../shared/words";
import { Chart, type Line } from "./chart";
import type { Link } from "./link";
import { incidents, type Total } from "./picture";

interface Figure {
  readonly name: string;
  readonly value: (total: Total) => string;
  readonly note: (total: Total) => string;
  readonly bad?: (total: Total) => boolean;
}

export const ms = (value: number): string => `${value >= 100 ? Math.round(value) : Math.round(value * 10) / 10} ms`;
const share = (part: number, whole: number): string => `${Math.round((part / whole) * 1_000) / 10} % of ${compact(whole)}`;

const FIGURES: readonly Figure[] = [
  { name: "Connections", value: (t) => count(t.connections), note: (t) => (t.connections_cap ? share(t.connections, t.connections_cap) : "no cap"), bad: (t) => t.connections > (t.connections_cap ?? Infinity) * 0.9 },
  { name: "Out / s", value: (t) => compact(t.out_per_s), note: (t) => `${bytes(t.bytes_per_s)} / s` },
  { name: "In / s", value: (t) => compact(t.in_per_s), note: () => "frames from clients" },
  { name: "Delivery p99", value: (t) => (t.delivery_p99_ms === undefined ? "–" : ms(t.delivery_p99_ms)), note: () => "last 10 seconds", bad: (t) => (t.delivery_p99_ms ?? 0) > 250 },
  { name: "Drops / s", value: (t) => compact(t.drops_per_s), note: (t) => `${count(t.drops)} since start`, bad: (t) => t.drops_per_s > 0 },
  { name: "Slow consumers", value: (t) => count(t.slow_closed), note: (t) => `${bytes(t.queue_bytes)} queued`, bad: (t) => t.slow_per_s > 0 },
  { name: "Seats in rooms", value: (t) => count(t.members), note: (t) => `${plural(t.rooms, "room")} on nodes` },
  { name: "Memory", value: (t) => bytes(t.memory_bytes), note: (t) => `on ${plural(t.nodes, "node")}` },
];

const CONNECTIONS: readonly Line[] = [{ name: "connections", colour: "--line1", of: (s) => s.connections }];
const RATES: readonly Line[] = [{ name: "out", colour: "--line1", of: (s) => s.out }, { name: "in", colour: "--line2", of: (s) => s.in }];
const DELIVERY: readonly Line[] = [{ name: "p99", colour: "--line1", of: (s) => s.p99 }];
const DROPS: readonly Line[] = [{ name: "drops", colour: "--line3", of: (s) => s.drops }];

export function Banner({ link }: { link: Link }) {
  void link.beat.value;
  const all = incidents(link.feed, link.state.value.name === "connected", link.now.value);
  return (
    <div class="banner" id="banner" data-tone={all[0]!.tone}>
      <span class="dot" aria-hidden="true" />
      <span id="banner-text">{all.slice(0, 3).map(({ text }) => text).join(" · ")}{all.length > 3 ? ` · and ${all.length - 3} more` : ""}{all[0]!.tone === "good" ? "." : ""}</span>
    </div>
  );
}

export function Overview({ link }: { link: Link }) {
  void link.beat.value;
  const now = link.now.value;
  const { picture, history } = link.feed;
  return (
    <section id="overview" aria-labelledby="overview-heading">
      <h2 id="overview-heading">Cluster</h2>
      <div class="cards">
        {FIGURES.map(({ name, value, note, bad }) => (
          <article class={picture && bad?.(picture.total) ? "tile alarm" : "tile"} key={name}>
            <h3>{name}</h3>
            <p class="figure">{picture ? value(picture.total) : "–"}</p>
            <p class="figure-note">{picture ? note(picture.total) : ""}</p>
          </article>
        ))}
      </div>
      <div class="charts">
        <Chart title="Connections" lines={CONNECTIONS} samples={history} format={compact} now={now} />
        <Chart title="Frames per second" lines={RATES} samples={history} format={compact} now={now} />
        <Chart title="Delivery, p99" lines={DELIVERY} samples={history} format={ms} now={now} />
        <Chart title="Drops per second" lines={DROPS} samples={history} format={compact} now={now} />
      </div>
    </section>
  );
}
