// Pictures of the dashboard for the docs: `BASE_URL=… ADMIN_TOKEN=… node e2e/dashboard-shots.mjs [folder]`, default `docs/images`.
// BASE_URL may name several nodes of one cluster with commas. It brings a crowd, watches for a while, and takes the board in
// light, dark and narrow.

import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { launch } from "./browser.mjs";
import { crowd } from "./dashboard-crowd.mjs";
import { ROOT } from "../scripts/build.mjs";

const { BASE_URL, ADMIN_TOKEN, WATCH_S = "60" } = process.env;
if (!BASE_URL || !ADMIN_TOKEN) {
  console.error("dashboard-shots: set BASE_URL and ADMIN_TOKEN; a hub must be running, for example scripts/demo");
  process.exit(2);
}
const urls = BASE_URL.split(",").map((url) => url.trim().replace(/\/$/, ""));
const folder = process.argv[2] ?? join(ROOT, "../../docs/images");
const browser = await launch();
const people = await crowd(urls, ADMIN_TOKEN, { guests: 160 });
try {
  await mkdir(folder, { recursive: true });
  const boards = [];
  for (const [name, options] of [
    ["light", { viewport: { width: 1400, height: 1000 }, colorScheme: "light" }],
    ["dark", { viewport: { width: 1400, height: 1000 }, colorScheme: "dark" }],
    ["narrow", { viewport: { width: 390, height: 844 }, colorScheme: "light" }],
  ]) {
    const page = await (await browser.newContext({ ...options, deviceScaleFactor: 1 })).newPage();
    page.on("console", (message) => { if (message.type() === "error" || message.type() === "warning") console.error(`${name}: ${message.text()}`); });
    page.on("pageerror", (error) => console.error(`${name}: ${error.stack}`));
    await page.goto(`${urls[boards.length % urls.length]}/admin#token=${encodeURIComponent(ADMIN_TOKEN)}`);
    await page.locator("#board").waitFor({ state: "visible" });
    boards.push([name, page]);
  }
  const first = boards[0][1];
  await first.fill(".compose input", "The cake is cut at ten");
  await first.fill(".compose textarea", "Kitchen, please tell the band.");
  await first.click(".compose button[type=submit]");
  await new Promise((wake) => setTimeout(wake, Number(WATCH_S) * 1_000));
  for (const [name, page] of boards) {
    await page.locator("#rooms tbody .link").first().click();
    await page.locator("#inspector h3").waitFor();
    await page.evaluate(() => { document.activeElement?.blur(); scrollTo(0, 0); });
    await page.waitForTimeout(700);
    await page.screenshot({ path: join(folder, `dashboard-${name}.png`), fullPage: true });
    console.log(join(folder, `dashboard-${name}.png`));
  }
} finally {
  people.leave();
  await browser.close();
}
