// Names that nobody else makes up, from chance.

/** `bytes` of chance in hexadecimal. Not `randomUUID`: that is missing on plain-http pages. */
export const randomKey = (bytes = 16): string => Array.from(crypto.getRandomValues(new Uint8Array(bytes)), (byte) => byte.toString(16).padStart(2, "0")).join("");

/** One key for all attempts at the same thing: what was done though its answer was lost is not done again. */
export class Attempts {
  #last: { what: string; key: string } | undefined;

  key(what: string): string {
    if (this.#last?.what !== what) this.#last = { what, key: randomKey() };
    return this.#last.key;
  }

  /** It is done: the same once more is another thing. */
  done(): void {
    this.#last = undefined;
  }
}
