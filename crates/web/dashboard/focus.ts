// The focus stays where the hands are, though what is under it is drawn anew every second.

import type { RefObject } from "preact";
import { useLayoutEffect } from "preact/hooks";
import { holdFocus } from "../shared/dom";

/**
 * Where drawing takes the focus from something within `place` (a row has moved, a button is gone or cannot be pressed any
 * more), it is given back to the same, or to the nearest around it that takes it.
 */
export function useKeptFocus(place: RefObject<HTMLElement>): void {
  const had = place.current?.contains(document.activeElement) ? document.activeElement : null;
  const giveBack = had ? holdFocus() : undefined;
  useLayoutEffect(() => {
    if (had && (document.activeElement !== had || had.matches(":disabled"))) giveBack!();
  });
}
