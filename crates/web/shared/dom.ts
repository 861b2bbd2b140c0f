// Elements from code. Text is always set as text: nothing a hub sends is ever read as HTML.

type Child = Node | string | undefined;
type Props = Record<string, string | number | boolean | undefined | ((event: never) => void)>;

/** `on…` props are listeners, booleans are attributes that stand or don't, `undefined` is left out. */
export function h<Tag extends keyof HTMLElementTagNameMap>(tag: Tag, props: Props = {}, ...children: Child[]): HTMLElementTagNameMap[Tag] {
  return fill(document.createElement(tag), props, children);
}

export function svg<Tag extends keyof SVGElementTagNameMap>(tag: Tag, props: Props = {}, ...children: Child[]): SVGElementTagNameMap[Tag] {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), props, children);
}

function fill<E extends Element>(element: E, props: Props, children: Child[]): E {
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name.slice(2).toLowerCase(), value as EventListener);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== undefined));
  return element;
}

/** An element that the page's HTML promises to have. */
export function need<E extends HTMLElement = HTMLElement>(id: string): E {
  const element = document.getElementById(id);
  if (!element) throw new Error(`the page has no #${id}`);
  return element as E;
}

/**
 * Remembers who has the focus. The returned function gives it back: to the same element, or where that is gone or cannot
 * take it any more, to the nearest around it that does.
 */
export function holdFocus(): () => void {
  const places: HTMLElement[] = [];
  for (let at = document.activeElement; at instanceof HTMLElement && at !== document.body; at = at.parentElement) places.push(at);
  return () => {
    for (const place of places) {
      if (!place.isConnected || place.matches(":disabled")) continue;
      place.focus({ preventScroll: true });
      if (document.activeElement === place) return;
    }
  };
}

const SPOKEN = 5;

/** Has a live region read this out; as an addition, so that the same words twice are read twice. */
export function speak(region: Element, text: string): void {
  region.append(h("p", {}, text));
  while (region.children.length > SPOKEN) region.firstElementChild!.remove();
}

/** Changes text only where it differs, so that a reader's place and a live region are left in peace. */
export function setText(element: Element, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}
