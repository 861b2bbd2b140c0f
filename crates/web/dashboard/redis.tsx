/** @jsxImportSource preact */
// Redis as each node sees it: how far it is, how often it was lost, and what the breaker did about it.

import { count } from "../shared/words";
import { Chart, type Line } from "./chart";
import type { Link } from "./link";
import { ms } from "./overview";
import type { NodeFigures } from "./picture";
import { Cell, Column, RowName, Table } from "./table";

const LINES: readonly Line[] = [{ name: "round trip", colour: "--line1", of: (s) => s.rtt }, { name: "pub/sub lag", colour: "--line2", of: (s) => s.lag }];
const COLUMNS = ["Node", "Redis", "Round trip", "Lag", "Reconnects", "Breaker, last 10 minutes"];
/** The strip shows so much of the past. */
const SPAN_MS = 600_000;

export function Redis({ link }: { link: Link }) {
  void link.beat.value;
  const now = link.now.value;
  const nodes = link.feed.picture?.nodes ?? [];
  const some = nodes.some(({ redis }) => redis !== "none");
  return (
    <section aria-labelledby="redis-heading">
      <h2 id="redis-heading">Redis</h2>
      {nodes.length > 0 && !some && <p class="form-note">No Redis: this node keeps everything in its own memory.</p>}
      <div class="halves late">
        <Chart title="Worst of all nodes" lines={LINES} samples={link.feed.history} format={ms} now={now} />
        <div class="scroll" tabIndex={0} role="region" aria-label="Redis by node, scrollable">
          <Table id="redis" caption="Redis as each node sees it" head={COLUMNS.map((name) => <Column key={name} name={name} />)}>
            {nodes.map((node) => (
              <tr role="row" key={node.node}>
                <RowName name={node.node} />
                <Cell of="Redis" class={node.redis === "down" ? "bad" : ""}>{node.redis}</Cell>
                <Cell of="Round trip">{node.redis_rtt_ms === undefined ? "–" : ms(node.redis_rtt_ms)}</Cell>
                <Cell of="Lag">{node.redis_lag_ms === undefined ? "–" : ms(node.redis_lag_ms)}</Cell>
                <Cell of="Reconnects">{count(node.redis_reconnects)}</Cell>
                <Cell of="Breaker, last 10 minutes"><Timeline node={node} now={now} /></Cell>
              </tr>
            ))}
          </Table>
        </div>
      </div>
    </section>
  );
}

/** A strip for who looks; the same in words for who reads. */
function Timeline({ node, now }: { node: NodeFigures; now: number }) {
  const start = now - SPAN_MS;
  const changes = node.breakerLog.filter(({ at }) => at > start);
  const before = node.breakerLog.filter(({ at }) => at <= start).at(-1)?.state ?? "closed";
  const spans = [{ at: start, state: before }, ...changes].map(({ at, state }, i) => ({ state, from: at, to: changes[i]?.at ?? now }));
  const open = spans.filter(({ state }) => state === "open").reduce((sum, { from, to }) => sum + to - from, 0);
  return (
    <>
      <svg class="strip" viewBox="0 0 200 10" preserveAspectRatio="none" aria-hidden="true">
        {spans.map(({ state, from, to }) => <rect key={from} class={state} x={((from - start) / SPAN_MS) * 200} width={Math.max(1, ((to - from) / SPAN_MS) * 200)} y={0} height={10} />)}
      </svg>
      <span>{node.breaker.replace("_", "-")}{open > 0 ? `, open for ${Math.ceil(open / 1_000)} s in all` : ""}</span>
    </>
  );
}
