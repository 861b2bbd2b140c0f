// Runs the browser steps against the fake hub: proof of the pages and of the steps, not of any real hub. What needs a
// hub that fails on demand is here too.

import { ADMIN_TOKEN, startFakeHub } from "./fake-hub.mjs";
import { run } from "./run.mjs";
import { card, commentsHold, live, same, textOf, until } from "./steps.mjs";

const hub = await startFakeHub();

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
];

try {
  await run({ urls: [hub.url, hub.url], adminToken: ADMIN_TOKEN, screenshots: process.env.SCREENSHOTS, more, only: process.argv[2] });
} catch (error) {
  console.error(`e2e: ${error.message}`);
  process.exitCode = 1;
} finally {
  await hub.stop();
}
