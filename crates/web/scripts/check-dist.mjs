// Fails where the committed `dist` is not what the sources build.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buildAll, filesOf, ROOT } from "./build.mjs";

const folder = await mkdtemp(join(tmpdir(), "roomcast-web-"));
try {
  await buildAll(join(folder, "dist"));
  const fresh = await filesOf(join(folder, "dist"));
  const committed = await filesOf(join(ROOT, "dist"));
  const stale = [...new Set([...fresh.keys(), ...committed.keys()])].filter((name) => {
    const [a, b] = [fresh.get(name), committed.get(name)];
    return a === undefined || b === undefined || !a.equals(b);
  });
  if (stale.length > 0) {
    console.error(`dist is stale; run \`npm run build\` and commit it. Differing: ${stale.join(", ")}`);
    process.exitCode = 1;
  } else console.log(`dist is up to date (${fresh.size} files)`);
} finally {
  await rm(folder, { recursive: true, force: true });
}
