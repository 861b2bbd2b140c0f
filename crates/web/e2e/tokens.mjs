// Tokens that end while a page is open. They are signed here with the hub's own HMAC key, which `HMAC_KEY_FILE` names.

import { createHmac } from "node:crypto";
import { readFile } from "node:fs/promises";

const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");

export function sign(key, claims) {
  const text = `${part({ alg: "HS256", typ: "JWT" })}.${part(claims)}`;
  return `${text}.${createHmac("sha256", key).update(text).digest("base64url")}`;
}

export async function refreshed(world) {
  const key = (await readFile(world.hmacKeyFile, "utf8")).trim();
  const page = await world.open(`/?room=${world.wall}`);
  const token = (seconds) => sign(key, { sub: "member-1", role: "member", exp: Math.floor(Date.now() / 1_000) + seconds });
  await page.exposeFunction("tokenFor", token);

  // The client as any page would import it.
  const renewed = await page.evaluate(async (room) => {
    const { Roomcast } = await import("/client.js");
    const asked = [];
    const states = [];
    const rc = new Roomcast({ getToken: (why) => { asked.push(why); return globalThis.tokenFor(why === "expiring" ? 3_600 : 6); } });
    rc.on("state", ({ name }) => states.push(name));
    const held = rc.room(room);
    rc.connect();
    await held.ready();
    const first = rc.session.session;
    await new Promise((done) => setTimeout(done, 8_000));
    await held.like("the-cake");
    const ok = rc.session?.session === first;
    rc.close();
    return { asked, states, ok };
  }, world.wall);
  if (!renewed.ok || renewed.asked.join() !== "connect,expiring") throw new Error(`not renewed in band: ${JSON.stringify(renewed)}`);

  const anew = await page.evaluate(async (room) => {
    const { Roomcast } = await import("/client.js");
    const asked = [];
    const codes = [];
    // Nothing new at `expiring`: the hub closes with 4002, and the way back asks again.
    const rc = new Roomcast({ getToken: (why) => { asked.push(why); return why === "expiring" ? undefined : globalThis.tokenFor(why === "expired" ? 3_600 : 3); } });
    rc.on("state", (state) => { if (state.name === "reconnecting") codes.push(state.code); });
    const held = rc.room(room);
    rc.connect();
    await held.ready();
    const recovered = new Promise((done) => held.on("recovered", done));
    await Promise.race([recovered, new Promise((_, late) => setTimeout(() => late(new Error(`never came back: ${asked} ${codes}`)), 15_000))]);
    rc.close();
    return { asked, codes };
  }, world.wall);
  if (anew.codes[0] !== 4002 || anew.asked.at(-1) !== "expired") throw new Error(`not asked anew: ${JSON.stringify(anew)}`);
  await page.context().close();
}
