// Debian's Chromium, driven by playwright-core. Nothing is downloaded; a missing browser is an error that names its package.

import { existsSync } from "node:fs";
import { chromium } from "playwright-core";

const FLAGS = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];

export async function launch() {
  const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
  if (!existsSync(executablePath)) throw new Error(`no Chromium at ${executablePath}: apt-get install chromium, or set CHROMIUM to its path`);
  // Without a sandbox only because tests often run as root, where Chromium refuses to start with one; the pages are our own.
  return chromium.launch({ executablePath, headless: true, chromiumSandbox: false, args: FLAGS });
}
