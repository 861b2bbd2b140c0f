// What guests and hosts do on the wall beside likes and comments: share photos, buy prints, wait for a host, lose the
// network; and whether people who hear or press keys can do it, too. Its room is the wall's own kind, where comments wait.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { ROOT } from "../scripts/build.mjs";
import { relay } from "./relay.mjs";
import { card, commentsHold, live, same, say, shows, textOf, until } from "./steps.mjs";
import { refreshed } from "./tokens.mjs";

/** The smallest of pictures. */
const PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

const wall = (world) => `/?room=${world.wall}`;

/** A call to the hub's HTTP API; on whose behalf stands in the body. */
async function api(world, op, body) {
  const response = await fetch(`${world.urls[0]}/api/v1/${op}`, {
    method: "POST", headers: { authorization: `Bearer ${world.adminToken}`, "content-type": "application/json" }, body: JSON.stringify(body),
  });
  if (!response.ok) throw new Error(`${op}: ${response.status} ${await response.text()}`);
  return response.json();
}

const offer = (world, stock, holdMs) => api(world, "stock", { room: world.wall, item: "print-a3", stock, per_user: 2, hold_ms: holdMs });

/** A picture that only this test has: a PNG, drawn by the browser. */
async function aPicture(page) {
  const url = await page.evaluate(() => {
    const canvas = Object.assign(document.createElement("canvas"), { width: 1200, height: 700 });
    const pen = canvas.getContext("2d");
    for (let x = 0; x < 1200; x += 20) { pen.fillStyle = `hsl(${x / 4} 80% 60%)`; pen.fillRect(x, 0, 20, 700); }
    return canvas.toDataURL("image/png");
  });
  return Buffer.from(url.split(",")[1], "base64");
}

const waiting = (page, photo) => page.locator(`${card(photo)} .comments .tag`);
const soldOut = (page) => shows(page, "#sale-left", "Sold out");

export const wallSteps = [
  ["a comment waits for a host, and its author alone sees it", async (world) => {
    world.wall = `wall:${world.room.split(":")[1]}`;
    world.carl = await world.open(wall(world), { node: 0 });
    world.dora = await world.open(wall(world), { node: 1 });
    await live(world.carl);
    await live(world.dora);
    await say(world.carl, "cheers", "May I say this?");
    await until("it should wait", async () => same(await waiting(world.carl, "cheers").first().textContent().catch(() => ""), "waiting for a host"));
    await world.carl.reload();
    await live(world.carl);
    await until("it should still wait after a reload", async () => same(await waiting(world.carl, "cheers").count(), 1));
    if (await world.dora.locator(`${card("cheers")} .comments li`).count()) throw new Error("another guest sees what was not approved");
  }],

  ["approved by a host, it appears for everybody", async (world) => {
    const host = await world.open(`${wall(world)}#token=${encodeURIComponent(world.adminToken)}`);
    const first = host.locator(".queue li", { hasText: "May I say this?" });
    await first.waitFor();
    await first.getByRole("button", { name: "Approve" }).click();
    await commentsHold(world.dora, "cheers", "May I say this?");
    await commentsHold(world.carl, "cheers", "May I say this?");
    await until("nothing waits any more", async () => same(await waiting(world.carl, "cheers").count(), 0));
    await shows(world.dora, `${card("cheers")} .talk .number`, "1");
    await say(world.carl, "cheers", "Rather not");
    const second = host.locator(".queue li", { hasText: "Rather not" });
    await second.waitFor();
    await second.getByRole("button", { name: "Reject" }).click();
    await shows(host, "#queue-heading", "No comment waits");
    if (await world.dora.locator(`${card("cheers")} .comments li`).count() !== 1) throw new Error("what was rejected is seen");
    await host.context().close();
  }],

  ["a photo is seen by the others once all of it is there", async (world) => {
    const { dora } = world;
    const upload = (state, more = {}) => api(world, "upload", { room: world.wall, user: "zoe", target: "guest-zoe-1", state, ...more });
    await upload("started");
    await api(world, "put", { room: world.wall, user: "zoe", doc: "guest-zoe-1/0", version: 0, value: { title: "Slowly", parts: 1, data: `data:image/png;base64,${PIXEL}` } });
    await upload("progress", { progress: 40 });
    await until("the others should hear how far it is", async () => same(await textOf(dora, "#share-others"), "1 photo of another guest is on the way: 40 %"));
    if (await dora.locator(card("guest-zoe-1")).count()) throw new Error("half a photo is seen");
    await upload("complete");
    await shows(dora, `${card("guest-zoe-1")} h2`, "Slowly");
    await shows(dora, "#share-others", "");
  }],

  ["a guest shares a photo from a file", async (world) => {
    const { carl, dora } = world;
    await carl.fill("#share-title", "Stripes <b>&");
    await carl.setInputFiles("#share-file", { name: "stripes.png", mimeType: "image/png", buffer: await aPicture(carl) });
    await carl.locator('#share-list [data-state="complete"]').waitFor();
    const shared = '#wall article:has(h2:text-is("Stripes <b>&"))';
    await dora.locator(shared).waitFor();
    await until("the picture should arrive", async () => same(await dora.locator(`${shared} img`).evaluate((image) => image.naturalWidth), 480));
    await dora.click(`${shared} .heart`);
    await shows(carl, `${shared} .heart .number`, "1");
    // What a page remembers is what it was answered, and others may hear of it before.
    await dora.locator(`${shared} .heart[aria-pressed=true]:not(.on-its-way)`).waitFor();
    await dora.reload();
    await live(dora);
    await until("it should hang there after a reload", async () => same(await dora.locator(`${shared} img`).evaluate((image) => image.naturalWidth).catch(() => 0), 480));
    await until("liked, too", async () => same(await dora.getAttribute(`${shared} .heart`, "aria-pressed"), "true"));
    await carl.setInputFiles("#share-file", { name: "notes.txt", mimeType: "text/plain", buffer: Buffer.from("no picture") });
    await until("what is no picture should be refused", async () => { const text = await textOf(carl, '#share-list [data-state="failed"]').catch(() => ""); return text.includes("not a picture") || text; });
  }],

  ["two guests buy from one stock, and one finds it sold out", async (world) => {
    const { carl, dora } = world;
    if (await carl.locator("#sale").isVisible()) throw new Error("something is for sale before it is offered");
    await offer(world, 2, 60_000);
    await api(world, "put", { room: world.wall, user: "host", doc: "sale", version: 0, value: { item: "print-a3", title: "Signed print", price: "€ 15", stock: 2, per_user: 2, hold_s: 60 } });
    await shows(carl, "#sale-left", "2 left");
    await shows(dora, "#sale-title", "Signed print");
    await carl.selectOption("#sale-quantity", "2");
    await carl.click("#sale-reserve");
    await carl.locator("#sale-hold").waitFor({ state: "visible" });
    await until("a countdown", async () => { const text = await textOf(carl, "#sale-clock"); return /^(1:00|0:[0-5]\d)$/.test(text) || text; });
    await soldOut(dora);
    if (await dora.isEnabled("#sale-reserve")) throw new Error("what is sold out can be reserved");
    await carl.click("#sale-release");
    await shows(dora, "#sale-left", "2 left");
    await dora.click("#sale-reserve");
    await dora.click("#sale-buy");
    await shows(dora, "#sale-mine", "Yours: 1 print.");
    await shows(carl, "#sale-left", "1 left");
    await carl.selectOption("#sale-quantity", "2");
    await carl.click("#sale-reserve");
    await shows(carl, "#sale-note", "Somebody was faster: not that many are left.");
    await shows(carl, "#sale-left", "1 left");
  }],

  ["a hold that runs out goes back for everybody", async (world) => {
    await offer(world, 3, 1_500);
    await shows(world.dora, "#sale-left", "2 left");
    await world.carl.selectOption("#sale-quantity", "2");
    await world.carl.click("#sale-reserve");
    await soldOut(world.dora);
    await shows(world.carl, "#sale-note", "The hold has run out; what was held is for sale again.");
    await shows(world.dora, "#sale-left", "2 left");
  }],

  ["offline and online again: nothing is missed, and what was done meanwhile arrives", async (world) => {
    const way = await relay(world.urls[0]);
    const eve = await world.open(wall(world), { url: way.url });
    await live(eve);
    await say(world.carl, "bouquet", "Before");
    await eve.evaluate(() => { Math.random = () => 0.99; });
    world.expectErrors(true);
    way.cut();
    await eve.context().setOffline(true);
    await until("the badge should say so", async () => { const text = await textOf(eve, "#badge-title"); return text.startsWith("Back in") || text.startsWith("Connecting") || text; });
    await eve.click(`${card("bouquet")} .heart`);
    await shows(eve, `${card("bouquet")} .heart .number`, "1");
    const { comment, version } = await api(world, "comment", { room: world.wall, user: "zoe", target: "bouquet", text: "While you were away" });
    await api(world, "moderate", { room: world.wall, user: "host", comment, decision: "approve", version });
    await shows(world.dora, `${card("bouquet")} .heart .number`, "0");
    way.mend();
    const back = Date.now();
    await eve.context().setOffline(false);
    await live(eve);
    // At 0.99 the client's own waits grow to many seconds; the page's `online` is what makes it quick.
    if (Date.now() - back > 5_000) throw new Error(`it took ${Date.now() - back} ms to come back`);
    await commentsHold(eve, "bouquet", "While you were away");
    await shows(world.dora, `${card("bouquet")} .heart .number`, "1");
    world.expectErrors(false);
    await eve.context().close();
    await way.close();
  }],

  ["a token that ends is renewed in band, and one that could not be is asked for anew", refreshed, "hmacKeyFile"],

  ["colours follow the system, then the button, and are remembered", async (world) => {
    const ground = (page) => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const page = await world.open(wall(world), { colorScheme: "dark" });
    await live(page);
    const dark = await ground(page);
    await page.click("#colours");
    const light = await ground(page);
    if (light === dark) throw new Error(`light is as dark: ${light}`);
    await page.reload();
    await live(page);
    if ((await ground(page)) !== light) throw new Error("the choice is forgotten");
    await page.context().close();
  }],

  ["everything can be reached and worked by keyboard", async (world) => {
    const { dora } = world;
    await dora.reload();
    await live(dora);
    await dora.keyboard.press("Tab");
    await dora.keyboard.press("Enter");
    await until("the skip link should lead to the photos", async () => same(await dora.evaluate(() => document.activeElement?.id), "wall"));
    const reached = new Set();
    await dora.evaluate(() => document.body.focus());
    for (let n = 0; n < 16; n++) {
      await dora.keyboard.press("Shift+Tab");
      reached.add(await dora.evaluate(() => document.activeElement?.id));
    }
    for (const wanted of ["share-draw", "share-file", "share-title", "colours"]) if (!reached.has(wanted)) throw new Error(`Tab does not reach #${wanted}; it reaches ${[...reached].join(", ")}`);
    await dora.focus("#share-draw");
    await dora.keyboard.press("Enter");
    await dora.locator('#share-list [data-state="complete"]').waitFor();
  }],

  ["axe finds nothing serious: light, dark, narrow, with everything open", async (world) => {
    const axe = await readFile(join(ROOT, "node_modules/axe-core/axe.min.js"), "utf8");
    await offer(world, 6, 60_000);
    for (const [name, options] of [["light", { colorScheme: "light" }], ["dark", { colorScheme: "dark" }], ["narrow", { viewport: { width: 360, height: 740 } }]]) {
      const page = await world.open(`${wall(world)}#token=${encodeURIComponent(world.adminToken)}`, options);
      await live(page);
      await page.locator("#admin-body .compose").waitFor({ state: "visible" });
      await say(page, "cheers", `Read by axe, ${name}`);
      await page.locator(".queue li").first().waitFor();
      await page.click("#sale-reserve");
      await page.locator("#sale-hold").waitFor({ state: "visible" });
      await page.click("#badge summary");
      await page.evaluate(axe);
      const found = await page.evaluate(async () => {
        const { violations } = await globalThis.axe.run(document, { resultTypes: ["violations"] });
        return violations.filter(({ impact }) => impact === "serious" || impact === "critical").map(({ id, nodes }) => `${id}: ${nodes.slice(0, 3).map(({ target, failureSummary }) => `${target.join(" ")} ${failureSummary}`).join("; ")}`);
      });
      if (found.length > 0) throw new Error(`${name}: ${found.join("\n")}`);
      await page.click("#badge summary");
      await page.click("#sale-release");
      await page.context().close();
    }
  }],
];
