/** @jsxImportSource preact */
// The nodes: how each is, how far its drain is, and the two buttons that move its clients.

import { useRef, useState } from "preact/hooks";
import { bytes, clock, compact, count, duration, plural } from "../shared/words";
import { Confirm } from "./dialog";
import { useKeptFocus } from "./focus";
import type { Link } from "./link";
import { ms } from "./overview";
import { drained, type NodeFigures, STALE_MS } from "./picture";
import { type Gone, GONE_MS, howGone } from "./roll";
import { Cell, Column, RowName, Table } from "./table";

const COLUMNS = ["Node", "State", "Version", "Uptime", "Connections", "In / s", "Out / s", "p99", "Drops", "Slow closed", "Queued", "Memory", "Redis"];

type Asked = { readonly what: "drain" | "shed"; readonly node: NodeFigures };

export function Nodes({ link }: { link: Link }) {
  void link.beat.value;
  // Rows that end being writable are drawn together with the table, which keeps the focus.
  void link.writable.value;
  const table = useRef<HTMLDivElement>(null);
  useKeptFocus(table);
  const [asked, ask] = useState<Asked>();
  const [told, tell] = useState("");
  const now = link.now.value;
  const nodes = link.feed.picture?.nodes ?? [];
  const done = (words: string | undefined) => { ask(undefined); if (words) tell(words); };
  return (
    <section aria-labelledby="nodes-heading">
      <h2 id="nodes-heading">Nodes</h2>
      <div class="scroll" id="nodes" ref={table} tabIndex={0} role="region" aria-label="Nodes, scrollable">
        <Table id="nodes-table" caption="Nodes of the cluster, refreshed every second"
          head={<>{COLUMNS.map((name) => <Column key={name} name={name} />)}<th scope="col" role="columnheader" class="actions"><span class="sr">Actions</span></th></>}>
          {nodes.map((node) => <NodeRow key={node.node} node={node} link={link} now={now} ask={(what) => ask({ what, node })} />)}
          {link.feed.gone(now).map((gone) => <GoneRow key={`gone ${gone.node}`} gone={gone} />)}
        </Table>
      </div>
      <p class="form-note" role="status">{told}</p>
      {asked?.what === "drain" && <DrainDialog node={asked.node} link={link} done={done} />}
      {asked?.what === "shed" && <ShedDialog node={asked.node} link={link} done={done} />}
    </section>
  );
}

function NodeRow({ node, link, now, ask }: { node: NodeFigures; link: Link; now: number; ask: (what: Asked["what"]) => void }) {
  const silent = Math.max(link.feed.nodeSilentMs(node.node, now), link.feed.silentMs(now) ?? 0);
  const stale = silent >= STALE_MS;
  const progress = drained(node);
  const off = !link.writable.value || stale || node.phase !== "serving";
  return (
    <tr role="row" data-node={node.node} data-state={stale ? "stale" : node.phase === "serving" ? "live" : "draining"}>
      <RowName name={node.node} />
      <Cell of="State">
        <span>{stale ? `stale for ${Math.floor(silent / 1_000)} s` : node.phase === "serving" ? (node.shedding ? "shedding" : "live") : node.phase}</span>
        {progress !== undefined && <> <small><progress max={1} value={progress} aria-label={`Drain of ${node.node}`} /> {Math.round(progress * 100)} %</small></>}
      </Cell>
      <Cell of="Version">{node.version}</Cell>
      <Cell of="Uptime">{duration(node.uptime_s)}</Cell>
      <Cell of="Connections">{count(node.connections)}{node.connections_cap === undefined ? "" : ` / ${compact(node.connections_cap)}`}</Cell>
      <Cell of="In / s">{compact(stale ? 0 : node.in_per_s)}</Cell>
      <Cell of="Out / s">{compact(stale ? 0 : node.out_per_s)}</Cell>
      <Cell of="p99">{node.delivery_p99_ms === undefined ? "–" : ms(node.delivery_p99_ms)}</Cell>
      <Cell of="Drops">{count(node.drops)}</Cell>
      <Cell of="Slow closed">{count(node.slow_closed)}</Cell>
      <Cell of="Queued">{bytes(node.queue_bytes)}</Cell>
      <Cell of="Memory">{bytes(node.memory_bytes)}</Cell>
      <Cell of="Redis" class={node.redis === "down" || node.breaker === "open" ? "bad" : ""}>{node.redis}{node.breaker !== "closed" && <>, <small>breaker {node.breaker.replace("_", "-")}</small></>}</Cell>
      <td role="cell" class="actions">
        <button type="button" disabled={off || node.shedding} onClick={() => ask("shed")} aria-label={`Shed connections of ${node.node}`}>Shed</button>{" "}
        <button type="button" disabled={off} onClick={() => ask("drain")} aria-label={`Drain ${node.node}`}>Drain</button>
      </td>
    </tr>
  );
}

/** What is left of a node that went, and may have died. */
function GoneRow({ gone }: { gone: Gone }) {
  return (
    <tr role="row" data-node={gone.node} data-state="gone">
      <RowName name={gone.node} />
      <Cell of="State"><span>gone</span></Cell>
      <td role="cell" class="whole empty" colSpan={COLUMNS.length - 1}>since {clock(gone.since)}, {howGone(gone)}; told for {GONE_MS / 60_000} minutes, or until it is back</td>
    </tr>
  );
}

interface Dialog { readonly node: NodeFigures; readonly link: Link; readonly done: (told: string | undefined) => void }

function DrainDialog({ node, link, done }: Dialog) {
  const run = async () => {
    await link.call("drain", { node: node.node });
    return `${node.node} was told to drain.`;
  };
  return (
    <Confirm title={`Drain ${node.node}?`} action="Drain" run={run} close={done}>
      <p>It stops being ready, and its {plural(node.connections, "connection is", "connections are")} sent to other nodes. It serves nobody again until its process is restarted.</p>
    </Confirm>
  );
}

function ShedDialog({ node, link, done }: Dialog) {
  const [percent, setPercent] = useState(25);
  const [seconds, setSeconds] = useState(30);
  const run = async () => {
    await link.call("shed", { node: node.node, share: percent / 100, spread_ms: seconds * 1_000 });
    return `${node.node} was told to shed ${percent} % of its connections; the audit log tells how many those are.`;
  };
  return (
    <Confirm title={`Shed connections of ${node.node}?`} action="Shed" run={run} close={done}>
      <p>Of its {plural(node.connections, "connection")} a part is sent to other nodes, chosen at random; it goes on serving the others.</p>
      <label>Percent <input type="number" min={1} max={100} required value={percent} onInput={(event) => setPercent(event.currentTarget.valueAsNumber)} /></label>
      <label>Spread over seconds <input type="number" min={0} max={3600} required value={seconds} onInput={(event) => setSeconds(event.currentTarget.valueAsNumber)} /></label>
    </Confirm>
  );
}
