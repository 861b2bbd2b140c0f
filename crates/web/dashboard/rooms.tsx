/** @jsxImportSource preact */
// Rooms that stand out, and a look into one: who is there, and what was said last.

import { useEffect, useRef, useState } from "preact/hooks";
import { ago, compact, count, plural } from "../shared/words";
import { Confirm } from "./dialog";
import { useKeptFocus } from "./focus";
import { type Link, words } from "./link";
import type { RoomFigures } from "./picture";
import { Cell, Column, RowName, Table } from "./table";

const ORDERS = [["members", "Members"], ["per_s", "Per second"], ["drops_per_s", "Drops / s"]] as const;
type Order = (typeof ORDERS)[number][0];
const SHOWN = 12;
const EVENTS = 20;
const MEMBERS = 50;

interface Seen { readonly event: string; readonly data: unknown; readonly offset: number; readonly at: number; readonly from?: string }
interface Member { readonly user: string; readonly connections: number }
interface Inside { readonly room: string; readonly offset: number; readonly events: readonly Seen[]; readonly connections: number; readonly users: number; readonly members: readonly Member[]; readonly note: string }

export function Rooms({ link }: { link: Link }) {
  void link.beat.value;
  const [order, setOrder] = useState<Order>("members");
  const [inside, setInside] = useState<Inside>();
  const [note, setNote] = useState("");
  const name = useRef<HTMLInputElement>(null);
  const heading = useRef<HTMLHeadingElement>(null);
  const table = useRef<HTMLDivElement>(null);
  // Rooms change places under the hand.
  useKeptFocus(table);
  useEffect(() => heading.current?.focus(), [inside]);
  const rooms = [...(link.feed.picture?.rooms ?? [])].sort((a, b) => b[order] - a[order] || (a.room < b.room ? -1 : 1)).slice(0, SHOWN);

  const look = async (room: string) => {
    setNote(`Looking into ${room} …`);
    try {
      const [past, there] = await Promise.allSettled([
        link.call<{ offset: number; events: Seen[] }>("history", { room, limit: EVENTS }),
        link.call<{ connections: number; users: number; members: Member[] }>("presence", { room, limit: MEMBERS }),
      ]);
      if (past.status === "rejected") throw past.reason;
      const presence = there.status === "fulfilled" ? there.value : { connections: 0, users: 0, members: [] };
      setInside({ room, offset: past.value.offset, events: [...past.value.events].reverse(), ...presence, note: there.status === "fulfilled" ? "" : `Who is there is not told: ${words(there.reason)}.` });
      setNote("");
    } catch (error) {
      setInside(undefined);
      setNote(`${room}: ${words(error)}.`);
    }
  };
  return (
    <section aria-labelledby="rooms-heading">
      <h2 id="rooms-heading">Rooms</h2>
      <div class="halves">
        <div>
          <div class="row" role="group" aria-label="Order of the rooms">
            {ORDERS.map(([of, label]) => <button type="button" key={of} aria-pressed={order === of} onClick={() => setOrder(of)}>{label}</button>)}
          </div>
          <div class="scroll" ref={table} tabIndex={0} role="region" aria-label="Rooms that stand out, scrollable">
            <Table id="rooms" caption="Rooms with most members, traffic or drops"
              head={<><Column name="Room" />{ORDERS.map(([of, label]) => <Column key={of} name={label} sort={order === of ? "descending" : "none"} />)}</>}>
              {rooms.map((room) => <RoomRow key={room.room} room={room} look={() => void look(room.room)} />)}
            </Table>
          </div>
          <form class="row" onSubmit={(event) => { event.preventDefault(); const room = name.current!.value.trim(); if (room) void look(room); }}>
            <input ref={name} id="inspect-name" aria-label="Room to inspect" placeholder="another room, like event:wall" autocomplete="off" spellcheck={false} />
            <button type="submit">Inspect</button>
          </form>
          <p class="form-note" role="status">{note}</p>
        </div>
        <div class="inspector" id="inspector" aria-live="off">
          {inside
            ? <Inspector inside={inside} heading={heading} link={link} again={() => void look(inside.room)} />
            : <p class="empty">Pick a room to see who is in it, and its last events.</p>}
        </div>
      </div>
    </section>
  );
}

function RoomRow({ room, look }: { room: RoomFigures; look: () => void }) {
  return (
    <tr role="row">
      <RowName name={room.room}><button type="button" class="link" onClick={look}>{room.room}</button></RowName>
      <Cell of="Members">{count(room.members)}</Cell>
      <Cell of="Per second">{compact(room.per_s)}</Cell>
      <Cell of="Drops / s" class={room.drops_per_s > 0 ? "bad" : ""}>{compact(room.drops_per_s)}</Cell>
    </tr>
  );
}

function Inspector({ inside, heading, link, again }: { inside: Inside; heading: preact.RefObject<HTMLHeadingElement>; link: Link; again: () => void }) {
  const [member, ask] = useState<string>();
  const [told, tell] = useState("");
  const now = link.now.value;
  return (
    <>
      <div class="row"><h3 ref={heading} tabIndex={-1}>{inside.room}</h3><button type="button" onClick={again}>Look again</button></div>
      <p class="form-note">{plural(inside.users, "person", "people")} on {plural(inside.connections, "connection")}; last event {count(inside.offset)}. {inside.note}</p>
      <div class="halves">
        <div>
          <h4>Members</h4>
          <ul class="members" tabIndex={0} aria-label="Members">
            {inside.members.map(({ user, connections }) => (
              <li key={user}><span>{user}{connections > 1 ? ` ×${connections}` : ""}</span>
                <button type="button" class="link" disabled={!link.writable.value} onClick={() => ask(user)} aria-label={`Disconnect ${user}`}>Disconnect</button></li>
            ))}
            {inside.members.length === 0 && <li class="empty">Nobody.</li>}
          </ul>
          <p class="form-note" role="status">{told}</p>
        </div>
        <div>
          <h4>Last events</h4>
          <ol class="events" tabIndex={0} aria-label="Last events, newest first">
            {inside.events.map(({ event, data, offset, at, from }) => (
              <li key={offset}><b>{event}</b> <small>{offset} · {ago(at, now)}{from ? ` · ${from}` : ""}</small><code>{JSON.stringify(data)?.slice(0, 300)}</code></li>
            ))}
            {inside.events.length === 0 && <li class="empty">None are kept.</li>}
          </ol>
        </div>
      </div>
      {member !== undefined && (
        <Confirm title={`Disconnect ${member}?`} action="Disconnect" run={async () => { await link.call("disconnect", { user: member }); return `${member} was disconnected.`; }} close={(words) => { ask(undefined); if (words) tell(words); }}>
          <p>All connections of this user are closed, on every node, and told not to come back by themselves.</p>
        </Confirm>
      )}
    </>
  );
}
