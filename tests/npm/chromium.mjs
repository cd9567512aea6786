// Debian's Chromium, started once for a suite.

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { after } from "node:test";

import { chromium } from "playwright-core";

let browser;

after(() => browser?.close());

/** A page of a context of its own, closed when the test ends. Noise is what its console warned of. */
export async function openPage(t, options = {}) {
  const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
  assert.ok(existsSync(executablePath), `no browser at ${executablePath}: apt-get install chromium, or set CHROMIUM`);
  browser ??= await chromium.launch({ executablePath, args: ["--no-sandbox"] });
  const context = await browser.newContext(options);
  // A busy machine is no fault of the page.
  context.setDefaultTimeout(120_000);
  t.after(() => context.close());
  const page = await context.newPage();
  const noise = [];
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && noise.push(message.text()));
  page.on("pageerror", (error) => noise.push(String(error)));
  return { context, page, noise };
}
