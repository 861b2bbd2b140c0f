// Fails where the client, MessagePack included, has grown beyond what a page should pay for it.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { ROOT } from "./build.mjs";

const LIMIT_BYTES = 12 * 1024;

const source = await readFile(join(ROOT, "dist/client.js"));
const bytes = gzipSync(source, { level: 9 }).length;
console.log(`client.js: ${source.length} bytes, ${bytes} gzipped, of at most ${LIMIT_BYTES}`);
if (bytes > LIMIT_BYTES) process.exitCode = 1;
