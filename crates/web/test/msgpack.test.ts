// Our MessagePack against another's, over values made at random from a seed, and against what it must refuse.

import { Decoder, Encoder } from "@msgpack/msgpack";
import { describe, expect, it } from "vitest";
import { decode, encode } from "../client/msgpack";

const theirs = { encode: (value: unknown) => new Encoder({ ignoreUndefined: true }).encode(value), decode: (data: Uint8Array) => new Decoder().decode(data) };
const buffer = (...list: number[]): ArrayBuffer => new Uint8Array(list).buffer;

/** mulberry32. */
function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

const SIGNS = [..."aé€😀\u0000\ufeff"];
const EDGES = [0, 1, 127, 128, 255, 256, 65_535, 65_536, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 53 - 1, -1, -32, -33, -128, -129, -32_768, -32_769, -(2 ** 31), -(2 ** 31) - 1, -(2 ** 53 - 1), 1.5, -0.1, 1e300, 2 ** 60, Number.MIN_VALUE];

function anything(random: () => number, depth: number): unknown {
  const pick = Math.floor(random() * (depth > 2 ? 5 : 7));
  const times = <T>(make: () => T): T[] => Array.from({ length: Math.floor(random() * 12) }, make);
  switch (pick) {
    case 0: return EDGES[Math.floor(random() * EDGES.length)];
    case 1: return Math.floor((random() - 0.5) * 2 ** Math.floor(random() * 53));
    case 2: return times(() => SIGNS[Math.floor(random() * SIGNS.length)]!).join("");
    case 3: return random() < 0.5;
    case 4: return null;
    case 5: return times(() => anything(random, depth + 1));
    default: return Object.fromEntries(times(() => [`k${Math.floor(random() * 1e6)}`, anything(random, depth + 1)]));
  }
}

describe("what is written", () => {
  it("is, byte for byte, what another encoder writes, and is read back", () => {
    const random = randomFrom(20260101);
    for (let n = 0; n < 400; n++) {
      const value = anything(random, 0);
      const written = encode(value);
      expect(Buffer.from(written).toString("hex")).toBe(Buffer.from(theirs.encode(value)).toString("hex"));
      expect(decode(written.buffer)).toEqual(value);
    }
  });

  it.each([["texts", (n: number) => "x".repeat(n)], ["lists", (n: number) => Array.from({ length: n }, () => 1)], ["maps", (n: number) => Object.fromEntries(Array.from({ length: n }, (_, i) => [`k${i}`, i]))]] as const)(
    "has the right head for %s of every length", (_name, make) => {
      for (const length of [0, 15, 16, 31, 32, 255, 256, 65_535, 65_536, 70_000]) {
        const value = make(length);
        const written = encode(value);
        expect(Buffer.compare(Buffer.from(written), Buffer.from(theirs.encode(value)))).toBe(0);
        expect(decode(written.buffer)).toEqual(value);
      }
    });

  it("is what JSON would say", () => {
    const value = { at: new Date(0), gone: undefined, call: () => 1, list: [undefined, () => 1, Symbol("s"), NaN, Infinity, -0], nested: { toJSON: () => "said" } };
    expect(decode(encode(value).buffer)).toEqual(JSON.parse(JSON.stringify(value)));
    expect(decode(encode([, 1] as unknown[]).buffer)).toEqual([null, 1]);
  });

  it("stays its own when the next is written", () => {
    const first = encode("one");
    encode("two");
    expect(decode(first.buffer)).toBe("one");
  });

  it("holds no BigInt, and no circle", () => {
    expect(() => encode({ n: 1n })).toThrow(TypeError);
    const circle: Record<string, unknown> = {};
    circle.self = circle;
    expect(() => encode(circle)).toThrow(RangeError);
    expect(decode(encode("well again").buffer)).toBe("well again");
  });
});

describe("what is read", () => {
  it("may be written less briefly than need be", () => {
    expect(decode(buffer(0xcf, 0, 0, 0, 0, 0, 0, 0, 5))).toBe(5);
    expect(decode(buffer(0xd3, 255, 255, 255, 255, 255, 255, 255, 251))).toBe(-5);
    expect(decode(buffer(0xca, 0x3f, 0xc0, 0, 0))).toBe(1.5);
    expect(decode(buffer(0xdb, 0, 0, 0, 1, 0x61))).toBe("a");
    expect(decode(buffer(0xdd, 0, 0, 0, 1, 0xc0))).toEqual([null]);
  });

  it("keeps a key that is a word of the language, and harms nothing by it", () => {
    const value = decode(encode(JSON.parse('{"__proto__":{"a":1},"constructor":2}')).buffer) as object;
    expect(Object.keys(value)).toEqual(["__proto__", "constructor"]);
    expect(Object.getPrototypeOf(value)).toBe(Object.prototype);
  });

  it.each([
    ["nothing", []], ["an end too early", [0x92, 0x01]], ["a text cut short", [0xa3, 0x61]], ["more than one value", [0x01, 0x01]],
    ["bytes", [0xc4, 0x01, 0x00]], ["an extension", [0xd4, 0x01, 0x00]], ["a byte that is never used", [0xc1]], ["a number as key", [0x81, 0x01, 0x01]],
    ["no UTF-8", [0xa1, 0xff]], ["a list that claims more than there is", [0xdd, 0xff, 0xff, 0xff, 0xff]], ["endless nesting", Array.from({ length: 100_000 }, () => 0x91)],
  ])("is refused: %s", (_name, list) => {
    expect(() => decode(new Uint8Array(list as number[]).buffer)).toThrow();
  });
});
