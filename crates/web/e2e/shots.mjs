// Pictures of the wall for the docs: `BASE_URL=… ADMIN_TOKEN=… node e2e/shots.mjs [folder]`, default `docs/images`.
// It brings some guests to a fresh room of a running hub, lets them do what guests do, and photographs it: light, dark and
// narrow. What the hub does not tell (the minute, a random id) is all that differs from one run to the next.

import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { launch } from "./browser.mjs";
import { ROOT } from "../scripts/build.mjs";
import { card, commentsHold, live, say, until } from "./steps.mjs";

const { BASE_URL, ADMIN_TOKEN } = process.env;
if (!BASE_URL || !ADMIN_TOKEN) {
  console.error("shots: set BASE_URL and ADMIN_TOKEN; a hub must be running, for example `roomcast serve --dev`");
  process.exit(2);
}
const url = BASE_URL.split(",")[0].replace(/\/$/, "");
const folder = process.argv[2] ?? join(ROOT, "../../docs/images");
const room = `wall:midsummer-${Date.now().toString(36).slice(-3)}`;

const api = async (op, body) => {
  const response = await fetch(`${url}/api/v1/${op}`, { method: "POST", headers: { authorization: `Bearer ${ADMIN_TOKEN}`, "content-type": "application/json" }, body: JSON.stringify({ room, ...body }) });
  if (!response.ok) throw new Error(`${op}: ${response.status} ${await response.text()}`);
  return response.json();
};

/** Comments are approved as soon as they are there. */
async function said(user, target, text) {
  const { comment, pending, version } = await api("comment", { user, target, text });
  if (pending) await api("moderate", { user: "host", comment, decision: "approve", version });
}

const browser = await launch();
try {
  await mkdir(folder, { recursive: true });
  const photos = ["golden-hour", "cheers", "string-lights", "the-cake", "dance-floor", "bouquet", "fireworks", "by-the-sea"];
  for (const [i, photo] of photos.entries()) {
    for (let n = 0; n < [31, 18, 24, 40, 12, 27, 55, 9][i]; n++) await api("like", { user: `guest-${n}`, target: photo, on: true });
    await api("count", { user: "guest-1", target: photo, counter: "download", by: [6, 3, 9, 14, 2, 5, 21, 1][i] });
  }
  await said("guest-k3x7q", "golden-hour", "What a light!");
  await said("guest-77ab2", "golden-hour", "Framing this one.");
  await said("guest-p09dd", "cheers", "Look at you two!");
  await said("guest-91fz0", "string-lights", "We stayed until the last bulb.");
  await said("guest-k3x7q", "the-cake", "The third tier was the best.");
  await said("guest-0c2mm", "dance-floor", "One more. And one more.");
  await api("stock", { item: "print-a3", stock: 10, per_user: 2, hold_ms: 60_000 });
  await api("put", { user: "host", doc: "sale", version: 0, value: { item: "print-a3", title: "Signed A3 print", price: "€ 15", stock: 10, per_user: 2, hold_s: 60 } });
  for (const user of ["guest-a", "guest-b"]) {
    const { reservation } = await api("reserve", { user, item: "print-a3", quantity: 1, key: user });
    await api("confirm", { user, room: undefined, reservation });
  }

  const others = [];
  for (let n = 0; n < 3; n++) {
    const page = await (await browser.newContext()).newPage();
    await page.goto(`${url}/?room=${room}`);
    await live(page);
    others.push(page);
  }
  const shot = async (name, options, act = async () => {}) => {
    const page = await (await browser.newContext({ deviceScaleFactor: 1, viewport: { width: 1280, height: 860 }, ...options })).newPage();
    await page.goto(`${url}/?room=${room}`);
    await live(page);
    await commentsHold(page, "golden-hour", "What a light!");
    await act(page);
    await page.evaluate(() => document.activeElement?.blur());
    await page.waitForTimeout(700);
    await page.screenshot({ path: join(folder, `${name}.png`) });
    await page.context().close();
  };
  const asAGuest = async (page) => {
    await page.click(`${card("golden-hour")} .heart`);
    await page.fill("#share-title", "From the balcony");
    await page.click("#share-draw");
    await until("the photo should be shared", async () => (await page.locator('#share-list [data-state="complete"]').count()) > 0);
    await say(page, "cheers", "Save me a glass!");
    await page.locator(".waiting .tag").first().waitFor();
    await page.selectOption("#sale-quantity", "1");
    await page.click("#sale-reserve");
    await page.locator("#sale-hold").waitFor({ state: "visible" });
    await page.waitForTimeout(1_500);
  };
  await shot("wall-light", { colorScheme: "light" }, asAGuest);
  await shot("wall-dark", { colorScheme: "dark" }, async (page) => {
    await page.click(`${card("cheers")} .heart`);
    await page.click("#badge summary");
  });
  await shot("wall-narrow", { colorScheme: "light", viewport: { width: 390, height: 844 }, deviceScaleFactor: 2 });
} finally {
  await browser.close();
}
