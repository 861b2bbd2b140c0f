/** @jsxImportSource preact */
// The dashboard: a gate that asks for a token, and behind it the board.

import { effect } from "@preact/signals";
import { render } from "preact";
import { need, setText } from "../shared/dom";
import { findToken, keepToken, readToken, watchToken } from "../shared/token";
import { PATIENCE_MS, unanswered } from "../shared/words";
import { Board } from "./board";
import { Link } from "./link";

const gate = need("gate");
const board = need("board");
const note = need("gate-note");
const field = need<HTMLInputElement>("token");
const again = need<HTMLButtonElement>("gate-again");
let leave: (() => void) | undefined;

function close(why: string): void {
  leave?.();
  leave = undefined;
  keepToken(undefined);
  again.hidden = true;
  setText(note, why);
  field.focus();
}

function open(token: string): void {
  leave?.();
  setText(note, "Asking the hub …");
  const since = { at: Date.now() };
  const link = new Link(token, close);
  // The client goes on trying by itself; who waits is told, and may try now.
  const patience = setTimeout(() => {
    setText(note, unanswered(link.state.value));
    again.hidden = false;
  }, PATIENCE_MS);
  again.onclick = () => open(token);
  const watch = effect(() => { void link.state.value; since.at = Date.now(); });
  // Nothing is shown before the hub has let us in; and what was shown stays while the connection comes back.
  const shown = effect(() => {
    if (!link.joined.value || !board.hidden) return;
    keepToken(token);
    clearTimeout(patience);
    again.hidden = true;
    const here = gate.contains(document.activeElement);
    gate.hidden = true;
    board.hidden = false;
    render(<Board link={link} since={since} leave={() => close("Signed out.")} />, board);
    // What was pressed is gone with the gate.
    if (here) board.focus();
  });
  leave = () => {
    clearTimeout(patience);
    watch();
    shown();
    link.close();
    render(null, board);
    // Behind the gate again, also where another token follows at once: what it opens is shown when it has let us in.
    board.hidden = true;
    gate.hidden = false;
  };
  link.connect();
}

need<HTMLFormElement>("gate-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const token = readToken(field.value);
  field.value = "";
  if (token) open(token);
});

watchToken(open);
const found = findToken();
if (found) open(found);
else field.focus();
