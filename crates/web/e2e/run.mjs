// Clicks through the real pages against a running hub: `BASE_URL=http://127.0.0.1:8080 ADMIN_TOKEN=… npm run e2e`.
//
// With `wall` behind it (`npm run e2e -- wall`) only the wall's own steps.
//
// BASE_URL      one address, or several with commas: guests are spread over them (two nodes of one cluster, say)
// ADMIN_TOKEN   a JWT with role admin, as `roomcast serve --dev` prints it or `roomcast gentoken` signs it
// HMAC_KEY_FILE the file with the hub's HMAC key, for the step about tokens that end; without it that step is left out
// CHROMIUM      the browser's path, default /usr/bin/chromium
// SCREENSHOTS   a folder for pictures of what was seen (on failure they go to the system's temporary folder)

import { mkdir, mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { launch } from "./browser.mjs";
import { steps } from "./steps.mjs";
import { wallSteps } from "./wall.mjs";

/** Runs every step in order; throws at the first that fails. `more` are steps that only this caller can run. */
export async function run({ urls, adminToken, hmacKeyFile, screenshots, more = [], only, log = console.log }) {
  const browser = await launch();
  const errors = [];
  let expected = false;
  const report = (error) => { if (!expected) errors.push(error); };
  const pages = [];
  const world = {
    urls,
    adminToken,
    hmacKeyFile,
    /** While true, what the browser complains about is what the step wants: a network that is gone, say. */
    expectErrors(on) { expected = on; },
    room: `event:e2e-${Date.now().toString(36)}`,
    /** A person with their own storage, unless `context` is another's: then a second tab. */
    async open(path, { node = 0, url = urls[node % urls.length], context, viewport = { width: 1280, height: 900 }, ...options } = {}) {
      const home = context ?? (await browser.newContext({ viewport, ...options }));
      const page = await home.newPage();
      pages.push(page);
      page.setDefaultTimeout(10_000);
      page.on("console", (message) => { if (message.type() === "error") report(`${path}: ${message.text()} ${message.location().url}`); });
      page.on("pageerror", (error) => report(`${path}: ${error.stack ?? error.message}`));
      await page.goto(url + path);
      return page;
    },
    async picture(page, name, options = {}) {
      if (screenshots) await page.screenshot({ path: join(screenshots, `${name}.png`), ...options });
    },
  };
  if (screenshots) await mkdir(screenshots, { recursive: true });
  try {
    for (const [name, step] of [...(only === "wall" ? [] : steps), ...wallSteps.filter(([, , needs]) => !needs || world[needs]), ...(only === "wall" ? [] : more)]) {
      const began = Date.now();
      try {
        await step(world);
        if (errors.length > 0) throw new Error(`the browser reported:\n${errors.join("\n")}`);
      } catch (error) {
        const folder = screenshots ?? (await mkdtemp(join(tmpdir(), "roomcast-e2e-")));
        for (const [i, page] of pages.entries()) if (!page.isClosed()) await page.screenshot({ path: join(folder, `failed-${i}.png`) }).catch(() => {});
        log(`not ok  ${name}  (what the pages showed: ${folder})`);
        throw new Error(`${name}: ${error.message}`, { cause: error });
      }
      log(`ok      ${name}  (${Date.now() - began} ms)`);
    }
  } finally {
    await browser.close();
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { BASE_URL, ADMIN_TOKEN, HMAC_KEY_FILE, SCREENSHOTS } = process.env;
  const missing = [["BASE_URL", BASE_URL], ["ADMIN_TOKEN", ADMIN_TOKEN]].filter(([, value]) => !value).map(([name]) => name);
  if (missing.length > 0) {
    console.error(`e2e: set ${missing.join(" and ")}; a hub must be running, for example \`roomcast serve --dev\``);
    process.exit(2);
  }
  try {
    await run({ urls: BASE_URL.split(",").map((url) => url.trim().replace(/\/$/, "")), adminToken: ADMIN_TOKEN, hmacKeyFile: HMAC_KEY_FILE, screenshots: SCREENSHOTS, only: process.argv[2] });
  } catch (error) {
    console.error(`e2e: ${error.message}`);
    process.exit(1);
  }
}
