// The admin's connection and its notifications, as wall and dashboard both show them.

import { Roomcast, type Room, type RoomEvent, RoomcastError, type State } from "@roomcast/client";
import { h, setText } from "./dom";
import { Attempts } from "./key";
import { ago } from "./words";

const NOTIFICATION = "admin:notification";
const KEPT = 50;

export interface AdminLink {
  readonly rc: Roomcast;
  readonly room: Room;
  close(): void;
}

/**
 * A connection that will show `token` and join `admin`, once the caller has it in hand and calls `rc.connect()`: the
 * first state is told within that call. `refused` is told why where the hub's no is final.
 */
export function openAdmin(token: string, on: { state(state: State): void; joined(): void; refused(why: string): void }): AdminLink {
  const rc = new Roomcast({ token });
  const room = rc.room("admin", { recent: KEPT });
  const close = () => rc.close();
  const refuse = (why: string) => { close(); on.refused(why); };
  rc.on("state", (state) => {
    on.state(state);
    // 1000 is our own close, already told.
    if (state.name === "closed" && state.code !== 1000) on.refused(`The hub refused: ${state.reason}.`);
  });
  room.on("joined", () => on.joined());
  room.on("recovered", () => on.joined());
  room.on("kicked", ({ reason }) => refuse(`Removed from the admin room: ${reason}.`));
  room.on("error", (error) => {
    if (error instanceof RoomcastError && error.code === "forbidden") {
      refuse(`This token's role is “${rc.session?.role ?? "guest"}”; the admin room takes only “admin”.`);
    }
  });
  return { rc, room, close };
}

/** A list of notifications and the form to send one. */
export function notificationPanel(room: Room, heard: (title: string, live: boolean) => void): HTMLElement {
  const empty = h("li", { class: "notice-empty" }, "Nothing yet. What an admin sends appears here at once, on every node.");
  const list = h("ol", { class: "notices", "aria-label": "Notifications, newest first" }, empty);
  const title = h("input", { name: "title", required: true, maxlength: 120, placeholder: "Title", "aria-label": "Title of the notification", autocomplete: "off" });
  const body = h("textarea", { name: "body", rows: 2, maxlength: 1000, placeholder: "Message (may stay empty)", "aria-label": "Text of the notification" });
  const send = h("button", { type: "submit", class: "primary" }, "Send to all admins");
  const told = h("p", { class: "form-note", role: "status" });
  const attempts = new Attempts();

  const form = h("form", { class: "compose", onsubmit: async (event: SubmitEvent) => {
    event.preventDefault();
    send.disabled = true;
    setText(told, "Sending …");
    try {
      const notice = { title: title.value.trim(), body: body.value.trim() };
      await room.publish(NOTIFICATION, notice, { key: attempts.key(JSON.stringify(notice)) });
      attempts.done();
      form.reset();
      setText(told, "Sent.");
    } catch (error) {
      setText(told, `Not sent: ${(error as Error).message}`);
    }
    send.disabled = false;
  } }, title, body, h("div", { class: "compose-foot" }, send, told));

  room.on("event", (event) => {
    const notice = readNotification(event);
    if (!notice) return;
    empty.remove();
    list.prepend(h("li", { class: event.replay ? "notice" : "notice fresh" },
      h("strong", {}, notice.title),
      // The line breaks in between are the stylesheet's; who hears or copies it gets a space.
      notice.body ? h("p", {}, notice.body) : " ",
      h("small", {}, h("time", { datetime: new Date(event.at).toISOString() }, ago(event.at, Date.now())), event.from ? ` · from ${event.from}` : "")));
    while (list.children.length > KEPT) list.lastElementChild?.remove();
    heard(notice.title, !event.replay);
  });
  room.on("reset", () => {
    list.replaceChildren(empty);
    room.reload();
  });

  const clock = setInterval(() => {
    if (!list.isConnected) return clearInterval(clock);
    for (const time of list.querySelectorAll("time")) setText(time, ago(Date.parse(time.dateTime), Date.now()));
  }, 10_000);
  return h("div", { class: "notifications" }, form, list);
}

/** Null where it is another event, or has no title to show. */
export function readNotification(event: Pick<RoomEvent, "event" | "data">): { title: string; body: string } | null {
  if (event.event !== NOTIFICATION || typeof event.data !== "object" || event.data === null) return null;
  const { title, body } = event.data as { title?: unknown; body?: unknown };
  return typeof title === "string" && title !== "" ? { title, body: typeof body === "string" ? body : "" } : null;
}
