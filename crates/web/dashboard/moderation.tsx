/** @jsxImportSource preact */
// Comments that wait, for hands that stay on the keyboard: j and k move, a approves, r rejects, u takes back.

import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import { ago, plural } from "../shared/words";
import { type Case, Desk } from "./desk";
import { useKeptFocus } from "./focus";
import type { Link } from "./link";

export function Moderation({ link }: { link: Link }) {
  void link.deskTurn.value;
  const list = useRef<HTMLOListElement>(null);
  const { desk } = link;
  const waiting = desk.cases.filter(({ fate }) => fate.name === "waiting").length;
  useKeptFocus(list);
  const picked = () => list.current!.querySelector<HTMLElement>("[aria-current=true]");
  // The card under the hands is gone: the list has the focus now, and gives it on to the next card.
  useLayoutEffect(() => { if (document.activeElement === list.current) picked()?.focus(); });
  // The eye follows the pick only while the hands are here, and not from a button of the picked card to the card.
  useEffect(() => { if (list.current!.contains(document.activeElement) && !picked()?.contains(document.activeElement)) picked()?.focus(); }, [desk.picked]);

  const onKey = (event: KeyboardEvent) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    switch (event.key) {
      case "j": case "ArrowDown": desk.move(1); break;
      case "k": case "ArrowUp": desk.move(-1); break;
      case "a": link.decide("approve"); break;
      case "r": link.decide("reject"); break;
      case "u": link.undo(); break;
      default: return;
    }
    event.preventDefault();
    link.deskTurn.value++;
  };
  return (
    <section aria-labelledby="moderation-heading">
      <div class="row spread">
        <h2 id="moderation-heading">Moderation <span class="badge">{waiting}</span></h2>
        <button type="button" onClick={() => void link.readQueue()}>Read anew</button>
      </div>
      <p class="form-note"><span class="sr">{plural(waiting, "comment waits", "comments wait")}. </span>In the list: <kbd>j</kbd> <kbd>k</kbd> move, <kbd>a</kbd> approve, <kbd>r</kbd> reject, <kbd>u</kbd> undo. A decision is sent after five seconds.</p>
      <ol class="desk" id="desk" ref={list} tabIndex={-1} onKeyDown={onKey} aria-label="Comments that wait">
        {desk.cases.map((one) => <Card key={Desk.key(one.item)} one={one} link={link} picked={Desk.key(one.item) === desk.picked} />)}
        {desk.cases.length === 0 && <li class="empty">No comment waits.</li>}
      </ol>
      <p class="form-note" id="desk-note">{link.deskNote.value}</p>
    </section>
  );
}

function Card({ one: { item, fate }, link, picked }: { one: Case; link: Link; picked: boolean }) {
  const id = Desk.key(item);
  const now = link.now.value;
  const off = !link.writable.value;
  const pick = () => { link.desk.pick(id); link.deskTurn.value++; };
  return (
    <li data-comment={item.comment} data-fate={fate.name} tabIndex={picked ? 0 : -1} aria-current={picked ? "true" : undefined} onFocusIn={pick} onClick={pick}>
      <p class="said">{item.text}</p>
      <p class="form-note">{item.user} on {item.target} in {item.room}, {ago(item.at, now)}</p>
      {(fate.name === "waiting" || fate.name === "failed") && (
        <div class="row">
          <button type="button" tabIndex={picked ? 0 : -1} disabled={off} onClick={() => link.decide("approve", id)}>Approve</button>
          <button type="button" tabIndex={picked ? 0 : -1} disabled={off} onClick={() => link.decide("reject", id)}>Reject</button>
          {fate.name === "failed" && <span class="bad">{fate.words}</span>}
        </div>
      )}
      {fate.name === "grace" && (
        <div class="row"><strong>{fate.decision === "approve" ? "Will be approved" : "Will be rejected"} in {Math.max(0, Math.ceil((fate.until - now) / 1_000))} s</strong>
          <button type="button" onClick={() => link.undo(id)}>Undo</button></div>
      )}
      {fate.name === "sending" && <p><strong>{fate.decision === "approve" ? "Approving …" : "Rejecting …"}</strong></p>}
      {fate.name === "settled" && <p class="wait"><strong>{fate.words}</strong></p>}
    </li>
  );
}
