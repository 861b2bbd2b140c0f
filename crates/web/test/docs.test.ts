// The examples of the docs are code: each block must pass the type checker, as a module of its own.

import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";

const ROOT = join(import.meta.dirname, "..");
const PAGES = ["../../docs/client.md", "README.md"];
// Inside, so that packages and paths are found as they are from the sources.
const folder = mkdtempSync(join(ROOT, "node_modules/.docs-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** What examples lean on without saying so: what the page before them has made, and what only a reader can have. */
const PRELUDE = `import type { Roomcast as Client, Room, RoomcastError as Failure } from "@roomcast/client";
declare global {
  const rc: Client;
  const room: Room;
  const RoomcastError: typeof Failure;
  function render(...what: unknown[]): void;
  function fetchToken(why: string): Promise<string>;
}
`;

const blocks = PAGES.flatMap((page) =>
  [...readFileSync(join(ROOT, page), "utf8").matchAll(/^```(tsx?|js)\n(.*?)^```$/gms)].map(([, kind, code], i) => ({ name: `${page.split("/").at(-1)!.replace(".md", "")}-${i + 1}.${kind === "tsx" ? "tsx" : "ts"}`, code: code! })));

it("pass the type checker", () => {
  expect(blocks.length).toBeGreaterThanOrEqual(9);
  writeFileSync(join(folder, "prelude.d.ts"), PRELUDE);
  for (const { name, code } of blocks) writeFileSync(join(folder, name), `${code.replaceAll('"/client.js"', '"@roomcast/client"')}\nexport {};\n`);
  writeFileSync(join(folder, "tsconfig.json"), JSON.stringify({
    extends: "../../tsconfig.json", include: [], files: ["prelude.d.ts", ...blocks.map(({ name }) => name)],
    compilerOptions: { noUnusedLocals: false, paths: { "@roomcast/client": ["../../client/index.ts"], "@roomcast/client/react": ["../../react/index.ts"], "@roomcast/client/testing": ["../../testing/index.ts"] } },
  }));
  let said = "";
  try {
    execFileSync(join(ROOT, "node_modules/.bin/tsc"), ["-p", folder], { encoding: "utf8" });
  } catch (error) {
    said = (error as { stdout: string }).stdout;
  }
  expect(said).toBe("");
}, 60_000);
