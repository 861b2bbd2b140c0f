// Runs the browser steps against the fake hub: proof of the pages and of the steps, not of any real hub.

import { ADMIN_TOKEN, startFakeHub } from "./fake-hub.mjs";
import { run } from "./run.mjs";

const hub = await startFakeHub();
try {
  await run({ urls: [hub.url, hub.url], adminToken: ADMIN_TOKEN, screenshots: process.env.SCREENSHOTS });
} catch (error) {
  console.error(`e2e: ${error.message}`);
  process.exitCode = 1;
} finally {
  await hub.stop();
}
