// Runs the browser steps against the fake hub: proof of the pages and of the steps, not of any real hub. What needs a
// hub that fails on demand is here too.

import { ADMIN_TOKEN, startFakeHub } from "./fake-hub.mjs";
import { run } from "./run.mjs";
import { card, commentsHold, live, same, textOf, until } from "./steps.mjs";

const hub = await startFakeHub();

/** Writes down what the page's live regions are given to say from now on. */
const listen = (page) => page.evaluate(() => {
  globalThis.heard = [];
  new MutationObserver((changes) => {
    for (const { target, addedNodes, type } of changes) {
      const region = (target instanceof Element ? target : target.parentElement)?.closest("[role=status], [role=alert], [role=log], [aria-live]:not([aria-live=off])");
      // An empty text that is set anew says nothing.
      if (region && region.textContent !== "" && (type === "characterData" || addedNodes.length > 0)) globalThis.heard.push([...addedNodes].map(({ textContent }) => textContent).join("") || region.textContent);
    }
  }).observe(document.body, { childList: true, characterData: true, subtree: true });
});

async function heard(page, wanted) {
  const said = await page.evaluate(() => globalThis.heard);
  if (JSON.stringify(said) !== JSON.stringify(wanted)) throw new Error(`read out was ${JSON.stringify(said)}, and not ${JSON.stringify(wanted)}`);
}

const more = [
  ["a lost connection is explained, and what was missed arrives once", async ({ anna, room }) => {
    await live(anna);
    // The next attempt is far away, so that the comment is surely missed and the button surely needed.
    await anna.evaluate(() => { Math.random = () => 0.99; });
    hub.drop();
    await until("the badge should count down", async () => { const text = await textOf(anna, "#badge-title"); return /^Back in [12] s$/.test(text) || text; });
    hub.comment(room, "fireworks", "Said while you were away", "g_elsewhere");
    await anna.click("#badge summary");
    const detail = await textOf(anna, "#badge-detail");
    if (!detail.includes("connection was lost")) throw new Error(`no explanation in “${detail}”`);
    await anna.click("#badge-retry");
    await live(anna);
    await commentsHold(anna, "fireworks", "Said while you were away");
    await commentsHold(anna, "golden-hour", "What a light!");
    await until("the count, too", async () => same(await textOf(anna, `${card("fireworks")} .talk .number`), "1"));
    await anna.click("#badge summary");
  }],

  ["a lost history is started anew", async ({ ben, room }) => {
    await live(ben);
    hub.forget(room);
    hub.comment(room, "balloons", "First of the new age", "g_elsewhere");
    await live(ben);
    await commentsHold(ben, "balloons", "First of the new age");
    await until("the old comments should be gone", async () => same(await ben.locator(`${card("golden-hour")} .comments li`).count(), 0));
    await until("the likes should stay", async () => same(await textOf(ben, `${card("golden-hour")} .heart .number`), "1"));
  }],

  ["the dashboard says stale to the second, and is well again", async (world) => {
    const board = await world.open(`/admin#token=${world.adminToken}`);
    await board.locator("#nodes tbody tr").first().waitFor();
    hub.mute(true);
    await until("stale nodes", async () => { const text = await textOf(board, "#nodes tbody td"); return /^stale for [3-9] s$/.test(text) || text; });
    await until("a stale banner", async () => { const text = await textOf(board, "#banner-text"); return /stale for \d+ s/.test(text) || text; });
    if (await board.locator(".actions button:not([disabled])").count()) throw new Error("a node that is not heard can still be drained");
    hub.mute(false);
    await until("live nodes", async () => same(await textOf(board, "#nodes tbody td"), "live"));
  }],

  ["a node that died is told of until it is back", async (world) => {
    const board = await world.open(`/admin#token=${world.adminToken}`);
    await board.locator("#nodes tbody tr[data-state=live]").nth(2).waitFor();
    const name = hub.lose(true);
    await until("it is silent", async () => { const text = await textOf(board, "#banner-text"); return text.startsWith(`${name} has said nothing new for `) || text; });
    await until("it is gone", async () => { const text = await textOf(board, "#banner-text"); return text.startsWith(`${name} is gone since `) || text; });
    if (!(await textOf(board, `#nodes tr[data-node="${name}"]`)).includes("without a drain")) throw new Error("its row does not tell that it is gone");
    await board.waitForTimeout(3_000);
    if (!(await textOf(board, "#banner-text")).startsWith(`${name} is gone since `)) throw new Error("it was forgotten");
    hub.lose(false);
    await until("all is well", async () => { const text = await textOf(board, "#banner-text"); return text.startsWith("All is well: 3 nodes") || text; });
    await board.context().close();
  }],

  ["nothing is cut off on a small screen, nor on a phone", async (world) => {
    for (const width of [1280, 1024, 390]) {
      for (const path of [`/admin#token=${world.adminToken}`, `/?room=${world.room}`]) {
        const page = await world.open(path);
        await page.setViewportSize({ width, height: 800 });
        await page.locator(path.startsWith("/admin") ? "#nodes tbody tr" : ".pill").first().waitFor();
        await page.waitForTimeout(1_500);
        const wide = await page.evaluate(() => [document.documentElement, ...document.querySelectorAll(".scroll, .figure, .top")].filter((box) => box.scrollWidth > box.clientWidth + 1).map((box) => `${box.id || box.className || box.tagName} ${box.scrollWidth} in ${box.clientWidth}`));
        if (wide.length > 0) throw new Error(`${path.slice(0, 6)} at ${width}: ${wide.join(", ")}`);
        await page.context().close();
      }
    }
  }],

  ["who listens to the dashboard hears what changes, and nothing of what ticks", async (world) => {
    const board = await world.open(`/admin#token=${world.adminToken}`);
    await board.locator("#spoken p", { hasText: "All is well." }).waitFor({ state: "attached" });
    await listen(board);
    const before = await textOf(board, "#banner-text");
    await until("figures that move", async () => (await textOf(board, "#banner-text")) !== before);
    await board.waitForTimeout(3_000);
    await heard(board, []);
    hub.mute(true);
    await until("stale for a while", async () => { const text = await textOf(board, "#banner-text"); return /stale for [6-9] s/.test(text) || text; });
    await heard(board, ["Nothing here is fresh."]);
    hub.mute(false);
    await board.context().close();
  }],

  ["who listens to the wall hears of uploads when they are there, and of many comments how many", async (world) => {
    const page = await world.open(`/?room=${world.room}`);
    await live(page);
    await page.waitForTimeout(300);
    await listen(page);
    const room = hub.hub.room(world.room);
    for (const progress of [10, 30, 50, 70, 90]) {
      room.push({ push: "signal", event: "upload", data: { target: "u1", state: "progress", progress }, from: "g_elsewhere" });
      room.count("cheers", "like", 1);
      await until("the upload is seen", async () => { const text = await textOf(page, "#share-others"); return text.endsWith(`${progress} %`) || text; });
    }
    await heard(page, []);
    for (let n = 0; n < 4; n++) hub.comment(world.room, "cheers", `Cheers ${n}`, "g_elsewhere");
    await commentsHold(page, "cheers", "Cheers 3");
    await heard(page, ["New comment: Cheers 0"]);
    await page.context().close();
  }],

  ["a question gives the focus back to what opened it", async (world) => {
    const board = await world.open(`/admin#token=${world.adminToken}`);
    const drain = board.locator("#nodes tr").getByRole("button", { name: "Drain node-a" });
    await until("the button", async () => same(await drain.isEnabled(), true));
    for (const [name, answer] of [["cancelled", () => board.keyboard.press("Escape")], ["answered", () => board.locator("dialog button[type=submit]").press("Enter")]]) {
      await drain.focus();
      await board.keyboard.press("Enter");
      await board.locator("dialog").waitFor();
      await answer();
      await until("the question is gone", async () => same(await board.locator("dialog").count(), 0));
      // Over some seconds' worth of drawing.
      await board.waitForTimeout(1_500);
      await until(`${name}: the focus is back`, async () => same(await board.evaluate(() => document.activeElement?.getAttribute("aria-label")), "Drain node-a"));
    }
    await board.locator(".form-note", { hasText: "node-a was told to drain." }).waitFor();
    // Open in the turn of the click: a key pressed right behind it would go past a question that opens with the next frame.
    const open = await drain.evaluate(async (button) => {
      button.click();
      for (let turn = 0; turn < 3; turn++) await Promise.resolve();
      return document.querySelector("dialog")?.open;
    });
    if (!open) throw new Error("the question opens only after the click is over");
    await board.context().close();
  }],

  ["the moderator's hands stay where they are while the desk is drawn anew", async (world) => {
    const [one, two] = ["One", "Two"].map((text) => hub.comment("wall:desk", "cheers", text, "g_elsewhere").comment);
    const board = await world.open(`/admin#token=${world.adminToken}`);
    const card = (comment) => board.locator(`#desk li[data-comment="${comment}"]`);
    const here = () => board.evaluate(() => document.activeElement?.dataset.comment ?? document.activeElement?.tagName);
    await card(two).waitFor();
    await card(one).getByRole("button", { name: "Approve" }).focus();
    // The card is picked now; its button keeps the focus, over some frames' worth of drawing.
    await board.waitForTimeout(500);
    await until("the button has the focus", async () => same(await board.evaluate(() => document.activeElement?.textContent), "Approve"), 0);
    await board.keyboard.press("Enter");
    await until("the card is here, though its button is gone", async () => same(await here(), one));
    hub.hub.room("admin").push({ push: "signal", event: "pending", data: { room: "wall:desk", comment: "older", target: "cheers", text: "Older", user: "g_elsewhere", at: 1, version: 1 } });
    await card("older").waitFor();
    if ((await here()) !== one) throw new Error(`a comment that came took the focus to ${await here()}`);
    await until("it is approved", async () => same(await card(one).count(), 0));
    await until("the next one is here", async () => same(await here(), two));
    await board.context().close();
  }],
];

try {
  await run({ urls: [hub.url, hub.url], adminToken: ADMIN_TOKEN, screenshots: process.env.SCREENSHOTS, more, only: process.argv[2] });
} catch (error) {
  console.error(`e2e: ${error.message}`);
  process.exitCode = 1;
} finally {
  await hub.stop();
}
