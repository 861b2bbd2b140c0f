import { Handle } from "./handle";
import { type Live } from "./live";
import type { CallOptions, HoldValue, KeyedOptions, SettleReply, StockValue } from "./types";
/** What is left of an item. */
export declare class Stock extends Handle<StockValue> {
    #private;
    /** @internal */
    constructor(live: Live, item: string);
    /** Holds `quantity` for this user until the hold ends; `sold_out` and `limit_reached` are errors. */
    reserve(quantity?: number, options?: KeyedOptions): Promise<Hold>;
}
/** A reservation of one's own, until it ends one way or another. */
export declare class Hold extends Handle<HoldValue> {
    #private;
    /** @internal */
    constructor(live: Live, reservation: string, item: string, quantity: number, expiresAt: number);
    /** Buys. */
    confirm(options?: CallOptions): Promise<SettleReply>;
    /** Gives back. */
    release(options?: CallOptions): Promise<SettleReply>;
}
