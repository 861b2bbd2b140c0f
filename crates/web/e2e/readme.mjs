// Opens the README's page in Chromium and waits until it has said what its example listens for: `node readme.mjs URL`.

import { launch } from "./browser.mjs";

const url = process.argv[2];
if (!url) throw new Error("usage: node readme.mjs URL");

const wanted = [/^golden-hour like \d+$/, /^\d+ guests$/];
const heard = [];
const browser = await launch();
try {
  const page = await browser.newPage();
  const errors = [];
  page.on("console", (message) => {
    // The browser asks for an icon by itself, sooner or later, and the example's web server has none.
    if (message.location().url.endsWith("/favicon.ico")) return;
    (message.type() === "error" ? errors : heard).push(message.text());
  });
  page.on("pageerror", (error) => errors.push(String(error)));
  await page.goto(url);
  const end = Date.now() + 20_000;
  while (!wanted.every((pattern) => heard.some((line) => pattern.test(line)))) {
    if (errors.length > 0) throw new Error(`the page fails: ${errors.join("; ")}`);
    if (Date.now() > end) throw new Error(`the page did not hear ${wanted.join(" and ")}; it heard: ${heard.join(" | ")}`);
    await page.waitForTimeout(50);
  }
} finally {
  await browser.close();
}
