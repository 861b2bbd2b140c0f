// A way to a hub that can be cut, as a network is: what passed through it is gone, and nothing gets in until it is mended.

import { connect, createServer } from "node:net";

export async function relay(url) {
  const { hostname, port } = new URL(url);
  const pairs = new Set();
  let cut = false;
  const server = createServer((near) => {
    if (cut) return near.destroy();
    const far = connect(Number(port), hostname);
    const pair = [near, far];
    pairs.add(pair);
    const end = () => { pairs.delete(pair); near.destroy(); far.destroy(); };
    for (const side of pair) side.on("error", end).on("close", end);
    near.pipe(far).pipe(near);
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  const drop = () => { for (const pair of [...pairs]) for (const side of pair) side.destroy(); };
  return {
    // By a name that the hub's own pages have, so that its origin is allowed wherever `localhost` is.
    url: `http://127.0.0.1:${server.address().port}`,
    cut() { cut = true; drop(); },
    mend() { cut = false; },
    async close() { cut = true; drop(); await new Promise((done) => server.close(done)); },
  };
}
