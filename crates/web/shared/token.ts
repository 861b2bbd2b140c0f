// An admin token for this tab only: from the fragment, which a browser never sends, or from a field; kept in session storage.

const KEY = "roomcast:admin-token";

/** Takes `#token=…` out of the address, so that it is not copied on with it; else what this tab already has. */
export function findToken(): string | undefined {
  const given = takeToken();
  if (given !== undefined) return given;
  try {
    return sessionStorage.getItem(KEY) ?? undefined;
  } catch {
    return undefined;
  }
}

/** What was pasted into a field: a token, or the whole link that holds one. */
export function readToken(pasted: string): string {
  return (/token=([^&\s]*)/.exec(pasted)?.[1] ?? pasted).trim();
}

/** Hands on each token that is pasted into the address of the open page: for a browser that is no new page. */
export function watchToken(open: (token: string) => void): void {
  addEventListener("hashchange", () => {
    const given = takeToken();
    if (given !== undefined) open(given);
  });
}

function takeToken(): string | undefined {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!given) return undefined;
  history.replaceState(null, "", location.pathname + location.search);
  keepToken(given);
  return given;
}

export function keepToken(token: string | undefined): void {
  try {
    if (token === undefined) sessionStorage.removeItem(KEY);
    else sessionStorage.setItem(KEY, token);
  } catch {
    // Without storage the token lives as long as the page.
  }
}
