// Which photos this guest likes, remembered by the browser and shared by its tabs. The hub alone counts.

export class Likes {
  readonly #key: string;
  #liked: Set<string>;

  constructor(room: string, user: string, changed: () => void) {
    this.#key = `roomcast:likes:${room}:${user}`;
    this.#liked = this.#load();
    addEventListener("storage", ({ key }) => {
      if (key !== this.#key) return;
      this.#liked = this.#load();
      changed();
    });
  }

  has(photo: string): boolean { return this.#liked.has(photo); }

  set(photo: string, on: boolean): void {
    if (on) this.#liked.add(photo);
    else this.#liked.delete(photo);
    try {
      localStorage.setItem(this.#key, JSON.stringify([...this.#liked]));
    } catch {
      // Forgotten with the page, then.
    }
  }

  #load(): Set<string> {
    try {
      const held: unknown = JSON.parse(localStorage.getItem(this.#key) ?? "[]");
      return new Set(Array.isArray(held) ? held.filter((id) => typeof id === "string") : []);
    } catch {
      return new Set();
    }
  }
}
