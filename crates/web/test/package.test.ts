// The package as an application gets it: installed by the command that the docs give, without any registry.

import { execFileSync } from "node:child_process";
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";

const ROOT = join(import.meta.dirname, "..");
const app = mkdtempSync(join(tmpdir(), "roomcast-app-"));
afterAll(() => rmSync(app, { recursive: true, force: true }));

/** Run by the application: what can be imported, and whose React the package finds. */
const ASK = `
import { realpathSync } from "node:fs";
import { createRequire } from "node:module";
const react = (from) => realpathSync(createRequire(realpathSync(from)).resolve("react"));
const { Roomcast } = await import("@roomcast/client");
const { useRoom } = await import("@roomcast/client/react");
const { FakeHub } = await import("@roomcast/client/testing");
console.log(JSON.stringify({ names: [Roomcast, useRoom, FakeHub].map((one) => typeof one), one: react("package.json") === react("node_modules/@roomcast/client/dist/npm/react.js") }));
`;

it("brings all it promises, and no React of its own", () => {
  const flags = /`npm install ((?:--\S+ )*)\.\/roomcast\/crates\/web`/.exec(readFileSync(join(ROOT, "../../docs/client.md"), "utf8"))![1]!.trim().split(" ").filter(Boolean);
  cpSync(join(ROOT, "node_modules/react"), join(app, "its/react"), { recursive: true });
  writeFileSync(join(app, "package.json"), JSON.stringify({ name: "app", private: true, type: "module", dependencies: { react: "file:its/react" } }));
  writeFileSync(join(app, "ask.mjs"), ASK);
  execFileSync("npm", ["install", "--offline", "--no-audit", "--no-fund", "--silent", ...flags, ROOT], { cwd: app });
  expect(JSON.parse(execFileSync("node", ["ask.mjs"], { cwd: app, encoding: "utf8" }))).toEqual({ names: ["function", "function", "function"], one: true });
  const installed = join(app, "node_modules/@roomcast/client");
  const { exports } = JSON.parse(readFileSync(join(installed, "package.json"), "utf8")) as { exports: Record<string, { types: string }> };
  for (const { types } of Object.values(exports)) expect(existsSync(join(installed, types)), types).toBe(true);
}, 60_000);
