// A small line over time. Decoration beside a number: the number is the content, so readers skip the drawing.

import { svg } from "../shared/dom";

const W = 240;
const H = 48;
/** A young history is not stretched over the whole width: few points would look like a trend. */
const LEAST_SLOTS = 30;

export class Sparkline {
  readonly element: SVGSVGElement;
  readonly #line = svg("path", { class: "spark-line" });
  readonly #area = svg("path", { class: "spark-area" });

  constructor() {
    this.element = svg("svg", { class: "spark", viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: "none", "aria-hidden": "true" }, this.#area, this.#line);
  }

  /** Newest last, right-aligned; 0 is always the floor, so that a flat line near the top does not look like a cliff. */
  draw(values: readonly number[]): void {
    const slots = Math.max(values.length, LEAST_SLOTS);
    const d = sparkPath(values, slots, W, H - 6);
    this.#line.setAttribute("d", d);
    this.#area.setAttribute("d", d === "" ? "" : `${d}L${W} ${H}L${startX(values.length, slots, W)} ${H}Z`);
  }
}

const startX = (count: number, slots: number, width: number): number => Math.round((width * (slots - count) * 10) / (slots - 1)) / 10;

/** The line through the values, 3 px below the top at the largest. */
export function sparkPath(values: readonly number[], slots: number, width: number, height: number): string {
  if (values.length < 2) return "";
  const top = Math.max(...values, 1e-9);
  const step = width / (slots - 1);
  const x0 = startX(values.length, slots, width);
  return values.map((value, i) => `${i === 0 ? "M" : "L"}${Math.round((x0 + i * step) * 10) / 10} ${Math.round((3 + (1 - value / top) * height) * 10) / 10}`).join("");
}
