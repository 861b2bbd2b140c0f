// One photo on the wall: its picture, its likes, its downloads, its comments. All of it lives in the room's handles.

import { type Comment, type Room, RoomcastError } from "@roomcast/client";
import { h, setText, svg } from "../shared/dom";
import { Attempts } from "../shared/key";
import { ago, count, plural } from "../shared/words";
import type { Photo } from "./gallery";

const SHOWN = 3;

export interface CardHost {
  readonly room: Room;
  nameOf(user: string): string;
  /** The guest's like was confirmed, or their comment was taken. */
  liked(photo: string, on: boolean): void;
  waits(comment: Comment): void;
  failed(what: string, error: unknown): void;
}

export class Card {
  readonly element: HTMLElement;
  readonly #photo: Photo;
  readonly #host: CardHost;
  readonly #image: HTMLImageElement;
  readonly #title = h("h2", {});
  readonly #heart: HTMLButtonElement;
  readonly #likes = h("span", { class: "number" }, "0");
  readonly #download: HTMLAnchorElement;
  readonly #downloads = h("span", { class: "number" }, "0");
  readonly #commentCount = h("span", { class: "number" }, "0");
  readonly #commentWord = h("span", { class: "sr" }, " comments");
  readonly #list: HTMLOListElement;
  readonly #more: HTMLButtonElement;
  readonly #attempts = new Attempts();
  #value = 0;
  #all = false;
  readonly #ends: readonly (() => void)[];

  constructor(photo: Photo, host: CardHost, eager: boolean) {
    this.#photo = photo;
    this.#host = host;
    const { room } = host;
    const [likes, downloads, comments] = [room.likes(photo.id), room.counter(photo.id, "download"), room.comments(photo.id)];

    this.#image = h("img", { alt: photo.alt, width: 480, height: 360, loading: eager ? "eager" : "lazy", decoding: "async" });
    this.#title.id = `photo-${photo.id}`;
    const onblur = () => this.#label();
    this.#heart = h("button", { class: "heart", type: "button", "aria-pressed": "false", onblur, onclick: () => void this.#like() }, heartIcon(), this.#likes);
    this.#download = h("a", { class: "download", download: `${photo.id}.${photo.src?.endsWith(".svg") ? "svg" : "jpg"}`, onblur,
      onclick: () => void downloads.add().catch((error: unknown) => host.failed("The download was not counted", error)) }, downloadIcon(), this.#downloads);
    this.#list = h("ol", { class: "comments" });
    this.#more = h("button", { type: "button", class: "more", hidden: true, onclick: () => { this.#all = !this.#all; this.#drawComments(); } });

    this.element = h("article", { class: "card", "aria-labelledby": this.#title.id, "data-photo": photo.id },
      this.#image,
      h("div", { class: "card-body" },
        h("header", {},
          h("div", {}, this.#title, h("p", { class: "by" }, `by ${photo.by}`)),
          this.#download,
          h("span", { class: "talk" }, talkIcon(), this.#commentCount, this.#commentWord),
          this.#heart),
        this.#list, this.#more, this.#form()));
    this.show(photo);

    const drawLikes = () => {
      const { value, on = false, pending } = likes.value;
      if (value > this.#value) this.#pop();
      this.#value = value;
      setText(this.#likes, count(value));
      this.#heart.setAttribute("aria-pressed", String(on));
      this.#heart.classList.toggle("on-its-way", pending);
      this.#label();
    };
    const drawDownloads = () => {
      setText(this.#downloads, count(downloads.value.value));
      this.#label();
    };
    this.#ends = [
      likes.subscribe(drawLikes),
      downloads.subscribe(drawDownloads),
      room.counter(photo.id, "comment").subscribe(({ value }) => this.#talk(value)),
      comments.subscribe(() => this.#drawComments()),
    ];
    drawLikes();
    drawDownloads();
    this.#talk(room.value(photo.id, "comment"));
    this.#drawComments();
  }

  /** Shows what is known of the photo by now. */
  show({ title, src }: Photo): void {
    setText(this.#title, title);
    this.element.classList.toggle("loading", src === undefined);
    this.#list.setAttribute("aria-label", `Comments on ${title}`);
    if (src !== undefined) {
      this.#image.src = src;
      this.#download.href = src;
    }
    this.#label();
  }

  /** Takes the card off the wall, and its ear off the room. */
  end(): void {
    this.element.remove();
    for (const end of this.#ends) end();
  }

  /** Brings "3 min ago" up to date. */
  tick(now: number): void {
    for (const time of this.#list.querySelectorAll("time")) setText(time, ago(Date.parse(time.dateTime), now));
  }

  async #like(): Promise<void> {
    try {
      const { on } = await this.#host.room.likes(this.#photo.id).toggle();
      this.#host.liked(this.#photo.id, on);
    } catch (error) {
      this.#host.failed("Your like did not get through", error);
    }
  }

  #form(): HTMLFormElement {
    const { id } = this.#photo;
    const field = h("input", { name: "text", maxlength: 500, required: true, autocomplete: "off", placeholder: "Say something nice …", "aria-labelledby": `say-${id} photo-${id}` });
    const note = h("p", { class: "form-note", role: "status" });
    const send = async (event: SubmitEvent) => {
      event.preventDefault();
      const text = field.value.trim();
      if (text === "") return;
      field.value = "";
      try {
        // Where its answer was lost it may be stored already: the next attempt at the same words is the same comment.
        const reply = await this.#host.room.comments(id).add(text, { key: this.#attempts.key(text) });
        this.#attempts.done();
        setText(note, reply.pending ? "Thank you! A host reads it first; until then only you see it." : "");
        if (reply.pending) this.#host.waits({ comment: reply.comment, target: id, text, user: "", at: reply.at, state: "pending" });
      } catch (error) {
        setText(note, `Not sent: ${(error as Error).message}${error instanceof RoomcastError && error.retryable ? " Try again in a moment." : ""}`);
        if (field.value === "") field.value = text;
      }
    };
    return h("form", { class: "say", onsubmit: (event: SubmitEvent) => void send(event) },
      h("span", { class: "sr", id: `say-${id}` }, "Comment on"), field, h("button", { type: "submit", "aria-labelledby": `send-${id} say-${id} photo-${id}` }, h("span", { id: `send-${id}` }, "Send")), note);
  }

  /** A name that changes under the focus is read anew each time: it waits until the focus has gone on. */
  #label(): void {
    const title = this.#title.textContent ?? "";
    const name = (element: HTMLElement, words: string) => { if (element !== document.activeElement) element.setAttribute("aria-label", words); };
    name(this.#heart, `Like ${title}, ${plural(this.#value, "like")}`);
    name(this.#download, `Download ${title}, ${plural(Number(this.#downloads.textContent?.replaceAll(",", "")), "download")}`);
  }

  #talk(comments: number): void {
    setText(this.#commentCount, count(comments));
    setText(this.#commentWord, comments === 1 ? " comment" : " comments");
  }

  #pop(): void {
    this.#heart.classList.remove("pop");
    // Reading a box between the two makes the animation start anew.
    void this.#heart.offsetWidth;
    this.#heart.classList.add("pop");
  }

  #drawComments(): void {
    const all = this.#host.room.comments(this.#photo.id).value;
    const shown = this.#all ? all : all.slice(-SHOWN);
    this.#list.replaceChildren(...shown.map(({ text, user, at, state }) => {
      const name = this.#host.nameOf(user);
      return h("li", { class: state === "visible" ? "" : "waiting" },
        h("span", { class: `face face-${hue(user)}`, "aria-hidden": "true" }, initial(name)),
        h("p", {}, h("strong", {}, name), " ", text, " ",
          state === "visible" ? h("time", { datetime: new Date(at).toISOString() }, ago(at, Date.now())) : h("span", { class: "tag" }, state === "pending" ? "waiting for a host" : "sending …")));
    }));
    this.#more.hidden = all.length <= SHOWN;
    setText(this.#more, this.#all ? "Show fewer" : `Show all ${all.length}`);
    this.#more.setAttribute("aria-expanded", String(this.#all));
  }
}

const initial = (name: string): string => name.replace(/^Guest /, "").charAt(0).toUpperCase();

/** One of six colours, the same for the same guest everywhere. */
function hue(user: string): number {
  let sum = 0;
  for (let i = 0; i < user.length; i++) sum = (sum * 31 + user.charCodeAt(i)) >>> 0;
  return sum % 6;
}

const icon = (d: string): SVGElement => svg("svg", { viewBox: "0 0 24 24", "aria-hidden": "true" }, svg("path", { d }));
const heartIcon = () => icon("M12 20.5S3.5 15.6 3.5 9.2A4.7 4.7 0 0 1 12 6.4a4.7 4.7 0 0 1 8.5 2.8c0 6.4-8.5 11.3-8.5 11.3Z");
const talkIcon = () => icon("M4 5.5h16v11h-9l-4.5 3.6v-3.6H4Z");
const downloadIcon = () => icon("M12 4v11m-4.5-4L12 15.5 16.5 11M5 19.5h14");
