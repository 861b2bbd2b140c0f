// Two pages behind a balancer, on two nodes; one node is killed outright, and both pages go on with nothing missed:
// `CLUSTER_ENV=… node e2e/kill.mjs`, where the file is what `scripts/cluster --dev --state DIR --detach` writes as DIR/env.

import { readFile } from "node:fs/promises";
import { launch } from "./browser.mjs";
import { card, commentsHold, live, shows, textOf, until } from "./steps.mjs";

const file = process.env.CLUSTER_ENV;
if (!file) {
  console.error("kill: set CLUSTER_ENV to the env file of a running cluster");
  process.exit(2);
}
const cluster = Object.fromEntries((await readFile(file, "utf8")).split("\n").filter(Boolean).map((line) => [line.slice(0, line.indexOf("=")), line.slice(line.indexOf("=") + 1)]));
const room = `event:kill-${Date.now().toString(36)}`;
const nodeOf = async (page) => (await textOf(page, "#badge-title")).replace("Live · ", "");

const browser = await launch();
try {
  const pages = [];
  // The balancer sends who is new to the node with the fewest connections; a second guest lands on a second node.
  for (let n = 0; n < 6 && new Set(await Promise.all(pages.map(nodeOf))).size < 2; n++) {
    const page = await (await browser.newContext()).newPage();
    await page.goto(`${cluster.BALANCER_URL}/?room=${room}`);
    await live(page);
    pages.push(page);
  }
  const nodes = await Promise.all(pages.map(nodeOf));
  const [doomed, other] = [pages[0], pages[nodes.findIndex((node) => node !== nodes[0])]];
  if (!other) throw new Error(`all pages are on ${nodes[0]}`);
  const spared = await nodeOf(other);
  console.log(`ok      two guests behind the balancer, on ${nodes[0]} and ${spared}`);

  await doomed.click(`${card("cheers")} .heart`);
  await shows(other, `${card("cheers")} .heart .number`, "1");
  await other.click(`${card("cheers")} .heart`);
  await shows(doomed, `${card("cheers")} .heart .number`, "2");
  console.log("ok      likes cross from node to node");

  // A writer at the node that stays, before, while and after the other dies: every comment once, in order, on both pages.
  const token = cluster.ADMIN_TOKEN;
  const url = cluster[`${spared.toUpperCase()}_INTERNAL_URL`];
  const said = [];
  let writing = true;
  const writer = (async () => {
    for (let n = 1; writing; n++) {
      const text = `Line ${n}`;
      const response = await fetch(`${url}/api/v1/comment`, { method: "POST", headers: { authorization: `Bearer ${token}`, "content-type": "application/json" }, body: JSON.stringify({ room, user: "writer", target: "fireworks", text, key: `line-${n}` }) });
      if (!response.ok) throw new Error(`comment: ${response.status} ${await response.text()}`);
      said.push(text);
      await new Promise((done) => setTimeout(done, 100));
    }
  })();
  const failed = new Promise((_, fail) => writer.catch(fail));
  await Promise.race([failed, until("the writer should be heard", async () => said.length > 10 || said.length)]);

  const began = Date.now();
  process.kill(Number(cluster[`${nodes[0].toUpperCase()}_PID`]), "SIGKILL");
  await Promise.race([failed, until("the page should be live on another node", async () => { const text = await textOf(doomed, "#badge-title"); return (text.startsWith("Live") && !text.includes(nodes[0])) || text; }, 30_000)]);
  console.log(`ok      ${nodes[0]} was killed, and its page was live on ${await nodeOf(doomed)} after ${Date.now() - began} ms`);
  await new Promise((done) => setTimeout(done, 1_000));
  writing = false;
  await writer;

  for (const [name, page] of [["the page of the killed node", doomed], ["the page of the other", other]]) {
    await commentsHold(page, "fireworks", said.at(-1));
    if (await page.isVisible(`${card("fireworks")} .more`)) await page.click(`${card("fireworks")} .more`);
    const lines = (await page.locator(`${card("fireworks")} .comments p`).allTextContents()).map((text) => /Line \d+/.exec(text)?.[0]);
    if (lines.join() !== said.join()) throw new Error(`${name} shows ${lines.join()} where ${said.join()} was said`);
  }
  console.log(`ok      both pages hold all ${said.length} comments, once and in order`);
  await other.click(`${card("bouquet")} .heart`);
  await shows(doomed, `${card("bouquet")} .heart .number`, "1");
  console.log("ok      and go on");
} catch (error) {
  console.error(`not ok  ${error.message}`);
  process.exitCode = 1;
} finally {
  await browser.close();
}
