/** @jsxImportSource preact */
// Notifications: to all admins, or to everyone in a room; and those that came.

import { useRef, useState } from "preact/hooks";
import { Attempts } from "../shared/key";
import { ago } from "../shared/words";
import { type Link, words } from "./link";

export function Notify({ link }: { link: Link }) {
  void link.beat.value;
  const [target, setTarget] = useState("admins");
  const [told, tell] = useState("");
  const [busy, setBusy] = useState(false);
  const { current: attempts } = useRef(new Attempts());
  const now = link.now.value;
  const rooms = (link.feed.picture?.rooms ?? []).filter(({ room }) => room !== "admin");

  const submit = async (event: SubmitEvent) => {
    event.preventDefault();
    const form = event.currentTarget as HTMLFormElement;
    const fields = new FormData(form);
    const field = (name: string) => String(fields.get(name) ?? "").trim();
    setBusy(true);
    tell("Sending …");
    try {
      const what = [target === "admins" ? "admin" : field("room"), field("title"), field("body")] as const;
      tell(await link.notify(...what, attempts.key(JSON.stringify(what))));
      attempts.done();
      form.reset();
    } catch (error) {
      tell(`Not sent: ${words(error)}.`);
    }
    setBusy(false);
  };
  return (
    <section aria-labelledby="notifications-heading">
      <h2 id="notifications-heading">Notifications</h2>
      <form class="compose" onSubmit={submit}>
        <input name="title" required maxLength={120} placeholder="Title" aria-label="Title of the notification" autocomplete="off" />
        <textarea name="body" rows={2} maxLength={1000} placeholder="Message (may stay empty)" aria-label="Text of the notification" />
        <div class="row">
          <label>To <select value={target} onChange={(event) => setTarget(event.currentTarget.value)}><option value="admins">all admins</option><option value="room">everyone in a room</option></select></label>
          {target === "room" && <input name="room" required list="known-rooms" placeholder="event:wall" aria-label="Room" autocomplete="off" spellcheck={false} />}
          <datalist id="known-rooms">{rooms.map(({ room }) => <option value={room} key={room} />)}</datalist>
          <button type="submit" class="primary" disabled={busy || !link.writable.value}>Send</button>
        </div>
        <p class="form-note" role="status" id="notify-told">{told}</p>
      </form>
      <ol class="notices" aria-label="Notifications, newest first" tabIndex={0}>
        {link.notices.value.map(({ title, body, at, from, fresh }, i) => (
          <li key={`${at} ${i}`} class={fresh ? "notice fresh" : "notice"}><strong>{title}</strong>{body ? <p>{body}</p> : " "}<small>{ago(at, now)} · from {from}</small></li>
        ))}
        {link.notices.value.length === 0 && <li class="empty">Nothing yet. What is sent to admins appears here at once.</li>}
      </ol>
    </section>
  );
}
