// Numbers, times and states in words. Pure: the moment is passed in.

import type { State } from "@roomcast/client";

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export const count = (value: number): string => whole.format(value);
export const compact = (value: number): string => (value < 100 ? whole.format(Math.round(value * 10) / 10) : value < 10_000 ? whole.format(Math.round(value)) : short.format(value));
export const plural = (value: number, one: string, many = `${one}s`): string => `${count(value)} ${value === 1 ? one : many}`;

export function bytes(value: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit++; }
  return `${value >= 100 || unit === 0 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

export function duration(seconds: number): string {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3_600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3_600)} h ${Math.floor((seconds % 3_600) / 60)} min`;
  return `${Math.floor(seconds / 86_400)} d ${Math.floor((seconds % 86_400) / 3_600)} h`;
}

export function ago(at: number, now: number): string {
  const seconds = Math.max(0, (now - at) / 1_000);
  return seconds < 10 ? "just now" : `${duration(seconds)} ago`;
}

/** The time of the day, to find it again in a log. */
export const clock = (at: number): string => new Date(at).toLocaleTimeString("en-GB");

/** A connection state for people: a tone for the colour, a word, and what it means. */
export interface Explained {
  readonly tone: "good" | "wait" | "bad";
  readonly title: string;
  readonly detail: string;
}

/** `since` is when the state began. */
export function explain(state: State, since: number, now: number): Explained {
  switch (state.name) {
    case "idle":
      return { tone: "wait", title: "Not connected", detail: "No connection has been asked for yet." };
    case "connecting":
      return { tone: "wait", title: "Connecting …", detail: state.attempt === 0 ? "Opening a WebSocket to the hub." : `Opening a WebSocket to the hub, attempt ${state.attempt + 1}.` };
    case "connected":
      return { tone: "good", title: "Live", detail: "Everything arrives as it happens, in order." };
    case "reconnecting": {
      const left = Math.max(0, Math.ceil((since + state.inMs - now) / 1_000));
      return { tone: "wait", title: `Back in ${left} s`, detail: `${sentence(state.reason)} (code ${state.code}). Next attempt in ${left} s; what is missed meanwhile will be caught up.` };
    }
    case "closed":
      return { tone: "bad", title: "Closed", detail: `${sentence(state.reason)} (code ${state.code}). This page will not reconnect by itself.` };
  }
}

/** So long a page waits for the hub before it says that there is no answer. */
export const PATIENCE_MS = 5_000;

/** Why nothing is shown yet; the client goes on trying by itself. */
export function unanswered(state: State): string {
  switch (state.name) {
    case "connected": return "The hub has not let this page into the admin room yet. This page goes on trying.";
    case "reconnecting": return `The hub cannot be reached: ${state.reason}. This page goes on trying.`;
    default: return "The hub has not answered yet. This page goes on trying.";
  }
}

const sentence = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);
