// The page in Debian's Chromium, from a server that knows nothing but its files.
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { after, before } from "node:test";
import { chromium } from "playwright-core";
import { Page } from "./page.mjs";
import { serve } from "./server.mjs";

export const SEED = "sha256:913a151e52559d4b4ceb6d49c82bc207b3add19de3891688a60fe74d9c54deed";
export const BASE = "docker.io/library/python:3.12-slim-bookworm";
export const DIGEST = `sha256:${"0123456789abcdef".repeat(4)}`;

/** Starts server and browser for the tests of one file; `open()` gives a page. */
export function withBrowser(headers, api) {
  const state = {};
  before(async () => {
    const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
    assert.ok(existsSync(executablePath), `no browser at ${executablePath}: apt-get install chromium, or set CHROMIUM`);
    state.server = await serve(headers, api);
    state.browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
  });
  after(async () => {
    await state.browser?.close();
    await state.server?.close();
  });
  return {
    get server() {
      return state.server;
    },
    /** A page of its own; closed, and its console looked through, when the test ends. */
    async open(t, { fragment = "", quiet = true, ...options } = {}) {
      const context = await state.browser.newContext({ viewport: { width: 1200, height: 900 }, ...options });
      // A busy machine is no fault of the page.
      context.setDefaultTimeout(120_000);
      const page = await context.newPage();
      const noise = [];
      const requests = [];
      page.on("console", (message) => ["error", "warning"].includes(message.type()) && noise.push(message.text()));
      page.on("pageerror", (error) => noise.push(String(error)));
      page.on("request", (request) => requests.push(request.url()));
      t.after(async () => {
        await context.close();
        if (quiet) assert.deepEqual(noise, [], "the console is quiet");
      });
      await page.goto(state.server.url + fragment);
      return Object.assign(new Page(page), { noise, requests, context });
    },
  };
}
