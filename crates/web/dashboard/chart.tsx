/** @jsxImportSource preact */
// A line over time, and the same figures as a table: the drawing is for who looks, the table for who reads.

import { useEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import { clock } from "../shared/words";
import { HISTORY, type Sample } from "./picture";

export interface Line {
  readonly name: string;
  /** A custom property of the stylesheet. */
  readonly colour: string;
  readonly of: (sample: Sample) => number | null;
}

interface Props {
  readonly title: string;
  readonly lines: readonly Line[];
  readonly samples: readonly Sample[];
  readonly format: (value: number) => string;
  readonly now: number;
}

const HEIGHT = 128;
/** A young history is a short line at the right end: few points would look like a trend. */
const LEAST_S = 60;
const EVERY_S = 5;
const ROWS = 13;

/** Room beside the last time: half of it stands right of its tick. */
const BESIDE = 28;

const css = (name: string): string => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function data(samples: readonly Sample[], lines: readonly Line[]): uPlot.AlignedData {
  return [samples.map(({ at }) => at / 1_000), ...lines.map(({ of }) => samples.map(of))] as uPlot.AlignedData;
}

function draw(place: HTMLElement, lines: readonly Line[], format: Props["format"]): uPlot {
  const axis = { stroke: css("--soft"), grid: { stroke: css("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
  return new uPlot({
    width: Math.max(120, place.clientWidth), height: HEIGHT, legend: { show: false }, cursor: { show: false }, padding: [8, BESIDE, 0, 0],
    scales: {
      x: { range: (_, first) => { const end = Date.now() / 1_000; return [end - Math.min(HISTORY, Math.max(LEAST_S, end - (first || end))), end]; } },
      y: { range: (_, __, top) => [0, top > 0 ? top * 1.15 : 1] },
    },
    axes: [
      { ...axis, size: 24, space: 70, values: (_, at) => at.map((second) => clock(second * 1_000)) },
      { ...axis, size: 54, space: 30, values: (_, values) => values.map(format) },
    ],
    series: [{}, ...lines.map(({ name, colour }, i) => ({ label: name, stroke: css(colour), width: 2, points: { show: false }, ...(i === 0 ? { fill: `${css(colour)}22` } : {}) }))],
  }, [[], ...lines.map(() => [])] as unknown as uPlot.AlignedData, place);
}

export function Chart({ title, lines, samples, format, now }: Props) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot>();
  useEffect(() => {
    const element = place.current!;
    const again = () => {
      plot.current?.destroy();
      plot.current = draw(element, lines, format);
    };
    again();
    const sized = new ResizeObserver(() => plot.current?.setSize({ width: Math.max(120, element.clientWidth), height: HEIGHT }));
    sized.observe(element);
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    scheme.addEventListener("change", again);
    return () => { sized.disconnect(); scheme.removeEventListener("change", again); plot.current?.destroy(); };
  }, []);
  useEffect(() => plot.current?.setData(data(samples, lines)));
  return (
    <figure class="chart">
      <figcaption>
        <strong>{title}</strong>
        {lines.map(({ name, colour, of }) => {
          const last = samples.at(-1);
          const value = last && of(last);
          return <span class="key" key={name}><i class={`swatch ${colour.slice(2)}`} aria-hidden="true" />{name} <b>{value === null || value === undefined ? "–" : format(value)}</b></span>;
        })}
      </figcaption>
      <div class="plot" ref={place} aria-hidden="true" />
      <Twin title={title} lines={lines} samples={samples} format={format} now={now} />
    </figure>
  );
}

function Twin({ title, lines, samples, format, now }: Props) {
  const [open, setOpen] = useState(false);
  const rows = Array.from({ length: ROWS }, (_, i) => i * EVERY_S).flatMap((back) => {
    const sample = [...samples].reverse().find(({ at }) => at <= now - back * 1_000 + 999);
    return sample && sample.at > now - (back + EVERY_S) * 1_000 ? [{ back, sample }] : [];
  });
  return (
    <details class="twin" onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>{title} as a table</summary>
      {open && (
        <div class="scroll" tabIndex={0} role="region" aria-label={`${title} as a table`}>
          <table>
            <thead><tr><th scope="col">Seconds ago</th>{lines.map(({ name }) => <th scope="col" key={name}>{name}</th>)}</tr></thead>
            <tbody>
              {rows.map(({ back, sample }) => (
                <tr key={back}><th scope="row">{back}</th>{lines.map(({ name, of }) => { const value = of(sample); return <td key={name}>{value === null ? "–" : format(value)}</td>; })}</tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </details>
  );
}
