// Photos of guests, kept in the room's own documents: a few parts each, so that the way of an upload can be seen and no
// frame is large. Others look only once the hub has told `complete`. A real event would keep files in a store of files.

import { RoomcastError, type Room, type Upload } from "@roomcast/client";

/** What one document may hold is 16 KiB, JSON around it included. */
const PART_CHARS = 15_000;
const MAX_PARTS = 4;
/** How large a picture may be as a data URL. */
export const MAX_CHARS = PART_CHARS * MAX_PARTS;
const ATTEMPTS = 8;
const PATIENCE_MS = 1_000;
const PICTURE = /^data:image\/(jpeg|png);base64,[A-Za-z0-9+/]+=*$/;

export interface Picture {
  readonly title: string;
  /** A data URL. */
  readonly src: string;
}

/** Keeps trying while the hub says "later" or the connection is away. */
async function insist<T>(attempt: () => Promise<T>): Promise<T> {
  for (let n = 1; ; n++) {
    try {
      return await attempt();
    } catch (error) {
      if (n >= ATTEMPTS || !(error instanceof RoomcastError) || !error.retryable) throw error;
      await new Promise((done) => setTimeout(done, error.retryMs ?? PATIENCE_MS));
    }
  }
}

/** Writes a new document; that it is there already, with the same in it, is what a lost answer leaves behind. */
async function write(room: Room, doc: string, value: unknown): Promise<void> {
  try {
    await room.put(doc, value, 0);
  } catch (error) {
    const stands = error instanceof RoomcastError && error.code === "conflict" ? error.current?.value : undefined;
    if (stands === undefined || JSON.stringify(stands) !== JSON.stringify(value)) throw error;
  }
}

/** Shares a picture as `id`: from started over its parts to complete, or to failed. */
export async function share(room: Room, id: string, picture: Picture, upload: Upload): Promise<void> {
  const parts = picture.src.match(new RegExp(`.{1,${PART_CHARS}}`, "gs")) ?? [];
  if (parts.length === 0 || parts.length > MAX_PARTS) throw new Error("the picture is too large");
  await insist(() => upload.start());
  try {
    for (const [n, data] of parts.entries()) {
      await insist(() => write(room, `${id}/${n}`, n === 0 ? { title: picture.title, parts: parts.length, data } : { data }));
      upload.report(((n + 1) / (parts.length + 1)) * 100);
    }
    await insist(() => upload.complete());
  } catch (error) {
    upload.fail().catch(() => { /* What failed is likely to fail again; then it stays unseen. */ });
    throw error;
  }
}

/** Fetches what was shared as `id`; undefined where it is not a picture. */
export async function fetchPicture(room: Room, id: string): Promise<Picture | undefined> {
  const part = async (n: number) => (await insist(() => room.get(`${id}/${n}`))).value as Record<string, unknown> | null;
  const first = await part(0);
  const count = Number(first?.parts);
  if (typeof first?.data !== "string" || !(count >= 1 && count <= MAX_PARTS)) return undefined;
  let src = first.data;
  for (let n = 1; n < count; n++) src += String((await part(n))?.data ?? "");
  if (!PICTURE.test(src)) return undefined;
  return { title: typeof first.title === "string" ? first.title.slice(0, 60) : "", src };
}
