// The guest secret: who shows it again is the same guest. Storage may be absent or forbidden; then a guest is new each time.

export function loadGuest(key: string | undefined): string | undefined {
  if (key === undefined) return undefined;
  try {
    return localStorage.getItem(key) ?? undefined;
  } catch {
    return undefined;
  }
}

export function saveGuest(key: string | undefined, secret: string): void {
  if (key === undefined) return;
  try {
    localStorage.setItem(key, secret);
  } catch {
    // A full or forbidden storage costs only the guest's identity after a reload.
  }
}

/**
 * Two tabs opened at once by a new guest would become two guests. Where the browser has locks, the second waits
 * for the first to have stored its secret, at most `limitMs`. Resolves to the function that lets the next one in.
 */
export function guestTurn(key: string, limitMs: number): Promise<() => void> {
  const locks = typeof navigator === "undefined" ? undefined : navigator.locks;
  if (!locks) return Promise.resolve(() => {});
  return new Promise((granted) => {
    const waited = new AbortController();
    const timer = setTimeout(() => waited.abort(), limitMs);
    locks
      .request(`roomcast:${key}`, { signal: waited.signal }, () => {
        clearTimeout(timer);
        return new Promise<void>((release) => granted(release));
      })
      .catch(() => granted(() => {}));
  });
}
