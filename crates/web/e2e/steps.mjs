// What people do with the pages, step by step. Each step may rely on those before it; `world` carries the open pages.

export const until = async (what, check, limitMs = 10_000) => {
  const end = Date.now() + limitMs;
  let last;
  for (;;) {
    last = await check();
    if (last === true) return;
    if (Date.now() > end) throw new Error(`${what}; last seen: ${JSON.stringify(last)}`);
    await new Promise((wake) => setTimeout(wake, 50));
  }
};

/** True, or what was there instead. */
export const same = (seen, wanted) => (seen === wanted ? true : seen);
export const textOf = async (page, selector) => (await page.locator(selector).first().textContent())?.trim();
export const shows = (page, selector, wanted, limitMs) => until(`${selector} should be “${wanted}”`, async () => same(await textOf(page, selector), wanted), limitMs);

export const card = (photo) => `[data-photo="${photo}"]`;
const likes = (photo) => `${card(photo)} .heart .number`;
export const live = (page) => until("the badge should say Live", async () => { const text = await textOf(page, "#badge-title"); return text.startsWith("Live") || text; });

export async function say(page, photo, text) {
  await page.fill(`${card(photo)} .say input`, text);
  await page.press(`${card(photo)} .say input`, "Enter");
}

export async function commentsHold(page, photo, text) {
  await until(`a comment should hold “${text}” once`, async () => {
    const all = await page.locator(`${card(photo)} .comments p`).allTextContents();
    return all.filter((comment) => comment.includes(text)).length === 1 || all;
  });
}

async function fits(page, what) {
  const [wide, room] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  if (wide > room) throw new Error(`${what} is ${wide} px wide in a window of ${room} px`);
}

const notify = async (page, title, body) => {
  await page.fill(".compose input", title);
  await page.fill(".compose textarea", body);
  await page.click(".compose button[type=submit]");
};
const noticed = (page, title) => page.locator(".notices li strong", { hasText: title }).waitFor();

export const steps = [
  ["two guests open the wall and see each other", async (world) => {
    const wall = `/?room=${world.room}`;
    world.anna = await world.open(wall, { node: 0 });
    world.ben = await world.open(wall, { node: 1 });
    await live(world.anna);
    await live(world.ben);
    await shows(world.anna, "#guests", "2");
    await shows(world.ben, "#guests", "2");
  }],

  ["every photo is drawn", async ({ anna }) => {
    const broken = await anna.evaluate(async () => {
      const images = [...document.querySelectorAll("#wall img")];
      for (const image of images) image.loading = "eager";
      await Promise.all(images.map((image) => image.decode().catch(() => {})));
      return { count: images.length, broken: images.filter((image) => image.naturalWidth === 0).map((image) => image.src) };
    });
    if (broken.count !== 12 || broken.broken.length > 0) throw new Error(JSON.stringify(broken));
  }],

  ["a like crosses, is counted once, and can be taken back", async ({ anna, ben }) => {
    await anna.click(`${card("golden-hour")} .heart`);
    await shows(ben, likes("golden-hour"), "1");
    await shows(anna, likes("golden-hour"), "1");
    await ben.click(`${card("golden-hour")} .heart`);
    await shows(anna, likes("golden-hour"), "2");
    await ben.click(`${card("golden-hour")} .heart`);
    await shows(anna, likes("golden-hour"), "1");
    await shows(ben, likes("golden-hour"), "1");
    const pressed = await anna.getAttribute(`${card("golden-hour")} .heart`, "aria-pressed");
    if (pressed !== "true") throw new Error("Anna's heart should stay pressed");
  }],

  ["a comment crosses, as text and nothing else", async ({ anna, ben }) => {
    const text = "What a light! <img src=x onerror=alert(1)> & “ü”";
    await say(ben, "golden-hour", text);
    await commentsHold(anna, "golden-hour", text);
    await commentsHold(ben, "golden-hour", text);
    await shows(anna, `${card("golden-hour")} .talk .number`, "1");
    if (await anna.locator(".comments img").count()) throw new Error("a comment became an element");
  }],

  ["a second tab is the same guest, with the same heart", async (world) => {
    const tab = await world.open(`/?room=${world.room}`, { context: world.anna.context() });
    await live(tab);
    await until("the heart should be pressed", async () => same(await tab.getAttribute(`${card("golden-hour")} .heart`, "aria-pressed"), "true"));
    await until("two guests on three screens", async () => same(await world.ben.getAttribute("#guests-pill", "title"), "2 guests on 3 screens"));
    await tab.close();
    await until("two guests on two screens", async () => same(await world.ben.getAttribute("#guests-pill", "title"), "2 guests on 2 screens"), 30_000);
  }],

  ["a reload brings likes and comments back", async ({ anna }) => {
    await anna.reload();
    await live(anna);
    await shows(anna, likes("golden-hour"), "1");
    await commentsHold(anna, "golden-hour", "What a light!");
    await shows(anna, "#guests", "2", 30_000);
  }],

  ["a MessagePack guest shares the room with the JSON ones", async (world) => {
    const carla = await world.open(`/?room=${world.room}&codec=msgpack`, { node: 1 });
    await live(carla);
    await shows(world.anna, "#guests", "3");
    await shows(carla, likes("golden-hour"), "1");
    await commentsHold(carla, "golden-hour", "What a light!");
    await carla.click(`${card("cheers")} .heart`);
    await shows(world.anna, likes("cheers"), "1");
    await say(carla, "cheers", "Santé 🥂");
    await commentsHold(world.anna, "cheers", "Santé 🥂");
    await carla.context().close();
  }],

  ["the keyboard alone reaches a heart", async ({ ben }) => {
    await ben.locator(`${card("the-cake")} .heart`).focus();
    await ben.keyboard.press("Space");
    await shows(ben, likes("the-cake"), "1");
  }],

  ["the badge explains the connection", async ({ anna }) => {
    await anna.click("#badge summary");
    const facts = await anna.locator("#badge-facts").textContent();
    for (const wanted of ["connected", "roomcast.v1.json", "guest"]) if (!facts.includes(wanted)) throw new Error(`no “${wanted}” in ${facts}`);
    await anna.click("#badge summary");
  }],

  ["a wrong token opens nothing and says why", async (world) => {
    const page = await world.open(`/?room=${world.room}`);
    await page.fill("#admin-token", "no-token-at-all");
    await page.click("#admin-form button");
    await until("the strip should say why", async () => { const text = await textOf(page, "#admin-note"); return text.startsWith("The hub refused") || text; });
    if (await page.locator(".compose").count()) throw new Error("the strip opened");
    await page.context().close();
  }],

  ["the dashboard shows the nodes", async (world) => {
    world.board = await world.open(`/admin#token=${encodeURIComponent(world.adminToken)}`, { node: 1 });
    await world.board.locator("#board").waitFor({ state: "visible" });
    if (world.board.url().includes("token")) throw new Error("the token stayed in the address");
    const distinct = new Set(world.urls).size;
    await until(`at least ${distinct} nodes in the table`, async () => { const rows = await world.board.locator("#nodes tbody tr").count(); return rows >= distinct || rows; });
    await until("live nodes", async () => same(await textOf(world.board, "#nodes tbody tr td"), "live"));
    await until("connections counted", async () => { const text = await textOf(world.board, ".figure"); return Number(text.replaceAll(",", "")) >= 3 || text; });
    await until("the banner should not say stale", async () => { const text = await textOf(world.board, "#banner-text"); return !/stale for|waiting|Connecting/.test(text) || text; });
  }],

  ["a notification goes from strip to dashboard, and back", async (world) => {
    const host = await world.open(`/?room=${world.room}#token=${encodeURIComponent(world.adminToken)}`);
    world.host = host;
    await host.locator("#admin-body .compose").waitFor({ state: "visible" });
    if (host.url().includes("token")) throw new Error("the token stayed in the address");
    const stamp = Date.now().toString(36);
    await notify(host, `Cake at ten ${stamp}`, "Kitchen is ready.");
    await noticed(world.board, `Cake at ten ${stamp}`);
    await noticed(host, `Cake at ten ${stamp}`);
    await notify(world.board, `Understood ${stamp}`, "");
    await noticed(host, `Understood ${stamp}`);
    if (await world.ben.locator(".notices").count()) throw new Error("a guest sees admin notifications");
  }],

  ["signing out closes the board and forgets the token", async (world) => {
    await world.picture(world.host, "wall-admin", { fullPage: true });
    await world.picture(world.board, "dashboard-e2e", { fullPage: true });
    await world.board.click("#sign-out");
    await world.board.locator("#gate").waitFor({ state: "visible" });
    await world.board.reload();
    await world.board.locator("#gate").waitFor({ state: "visible" });
  }],

  ["both pages fit a narrow window", async (world) => {
    const narrow = { viewport: { width: 360, height: 740 } };
    const wall = await world.open(`/?room=${world.room}`, narrow);
    await live(wall);
    await fits(wall, "the wall");
    const board = await world.open(`/admin#token=${encodeURIComponent(world.adminToken)}`, narrow);
    await board.locator("#board").waitFor({ state: "visible" });
    await board.locator("#nodes tbody tr").first().waitFor();
    await fits(board, "the dashboard");
  }],
];
