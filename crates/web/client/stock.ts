// What is for sale in a room, and what this client's user holds of it.

import { RoomcastError } from "./errors";
import { Handle, Watchers } from "./handle";
import { type Live, watchCount } from "./live";
import type { CallOptions, HoldValue, KeyedOptions, ReserveReply, SettleReply, StockValue } from "./types";

const REMAINING = "remaining";

/** What is left of an item. */
export class Stock extends Handle<StockValue> {
  readonly #live: Live;
  readonly #item: string;

  /** @internal */
  constructor(live: Live, item: string) {
    super(() => {
      const { value: remaining, version = 0, pending = false } = live.counts.get(item, REMAINING) ?? {};
      return { remaining: version > 0 ? remaining : undefined, pending };
    }, watchCount(live, item, REMAINING));
    this.#live = live;
    this.#item = item;
  }

  /** Holds `quantity` for this user until the hold ends; `sold_out` and `limit_reached` are errors. */
  async reserve(quantity = 1, options?: KeyedOptions): Promise<Hold> {
    const { counts } = this.#live;
    const version = counts.version(this.#item, REMAINING);
    const settle = counts.hope(this.#item, REMAINING, -quantity);
    try {
      // A hold ends by the hub's clock, and a phone's may be minutes off.
      const clock = this.#live.ask("ping", {}).then((ok) => (ok as { now: number }).now - Date.now(), () => 0);
      const reply = (await this.#live.keyed("reserve", { item: this.#item, quantity }, options)) as ReserveReply;
      // The answer has no version: it stands between the one that was known and the next that is pushed.
      if (version > 0 && counts.version(this.#item, REMAINING) === version) {
        counts.take({ target: this.#item, counter: REMAINING, value: reply.remaining, version: version + 0.5 });
      }
      settle(true);
      return new Hold(this.#live, reply.reservation, this.#item, quantity, reply.expires_at - (await clock));
    } catch (error) {
      settle(false);
      throw error;
    }
  }
}

/** A reservation of one's own, until it ends one way or another. */
export class Hold extends Handle<HoldValue> {
  readonly #live: Live;
  readonly #end: (state: HoldValue["state"]) => void;

  /** @internal */
  constructor(live: Live, reservation: string, item: string, quantity: number, expiresAt: number) {
    let value: HoldValue = { reservation, item, quantity, expiresAt, state: "held" };
    const watchers = new Watchers();
    super(() => value, watchers.add);
    this.#live = live;
    const timer = setTimeout(() => this.#end("expired"), expiresAt - Date.now());
    this.#end = (state) => {
      // What was sold stays sold, whatever the clock says.
      if (value.state === state || value.state === "confirmed") return;
      clearTimeout(timer);
      value = { ...value, state };
      watchers.tell();
    };
  }

  /** Buys. */
  confirm(options?: CallOptions): Promise<SettleReply> {
    return this.#settle("confirm", options);
  }

  /** Gives back. */
  release(options?: CallOptions): Promise<SettleReply> {
    return this.#settle("release", options);
  }

  async #settle(op: "confirm" | "release", options?: CallOptions): Promise<SettleReply> {
    try {
      const reply = (await this.#live.ask(op, { reservation: this.value.reservation }, options)) as SettleReply;
      this.#end(reply.state);
      return reply;
    } catch (error) {
      const state = error instanceof RoomcastError ? error.current?.state : undefined;
      if (state === "confirmed" || state === "released" || state === "expired") this.#end(state);
      throw error;
    }
  }
}
