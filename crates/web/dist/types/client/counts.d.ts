import type { Count } from "./types";
export declare class Counts {
    #private;
    constructor(tell: (count: Count) => void);
    /** What to show; nothing where neither the hub has told a value nor anybody hopes. */
    get(target: string, counter: string): Count | undefined;
    /** Takes a value that the hub told, from wherever; an older one changes nothing. */
    take({ target, counter, value, version }: Count): void;
    /** The version of the hub's own value; 0 before the first. */
    version(target: string, counter: string): number;
    /**
     * Moves the shown value by `by`. The returned function says how it ended: done (the hub's answer was taken before),
     * or not done.
     */
    hope(target: string, counter: string, by: number): (done: boolean) => void;
    /** Tells what is shown now. */
    touch(target: string, counter: string): void;
    /**
     * Another epoch: versions start anew. Hopes stay, their answers are still to come. The returned function tells of what
     * is not known any more; in between, the new epoch's values may be taken, so that nobody is shown a zero for nothing.
     */
    forget(): () => void;
}
