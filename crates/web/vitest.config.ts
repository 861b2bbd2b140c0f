// The sources, where a package would be: tests never meet two copies of the client.

import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

export default defineConfig({
  resolve: { alias: { "@roomcast/client/testing": fileURLToPath(new URL("testing/index.ts", import.meta.url)), "@roomcast/client/react": fileURLToPath(new URL("react/index.ts", import.meta.url)), "@roomcast/client": fileURLToPath(new URL("client/index.ts", import.meta.url)) } },
  test: { include: ["test/**/*.test.{ts,tsx}"] },
});
