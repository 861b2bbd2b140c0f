export declare function loadGuest(key: string | undefined): string | undefined;
export declare function saveGuest(key: string | undefined, secret: string): void;
/**
 * Two tabs opened at once by a new guest would become two guests. Where the browser has locks, the second waits
 * for the first to have stored its secret, at most `limitMs`. Resolves to the function that lets the next one in.
 */
export declare function guestTurn(key: string, limitMs: number): Promise<() => void>;
