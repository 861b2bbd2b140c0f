// The dashboard against a real cluster of two nodes behind a balancer: `CLUSTER_ENV=… node e2e/dashboard.mjs`.
//
// CLUSTER_ENV   the file that scripts/cluster writes; its namespace `event` must be moderated
// CHROMIUM      the browser's path, default /usr/bin/chromium
//
// It drains one of the nodes and halts both for a while, so the cluster should be its own.

import { createHmac } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { launch } from "./browser.mjs";
import { card, commentsHold, live, same, textOf, until } from "./steps.mjs";

const file = process.env.CLUSTER_ENV;
if (!file) {
  console.error("dashboard: set CLUSTER_ENV to the env file of scripts/cluster --state DIR --detach");
  process.exit(2);
}
const env = Object.fromEntries(readFileSync(file, "utf8").split("\n").filter((line) => line.includes("=")).map((line) => [line.slice(0, line.indexOf("=")), line.slice(line.indexOf("=") + 1)]));
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** A token of any role, signed with the cluster's key. */
function token(sub, role) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const said = `${part({ alg: "HS256", typ: "JWT" })}.${part({ sub, role, exp: Math.floor(Date.now() / 1_000) + 600 })}`;
  return `${said}.${createHmac("sha256", readFileSync(env.HMAC_KEY_FILE, "utf8").trim()).update(said).digest("base64url")}`;
}

const room = `event:board-${Date.now().toString(36)}`;
const admin = (sub) => `/admin#token=${encodeURIComponent(token(sub, "admin"))}`;
const desk = (text) => `#desk li:has-text("${text}")`;
const fate = (page, text) => page.locator(desk(text)).getAttribute("data-fate", { timeout: 500 }).catch(() => "gone");

async function say(page, photo, text) {
  await page.fill(`${card(photo)} .say input`, text);
  await page.press(`${card(photo)} .say input`, "Enter");
}

/** Opens the board, and waits until it shows the cluster. */
async function board(world, url, sub, options) {
  const page = await world.open(url + admin(sub), options);
  await page.locator("#board").waitFor({ state: "visible" });
  await until("figures of the cluster", async () => { const text = await textOf(page, "#banner-text"); return !/waiting|Connecting/.test(text) || text; });
  return page;
}

async function accessible(page, what) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  const serious = violations.filter(({ impact }) => impact === "serious" || impact === "critical");
  if (serious.length > 0) throw new Error(`${what}: ${serious.map(({ id, nodes }) => `${id} (${nodes.map(({ target, failureSummary }) => `${target}: ${failureSummary}`).slice(0, 3).join("; ")})`).join("\n")}`);
}

const nodeOf = async (page) => (await textOf(page, "#status"))?.replace("Live on ", "");

const steps = [
  ["the whole cluster is shown, and follows what happens", async (world) => {
    world.board = await board(world, env.BALANCER_URL, "ada");
    await until("both nodes live", async () => same((await world.board.locator("#nodes tbody tr[data-state=live]").count()), 2));
    const connections = async () => Number((await textOf(world.board, ".figure")).replaceAll(",", ""));
    const before = await connections();
    world.anna = await world.open(`${env.BALANCER_URL}/?room=${room}`);
    world.ben = await world.open(`${env.NODE2_URL}/?room=${room}`);
    await live(world.anna);
    await live(world.ben);
    await until("two connections more", async () => { const now = await connections(); return now >= before + 2 || now; });
    await until("the room in the list", async () => (await world.board.locator("#rooms", { hasText: room }).count()) === 1);
  }],

  ["every chart has a table that says the same", async ({ board: page }) => {
    const charts = page.locator("figure.chart");
    const count = await charts.count();
    if (count < 5) throw new Error(`${count} charts`);
    for (let i = 0; i < count; i++) {
      await charts.nth(i).locator("summary").click();
      await until(`rows under chart ${i}`, async () => (await charts.nth(i).locator("tbody tr").count()) > 0);
      await charts.nth(i).locator("summary").click();
    }
  }],

  ["a room is looked into: who is there, and what was said", async ({ board: page }) => {
    await page.fill("#inspect-name", room);
    await page.press("#inspect-name", "Enter");
    await until("its people", async () => { const text = await textOf(page, "#inspector .form-note"); return text?.startsWith("2 people on 2 connections") || text; });
    await page.fill("#inspect-name", "nowhere:x");
    await page.press("#inspect-name", "Enter");
    await page.locator(".form-note", { hasText: "nowhere:x:" }).waitFor();
  }],

  ["a comment waits, is approved by keyboard after its grace, and appears on the wall", async (world) => {
    const text = "Lovely <img src=x onerror=alert(1)> light";
    await say(world.anna, "golden-hour", text);
    await world.board.locator(desk("Lovely")).waitFor();
    if (await world.board.locator("#desk img").count()) throw new Error("a comment became an element");
    world.second = await board(world, env.NODE2_URL, "bob");
    await world.second.locator(desk("Lovely")).waitFor();
    await world.board.locator(desk("Lovely")).focus();
    await world.board.keyboard.press("a");
    await until("it may be taken back", async () => same(await fate(world.board, "Lovely"), "grace"));
    await world.board.keyboard.press("u");
    await until("it waits again", async () => same(await fate(world.board, "Lovely"), "waiting"));
    await new Promise((wake) => setTimeout(wake, 5_500));
    if ((await fate(world.second, "Lovely")) !== "waiting") throw new Error("a decision that was taken back was sent");
    const seen = await world.ben.locator(`${card("golden-hour")} .comments`, { hasText: "Lovely" }).count();
    if (seen) throw new Error("the wall shows a comment that nobody approved");
    await world.board.keyboard.press("a");
    await commentsHold(world.ben, "golden-hour", text);
    await until("it is gone from the desk", async () => same(await fate(world.board, "Lovely"), "gone"));
    await until("the other moderator is told by whom", async () => { const shown = (await world.second.locator("#desk").textContent()) ?? ""; return shown.includes("already approved by ada") || (await fate(world.second, "Lovely")) === "gone" || shown; });
  }],

  ["two moderators decide at once: one wins, and the other is told what stands", async (world) => {
    await say(world.anna, "cheers", "Twice decided");
    for (const page of [world.board, world.second]) await page.locator(desk("Twice")).waitFor();
    await world.board.locator(desk("Twice")).getByRole("button", { name: "Approve" }).click();
    // Each decision waits out its grace in a page of its own: so far apart the first to decide is the first to be heard.
    await world.second.waitForTimeout(2_000);
    await world.second.locator(desk("Twice")).getByRole("button", { name: "Reject" }).click();
    await commentsHold(world.ben, "cheers", "Twice decided");
    await until("the loser is told", async () => { const shown = await textOf(world.second, "#desk"); return /already approved by ada|not rejected: it is/.test(shown) || shown; });
  }],

  ["a notification reaches everyone in a room, and says how many", async ({ board: page }) => {
    await page.selectOption(".compose select", "room");
    await page.fill(".compose input[name=title]", "Cake at ten");
    await page.fill(".compose input[name=room]", room);
    await page.click(".compose button[type=submit]");
    await until("how many", async () => { const text = await textOf(page, "#notify-told"); return text === `Delivered to 2 people on 2 connections in ${room}.` || text; });
    await until("it is in the audit log", async () => { const text = await page.locator("#audit tbody").textContent(); return (text.includes("notify") && text.includes("moderate")) || text; });
  }],

  ["nothing serious is wrong for who cannot see or point", async (world) => {
    await accessible(world.board, "the board");
    const dark = await board(world, env.NODE2_URL, "eve", { colorScheme: "dark" });
    await accessible(dark, "the dark board");
    await dark.locator("#nodes").getByRole("button", { name: /^Shed/ }).first().click();
    await accessible(dark, "a question before something is done");
    await dark.keyboard.press("Escape");
    await dark.click("#sign-out");
    await accessible(dark, "the gate");
    await dark.context().close();
  }],

  ["who is no admin gets no further than the gate", async (world) => {
    for (const role of ["member", "service"]) {
      const page = await world.open(`${env.NODE2_URL}/admin#token=${encodeURIComponent(token("mo", role))}`);
      await until("the gate says why", async () => { const text = await textOf(page, "#gate-note"); return text.includes(`role is “${role}”`) || text; });
      if ((await page.locator("#board button").count()) > 0) throw new Error(`a ${role} sees buttons`);
      await page.context().close();
    }
  }],

  ["a cut-off board says for how long, and lets nobody press anything", async ({ board: page }) => {
    const pids = [env.NODE1_PID, env.NODE2_PID].map(Number);
    for (const pid of pids) process.kill(pid, "SIGSTOP");
    try {
      await until("stale for some seconds", async () => { const text = await textOf(page, "#banner-text"); return /stale for [3-9] s/.test(text) || text; });
      if (await page.locator(".actions button:not([disabled])").count()) throw new Error("a node that is not heard can still be drained");
    } finally {
      for (const pid of pids) process.kill(pid, "SIGCONT");
    }
    await until("fresh again", async () => { const text = await textOf(page, "#banner-text"); return !text.includes("stale") || text; }, 20_000);
  }],

  ["a drain is asked for twice, moves everyone, and is written down", async (world) => {
    const facts = async () => (await world.anna.locator("#badge-facts").textContent()) ?? "";
    await live(world.anna);
    await until("where Anna is", async () => /node[12]/.test(await facts()) || (await facts()));
    const from = /node[12]/.exec(await facts())[0];
    const to = from === "node1" ? "node2" : "node1";
    const drain = world.board.locator(`#nodes tr[data-node=${from}]`).getByRole("button", { name: `Drain ${from}` });
    await until("the button", async () => same(await drain.isEnabled(), true), 20_000);
    await drain.click();
    await world.board.keyboard.press("Escape");
    await until("Escape should close the question", async () => same(await world.board.locator("dialog").count(), 0));
    await drain.click();
    await world.board.locator("dialog button[type=submit]").click();
    await until("Anna moves", async () => (await facts()).includes(to) || (await facts()), 30_000);
    await live(world.anna);
    await until("the board is on the other node, too", async () => same(await nodeOf(world.board), to), 30_000);
    // The button that asked cannot be pressed any more: the focus is no further away than its table.
    await until("the focus is kept near", async () => same(await world.board.evaluate(() => document.activeElement?.id), "nodes"));
    await until("the drain is told", async () => { const text = await textOf(world.board, `#nodes tr[data-node=${from}] td`); return /^draining\s+100 %$/.test(text) || text; }, 20_000);
    await until("who did it", async () => { const rows = await world.board.locator("#audit tbody tr", { hasText: "drain" }).allTextContents(); return rows.some((row) => row.includes("ada") && row.includes(from)) || rows; });
  }],
];

const browser = await launch();
const errors = [];
const world = {
  async open(url, { viewport = { width: 1280, height: 900 }, ...options } = {}) {
    const page = await (await browser.newContext({ viewport, ...options })).newPage();
    page.setDefaultTimeout(10_000);
    page.on("pageerror", (error) => errors.push(error.stack ?? error.message));
    // A socket that a drain or a halt ends is part of the play; a policy that is violated is not.
    page.on("console", (message) => { if (message.type() === "error" && !/WebSocket connection|ERR_|503/.test(message.text())) errors.push(message.text()); });
    await page.goto(url);
    return page;
  },
};
let name = "";
try {
  for (const [title, step] of steps) {
    name = title;
    const began = Date.now();
    await step(world);
    if (errors.length > 0) throw new Error(`the browser reported:\n${errors.join("\n")}`);
    console.log(`ok      ${title}  (${Date.now() - began} ms)`);
  }
} catch (error) {
  console.error(`not ok  ${name}: ${error.message}`);
  process.exitCode = 1;
} finally {
  await browser.close();
}
