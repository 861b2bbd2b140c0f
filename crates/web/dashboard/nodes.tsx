/** @jsxImportSource preact */
// The nodes: how each is, how far its drain is, and the two buttons that move its clients.

import { useRef, useState } from "preact/hooks";
import { bytes, compact, count, duration } from "../shared/words";
import { Confirm } from "./dialog";
import { useKeptFocus } from "./focus";
import type { Link } from "./link";
import { ms } from "./overview";
import { drained, type NodeFigures, STALE_MS } from "./picture";

const COLUMNS = ["Node", "State", "Version", "Uptime", "Connections", "In / s", "Out / s", "p99", "Drops", "Slow closed", "Queued", "Memory", "Redis", ""];

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
        <table>
          <caption class="sr">Nodes of the cluster, refreshed every second</caption>
          <thead><tr>{COLUMNS.map((name) => <th scope="col" key={name}>{name || <span class="sr">Actions</span>}</th>)}</tr></thead>
          <tbody>{nodes.map((node) => <NodeRow key={node.node} node={node} link={link} now={now} ask={(what) => ask({ what, node })} />)}</tbody>
        </table>
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
    <tr data-node={node.node} data-state={stale ? "stale" : node.phase === "serving" ? "live" : "draining"}>
      <th scope="row">{node.node}</th>
      <td>
        <span>{stale ? `stale for ${Math.floor(silent / 1_000)} s` : node.phase === "serving" ? (node.shedding ? "shedding" : "live") : node.phase}</span>
        {progress !== undefined && <> <progress max={1} value={progress} aria-label={`Drain of ${node.node}`} /> {Math.round(progress * 100)} %</>}
      </td>
      <td>{node.version}</td>
      <td>{duration(node.uptime_s)}</td>
      <td>{count(node.connections)}{node.connections_cap === undefined ? "" : ` / ${compact(node.connections_cap)}`}</td>
      <td>{compact(stale ? 0 : node.in_per_s)}</td>
      <td>{compact(stale ? 0 : node.out_per_s)}</td>
      <td>{node.delivery_p99_ms === undefined ? "–" : ms(node.delivery_p99_ms)}</td>
      <td>{count(node.drops)}</td>
      <td>{count(node.slow_closed)}</td>
      <td>{bytes(node.queue_bytes)}</td>
      <td>{bytes(node.memory_bytes)}</td>
      <td class={node.redis === "down" || node.breaker === "open" ? "bad" : ""}>{node.redis}{node.breaker === "closed" ? "" : `, breaker ${node.breaker.replace("_", "-")}`}</td>
      <td class="actions">
        <button type="button" disabled={off || node.shedding} onClick={() => ask("shed")} aria-label={`Shed connections of ${node.node}`}>Shed</button>{" "}
        <button type="button" disabled={off} onClick={() => ask("drain")} aria-label={`Drain ${node.node}`}>Drain</button>
      </td>
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
      <p>It stops being ready, and its {count(node.connections)} connections are sent to other nodes. It serves nobody again until its process is restarted.</p>
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
      <p>A part of its {count(node.connections)} connections is sent to other nodes, chosen at random; it goes on serving the others.</p>
      <label>Percent <input type="number" min={1} max={100} required value={percent} onInput={(event) => setPercent(event.currentTarget.valueAsNumber)} /></label>
      <label>Spread over seconds <input type="number" min={0} max={3600} required value={seconds} onInput={(event) => setSeconds(event.currentTarget.valueAsNumber)} /></label>
    </Confirm>
  );
}
