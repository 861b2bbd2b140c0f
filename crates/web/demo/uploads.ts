// Sharing a photo, as the guest who shares sees it, and as the others do: that something is on its way, and how far.

import type { Room, RoomEvent, Signal } from "@roomcast/client";
import { h, need, setText } from "../shared/dom";
import { randomKey } from "../shared/key";
import { plural } from "../shared/words";
import { type Picture, share } from "./album";
import { drawn, fromFile } from "./picture";

/** An upload that is not heard of for so long is not coming any more. */
const SILENT_MS = 15_000;
const MAX_OTHERS = 50;

export function uploads(room: Room, host: { user(): string | undefined; done(id: string, picture: Picture): void; announce(text: string): void }): void {
  const caption = need<HTMLInputElement>("share-title");
  const file = need<HTMLInputElement>("share-file");
  const list = need("share-list");
  const others = new Map<string, { progress: number; at: number }>();

  async function send(named: string, make: () => Promise<string> | string): Promise<void> {
    const title = caption.value.trim() || named;
    caption.value = "";
    const id = `guest-${randomKey(8)}`;
    const bar = h("progress", { max: 100, value: 0, "aria-label": `Upload of ${title}` });
    const state = h("span", { class: "share-state" }, "being made smaller …");
    const image = h("img", { alt: "", width: 64, height: 48 });
    const item = h("li", { "data-upload": id, "data-state": "preparing" }, image, h("div", {}, h("strong", {}, title), bar, state));
    list.prepend(item);
    while (list.children.length > 3) list.lastElementChild?.remove();
    try {
      const src = await make();
      image.src = src;
      const upload = room.upload(id);
      upload.subscribe(({ state: now, progress }) => {
        bar.value = progress;
        item.dataset.state = now;
        setText(state, now === "complete" ? "on the wall, for everybody" : now === "failed" ? "failed" : `${progress} % is there; only you can see it yet`);
      });
      setText(state, "waiting for the hub …");
      await share(room, id, { title, src }, upload);
      host.done(id, { title, src });
      host.announce(`Your photo ${title} is on the wall`);
      setTimeout(() => item.remove(), 8_000);
    } catch (error) {
      item.dataset.state = "failed";
      setText(state, `Not shared: ${(error as Error).message}`);
      host.announce(`Your photo ${title} was not shared: ${(error as Error).message}`);
    }
  }

  file.addEventListener("change", () => {
    for (const each of [...(file.files ?? [])].slice(0, 3)) void send(each.name.replace(/\.[^.]*$/, "").slice(0, 60) || "A photo", () => fromFile(each));
    file.value = "";
  });
  need("share-draw").addEventListener("click", () => void send("Drawn tonight", () => drawn()));

  const drawOthers = () => {
    for (const [id, { at }] of others) if (Date.now() - at > SILENT_MS) others.delete(id);
    const all = [...others.values()];
    const percent = Math.round(all.reduce((sum, { progress }) => sum + progress, 0) / Math.max(1, all.length));
    setText(need("share-others"), all.length === 0 ? "" : `${plural(all.length, "photo of another guest is", "photos of other guests are")} on the way: ${percent} %`);
  };
  room.on("signal", ({ event, data, from }: Signal) => {
    const { target, progress } = (data ?? {}) as Record<string, unknown>;
    if (event !== "upload" || typeof target !== "string" || typeof progress !== "number" || from === host.user()) return;
    if (others.size < MAX_OTHERS || others.has(target)) others.set(target, { progress, at: Date.now() });
    drawOthers();
  });
  room.on("event", ({ event, data }: RoomEvent) => {
    if (event === "upload" && others.delete(String((data as { target?: unknown } | null)?.target))) drawOthers();
  });
  setInterval(drawOthers, 5_000);
}
