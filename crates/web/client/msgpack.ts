// MessagePack for what JSON can hold, and nothing else: that is what the subprotocol carries. A value is written as
// `JSON.stringify` would have it (`toJSON`, absent `undefined`, `null` for what is no number), so that both codecs say
// the same; what JSON has no word for (bytes, extensions, other keys than text) is refused when read.

const FIRST_BYTES = 1_024;
/** Nobody nests deeper than this on purpose, and deeper than this the hub does not read. */
const MAX_DEPTH = 64;

const toUtf8 = new TextEncoder();
const fromUtf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

let bytes = new Uint8Array(FIRST_BYTES);
let view = new DataView(bytes.buffer);
let at = 0;

/** Makes room for `count` bytes more, and says where they begin. */
function take(count: number): number {
  if (at + count > bytes.length) {
    const larger = new Uint8Array(Math.max(bytes.length * 2, at + count));
    larger.set(bytes);
    bytes = larger;
    view = new DataView(bytes.buffer);
  }
  const start = at;
  at += count;
  return start;
}

/** A first byte, and a big-endian number of `size` bytes behind it. */
function mark(first: number, size = 0, value = 0): void {
  const start = take(size + 1);
  bytes[start] = first;
  if (size === 1) bytes[start + 1] = value;
  else if (size === 2) view.setUint16(start + 1, value);
  else if (size === 4) view.setUint32(start + 1, value);
  else if (size === 8) view.setBigUint64(start + 1, BigInt.asUintN(64, BigInt(value)));
}

/** The length of a text, list or map: inside the first byte while it is below `few`, else behind one of its own. */
function head(length: number, short: number, few: number, one: number, two: number): void {
  if (length < few) mark(short | length);
  else if (one > 0 && length < 0x100) mark(one, 1, length);
  else if (length < 0x10000) mark(two, 2, length);
  else mark(two + 1, 4, length);
}

function writeNumber(value: number): void {
  if (!Number.isSafeInteger(value)) {
    if (!Number.isFinite(value)) return mark(0xc0);
    const start = take(9);
    bytes[start] = 0xcb;
    view.setFloat64(start + 1, value);
  } else if (value >= 0) {
    if (value < 0x80) mark(value);
    else if (value < 0x100) mark(0xcc, 1, value);
    else if (value < 0x10000) mark(0xcd, 2, value);
    else if (value < 0x100000000) mark(0xce, 4, value);
    else mark(0xcf, 8, value);
  } else if (value >= -0x20) mark(value & 0xff);
  else if (value >= -0x80) mark(0xd0, 1, value);
  else if (value >= -0x8000) mark(0xd1, 2, value);
  else if (value >= -0x80000000) mark(0xd2, 4, value);
  else mark(0xd3, 8, value);
}

function writeText(text: string): void {
  const utf8 = toUtf8.encode(text);
  head(utf8.length, 0xa0, 32, 0xd9, 0xda);
  const start = take(utf8.length);
  bytes.set(utf8, start);
}

/** As JSON sees it: `undefined` is what JSON leaves out. */
function asJson(value: unknown, key: string): unknown {
  if (typeof (value as { toJSON?: unknown } | null | undefined)?.toJSON === "function") value = (value as { toJSON(key: string): unknown }).toJSON(key);
  if (typeof value === "bigint") throw new TypeError("JSON holds no BigInt");
  return typeof value === "function" || typeof value === "symbol" ? undefined : value;
}

function write(value: unknown, depth: number): void {
  if (depth > MAX_DEPTH) throw new RangeError("nested too deeply, or in a circle");
  if (typeof value === "number") writeNumber(value);
  else if (typeof value === "string") writeText(value);
  else if (typeof value === "boolean") mark(value ? 0xc3 : 0xc2);
  else if (value === null || value === undefined) mark(0xc0);
  else if (Array.isArray(value)) {
    head(value.length, 0x90, 16, 0, 0xdc);
    for (let i = 0; i < value.length; i++) write(asJson(value[i], String(i)), depth + 1);
  } else {
    const entries = Object.entries(value).map(([key, item]) => [key, asJson(item, key)] as const).filter(([, item]) => item !== undefined);
    head(entries.length, 0x80, 16, 0, 0xde);
    for (const [key, item] of entries) {
      writeText(key);
      write(item, depth + 1);
    }
  }
}

/** The bytes of a value, in memory of their own. */
export function encode(value: unknown): Uint8Array<ArrayBuffer> {
  at = 0;
  try {
    write(asJson(value, ""), 0);
    return bytes.slice(0, at);
  } finally {
    // One large message does not keep its memory for ever.
    if (bytes.length > 64 * FIRST_BYTES) view = new DataView((bytes = new Uint8Array(FIRST_BYTES)).buffer);
  }
}

/** The one value that `data` holds. Throws where it is not whole, not alone, or nothing that JSON could hold. */
export function decode(data: ArrayBuffer): unknown {
  const source = new DataView(data);
  let next = 0;
  // `DataView` throws a RangeError by itself where the bytes end too early.
  const number = (size: number): number => {
    const start = next;
    next += size;
    if (size === 1) return source.getUint8(start);
    if (size === 2) return source.getUint16(start);
    if (size === 4) return source.getUint32(start);
    return Number(source.getBigUint64(start));
  };
  const signed = (size: number): number => Number(BigInt.asIntN(size * 8, BigInt(number(size))));
  const text = (length: number): string => {
    next += length;
    return fromUtf8.decode(new Uint8Array(data, next - length, length));
  };
  const list = (length: number, depth: number): unknown[] => {
    const items: unknown[] = [];
    while (length-- > 0) items.push(read(depth));
    return items;
  };
  const map = (length: number, depth: number): unknown => {
    const object = {};
    while (length-- > 0) {
      const key = read(depth);
      if (typeof key !== "string") throw new TypeError("a key must be text");
      // Not by assignment: `__proto__` is a key like any other.
      Object.defineProperty(object, key, { value: read(depth), writable: true, enumerable: true, configurable: true });
    }
    return object;
  };
  const read = (depth: number): unknown => {
    if (depth > MAX_DEPTH + 8) throw new RangeError("nested too deeply");
    const first = number(1);
    if (first < 0x80) return first;
    if (first < 0x90) return map(first & 15, depth + 1);
    if (first < 0xa0) return list(first & 15, depth + 1);
    if (first < 0xc0) return text(first & 31);
    if (first >= 0xe0) return first - 0x100;
    switch (first) {
      case 0xc0: return null;
      case 0xc2: return false;
      case 0xc3: return true;
      case 0xca: next += 4; return source.getFloat32(next - 4);
      case 0xcb: next += 8; return source.getFloat64(next - 8);
      case 0xcc: case 0xcd: case 0xce: case 0xcf: return number(1 << (first - 0xcc));
      case 0xd0: case 0xd1: case 0xd2: return signed(1 << (first - 0xd0));
      case 0xd3: next += 8; return Number(source.getBigInt64(next - 8));
      case 0xd9: case 0xda: case 0xdb: return text(number(1 << (first - 0xd9)));
      case 0xdc: case 0xdd: return list(number(2 << (first - 0xdc)), depth + 1);
      case 0xde: case 0xdf: return map(number(2 << (first - 0xde)), depth + 1);
      default: throw new TypeError(`0x${first.toString(16)} begins nothing that JSON holds`);
    }
  };
  const value = read(0);
  if (next !== data.byteLength) throw new RangeError("bytes behind the end");
  return value;
}
