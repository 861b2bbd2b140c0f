// Builds everything that a node serves into one folder (default `dist`): no hashes in names, no times, no paths of this
// machine, so the same sources always give the same bytes and a stale `dist` can be found out by building again.

import { cp, mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { build, minifySync } from "vite";
import { photos } from "./photos.mjs";

export const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), "..");

/** The pages use the client that is served beside them: one copy, and proof that it works. */
const SERVED = { external: ["@roomcast/client"], output: { paths: { "@roomcast/client": "/client.js" } } };
/** What is installed and not served finds its neighbours as packages do. */
const INSTALLED = { external: ["@roomcast/client", "react"] };

/** One script: `from` is its entry, `to` its place in the output, `links` what it does not contain, `contains` whose notices it keeps. */
const SCRIPTS = [
  { from: "client/index.ts", to: "client.js", links: {} },
  { from: "react/index.ts", to: "npm/react.js", links: INSTALLED },
  { from: "testing/index.ts", to: "npm/testing.js", links: INSTALLED },
  { from: "demo/main.ts", to: "demo/wall.js", links: SERVED },
  { from: "dashboard/main.tsx", to: "admin/dashboard.js", links: SERVED, contains: ["preact", "@preact/signals", "uplot"] },
];

/** What is served as it was written. */
const COPIES = [
  { from: "demo/index.html", to: "demo/index.html" },
  { from: "demo/wall.css", to: "demo/wall.css" },
  { from: "shared/icon.svg", to: "demo/icon.svg" },
  { from: "dashboard/index.html", to: "admin/index.html" },
  { from: "dashboard/dashboard.css", to: "admin/dashboard.css" },
  { from: "shared/icon.svg", to: "admin/icon.svg" },
];

async function buildScript({ from, to, links, contains = [] }) {
  const result = await build({
    root: ROOT,
    configFile: false,
    logLevel: "error",
    build: {
      write: false,
      target: "es2022",
      minify: true,
      modulePreload: false,
      lib: { entry: join(ROOT, from), formats: ["es"], fileName: () => to },
      rolldownOptions: links,
    },
  });
  const chunks = (Array.isArray(result) ? result : [result]).flatMap(({ output }) => output);
  const notices = await Promise.all(contains.map(async (name) => `${name}:\n${(await readFile(join(ROOT, "node_modules", name, "LICENSE"), "utf8")).trim()}\n`));
  if (chunks.length !== 1) throw new Error(`${from} should become one file, not ${chunks.map((chunk) => chunk.fileName).join(", ")}`);
  // Library builds keep their white space; nobody reads these on the wire.
  return `${notices.length > 0 ? `/*!\nContains ${notices.join("\n")}*/\n` : ""}${minifySync(to, chunks[0].code, { module: true, codegen: { removeWhitespace: true } }).code}\n`;
}

async function put(out, name, text) {
  const path = join(out, name);
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, text);
}

export async function buildAll(out) {
  await rm(out, { recursive: true, force: true });
  for (const script of SCRIPTS) await put(out, script.to, await buildScript(script));
  for (const { from, to } of COPIES) {
    await mkdir(dirname(join(out, to)), { recursive: true });
    await cp(join(ROOT, from), join(out, to));
  }
  for (const { name, svg } of photos()) await put(out, `demo/photos/${name}.svg`, svg);
  await promisify(execFile)(join(ROOT, "node_modules/.bin/tsc"), ["-p", join(ROOT, "tsconfig.types.json"), "--outDir", join(out, "types")]);
}

/** Every file below a folder, by its path in there. */
export async function filesOf(folder) {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name).slice(folder.length + 1)).sort();
  return new Map(await Promise.all(files.map(async (file) => [file, await readFile(join(folder, file))])));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await buildAll(resolve(process.argv[2] ?? join(ROOT, "dist")));
