// The admin strip: closed to guests, and says so; with an admin token it is a second connection, in the room `admin`.

import { type AdminLink, notificationPanel, openAdmin } from "../shared/admin";
import { h, need, setText } from "../shared/dom";
import { findToken, keepToken, readToken, watchToken } from "../shared/token";
import { PATIENCE_MS, unanswered } from "../shared/words";
import { queue } from "./queue";

export function adminStrip(roomName: string, toast: (text: string) => void): void {
  const intro = need("admin-intro");
  const form = need<HTMLFormElement>("admin-form");
  const field = need<HTMLInputElement>("admin-token");
  const note = need("admin-note");
  const body = need("admin-body");
  let link: AdminLink | undefined;
  let patience: ReturnType<typeof setTimeout> | undefined;

  const close = (why: string) => {
    clearTimeout(patience);
    link?.close();
    link = undefined;
    keepToken(undefined);
    body.replaceChildren();
    intro.hidden = form.hidden = false;
    setText(note, why);
  };

  const open = (token: string) => {
    clearTimeout(patience);
    link?.close();
    setText(note, "Asking the hub …");
    patience = setTimeout(() => setText(note, unanswered(mine.rc.state)), PATIENCE_MS);
    const mine: AdminLink = openAdmin(token, {
      state: (state) => { if (link === mine && state.name === "reconnecting" && intro.hidden) setText(note, "Connection lost, coming back …"); },
      joined: () => {
        clearTimeout(patience);
        keepToken(token);
        intro.hidden = form.hidden = true;
        setText(note, `Signed in as ${mine.rc.session?.user ?? "admin"}, live on ${mine.rc.session?.node ?? "the hub"}.`);
        if (!body.querySelector(".queue-panel")) body.prepend(queue(mine.rc.room(roomName), token));
        body.hidden = false;
      },
      refused: (why) => { if (link === mine) close(why); },
    });
    link = mine;
    body.hidden = true;
    body.replaceChildren(
      notificationPanel(mine.room, (title, live) => live && toast(`Admin notification: ${title}`)),
      h("button", { type: "button", class: "quiet", onclick: () => close("Signed out.") }, "Sign out"));
    mine.rc.connect();
  };

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const token = readToken(field.value);
    field.value = "";
    if (token) open(token);
  });
  watchToken(open);
  const found = findToken();
  if (found) open(found);
}
