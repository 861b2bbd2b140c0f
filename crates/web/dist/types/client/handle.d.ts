/** `value` is the same object until something in it differs. */
export declare class Handle<T extends object> {
    #private;
    /** @internal */
    constructor(read: () => T, watch: (changed: () => void) => () => void);
    get value(): T;
    /** Calls `listener` with each new value; returns the function that ends it. */
    subscribe(listener: (value: T) => void): () => void;
}
/** Whoever wants to hear of a change. */
export declare class Watchers {
    #private;
    readonly add: (changed: () => void) => (() => void);
    tell(): void;
}
