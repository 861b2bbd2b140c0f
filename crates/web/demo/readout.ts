// What is read out to who does not look at the wall: as much as one can listen to.

import { speak } from "../shared/dom";
import { plural } from "../shared/words";

/** A lively wall says how many comments came, at most so often. */
export const EVERY_MS = 20_000;

export interface Readout {
  /** Something that happened once: read at once. */
  announce(text: string): void;
  /** A comment of another guest: read, where none was read just now. */
  comment(text: string): void;
}

export function readout(region: Element): Readout {
  let more = 0;
  let quiet = true;
  const announce = (text: string) => speak(region, text);
  const later = () => setTimeout(() => {
    quiet = more === 0;
    if (quiet) return;
    announce(plural(more, "more new comment"));
    more = 0;
    later();
  }, EVERY_MS);
  return {
    announce,
    comment(text) {
      if (!quiet) { more++; return; }
      quiet = false;
      announce(`New comment: ${text}`);
      later();
    },
  };
}
