export declare class Emitter<Events> {
    #private;
    /** Calls `listener` at each `name`; returns the function that ends it. */
    on<Name extends keyof Events>(name: Name, listener: (value: Events[Name]) => void): () => void;
    /** @internal */
    emit<Name extends keyof Events>(name: Name, value: Events[Name]): void;
    /** @internal */
    forget(): void;
}
