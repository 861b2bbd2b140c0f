// One photo on the wall: its picture, its likes, its comments. It shows what it is told and asks through `Actions`.

import { h, setText, svg } from "../shared/dom";
import { ago, count, plural } from "../shared/words";
import type { Photo } from "./gallery";

const SHOWN = 3;
const KEPT = 200;

export interface Comment {
  readonly comment: string;
  readonly target: string;
  readonly text: string;
  readonly user: string;
  readonly at: number;
}

export interface Actions {
  like(photo: string, on: boolean): Promise<void>;
  /** Resolves to a note for the guest, or to nothing. */
  comment(photo: string, text: string): Promise<string | undefined>;
  nameOf(user: string): string;
}

export class Card {
  readonly element: HTMLElement;
  readonly #photo: Photo;
  readonly #actions: Actions;
  readonly #heart: HTMLButtonElement;
  readonly #likes = h("span", { class: "number" }, "0");
  readonly #commentCount = h("span", { class: "number" }, "0");
  readonly #list: HTMLOListElement;
  readonly #more: HTMLButtonElement;
  readonly #comments = new Map<string, Comment>();
  #value = 0;
  #liked = false;
  #all = false;

  constructor(photo: Photo, actions: Actions, eager: boolean) {
    this.#photo = photo;
    this.#actions = actions;
    this.#heart = h("button", { class: "heart", type: "button", "aria-pressed": "false", onclick: () => void this.#toggle() }, heartIcon(), this.#likes);
    this.#list = h("ol", { class: "comments", "aria-label": `Comments on ${photo.title}` });
    this.#more = h("button", { type: "button", class: "more", hidden: true, onclick: () => { this.#all = !this.#all; this.#draw(); } });
    const field = h("input", { name: "text", maxlength: 500, required: true, autocomplete: "off", placeholder: "Say something nice …", "aria-label": `Comment on ${photo.title}` });
    const send = h("button", { type: "submit", "aria-label": `Send comment on ${photo.title}` }, "Send");
    const note = h("p", { class: "form-note", role: "status" });
    const form = h("form", { class: "say", onsubmit: async (event: SubmitEvent) => {
      event.preventDefault();
      const text = field.value.trim();
      if (text === "") return;
      send.disabled = true;
      try {
        setText(note, (await actions.comment(photo.id, text)) ?? "");
        field.value = "";
      } catch (error) {
        setText(note, `Not sent: ${(error as Error).message}`);
      }
      send.disabled = false;
      field.focus();
    } }, field, send, note);

    const title = `photo-${photo.id}`;
    this.element = h("article", { class: "card", "aria-labelledby": title, "data-photo": photo.id },
      h("img", { src: `/demo/photos/${photo.id}.svg`, alt: photo.alt, width: 480, height: 360, loading: eager ? "eager" : "lazy", decoding: "async" }),
      h("div", { class: "card-body" },
        h("header", {},
          h("div", {}, h("h2", { id: title }, photo.title), h("p", { class: "by" }, `by ${photo.by}`)),
          h("span", { class: "talk" }, talkIcon(), this.#commentCount, h("span", { class: "sr" }, " comments")),
          this.#heart),
        this.#list, this.#more, form));
    this.#label();
  }

  setLikes(value: number): void {
    if (value > this.#value) this.#pop();
    this.#value = value;
    setText(this.#likes, count(value));
    this.#label();
  }

  setLiked(on: boolean): void {
    this.#liked = on;
    this.#heart.setAttribute("aria-pressed", String(on));
    this.#label();
  }

  setCommentCount(value: number): void {
    setText(this.#commentCount, count(value));
  }

  /** False where it is known already. */
  add(comment: Comment): boolean {
    if (this.#comments.has(comment.comment)) return false;
    this.#comments.set(comment.comment, comment);
    for (const oldest of this.#comments.keys()) {
      if (this.#comments.size <= KEPT) break;
      this.#comments.delete(oldest);
    }
    this.#draw();
    return true;
  }

  clear(): void {
    this.#comments.clear();
    this.#draw();
  }

  /** Brings "3 min ago" up to date. */
  tick(now: number): void {
    for (const time of this.#list.querySelectorAll("time")) setText(time, ago(Date.parse(time.dateTime), now));
  }

  async #toggle(): Promise<void> {
    const on = !this.#liked;
    this.setLiked(on);
    try {
      await this.#actions.like(this.#photo.id, on);
    } catch {
      this.setLiked(!on);
    }
  }

  #label(): void {
    this.#heart.setAttribute("aria-label", `Like ${this.#photo.title}, ${plural(this.#value, "like")}`);
  }

  #pop(): void {
    this.#heart.classList.remove("pop");
    // Reading a box between the two makes the animation start anew.
    void this.#heart.offsetWidth;
    this.#heart.classList.add("pop");
  }

  #draw(): void {
    const all = [...this.#comments.values()];
    const shown = this.#all ? all : all.slice(-SHOWN);
    this.#list.replaceChildren(...shown.map(({ text, user, at }) => {
      const name = this.#actions.nameOf(user);
      return h("li", {},
        h("span", { class: `face face-${hue(user)}`, "aria-hidden": "true" }, initial(name)),
        h("p", {}, h("strong", {}, name), " ", text, " ", h("time", { datetime: new Date(at).toISOString() }, ago(at, Date.now()))));
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

function heartIcon(): SVGElement {
  return svg("svg", { viewBox: "0 0 24 24", "aria-hidden": "true" }, svg("path", { d: "M12 20.5S3.5 15.6 3.5 9.2A4.7 4.7 0 0 1 12 6.4a4.7 4.7 0 0 1 8.5 2.8c0 6.4-8.5 11.3-8.5 11.3Z" }));
}

function talkIcon(): SVGElement {
  return svg("svg", { viewBox: "0 0 24 24", "aria-hidden": "true" }, svg("path", { d: "M4 5.5h16v11h-9l-4.5 3.6v-3.6H4Z" }));
}
