// A page in Debian's Chromium, found by roles as users of a screen reader find it.
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { after, before } from "node:test";
import { chromium } from "playwright-core";
import { serve } from "./server.mjs";

export const SEED = "sha256:913a151e52559d4b4ceb6d49c82bc207b3add19de3891688a60fe74d9c54deed";
export const BASE = "docker.io/library/python:3.12-slim-bookworm";
export const DIGEST = `sha256:${"0123456789abcdef".repeat(4)}`;

const TEXTBOX = {
  JavaScript: "JavaScript that makes the image",
  "image.toml": "Text of image.toml",
  Dockerfile: "Text of the Dockerfile",
  "requirements.txt": "Text of requirements.txt",
};

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

class Page {
  constructor(page) {
    this.page = page;
  }

  role(...args) {
    return this.page.getByRole(...args);
  }

  editor(tab) {
    return this.role("textbox", { name: TEXTBOX[tab] });
  }

  /** Shows a tab and replaces its text. */
  async write(tab, text) {
    await this.role("tab", { name: tab, exact: true }).first().click();
    await this.editor(tab).focus();
    await this.page.keyboard.press("Control+A");
    await this.page.keyboard.press("Delete");
    await this.page.keyboard.insertText(text);
  }

  /** What stands in the editor, if it is short enough to be drawn whole. */
  async text(tab) {
    return (await this.editor(tab).locator(".cm-line").allTextContents()).join("\n");
  }

  get card() {
    return this.role("region", { name: /hash$/i });
  }

  /** Waits until this hash is shown. */
  async hash(kind, digest) {
    const card = this.role("region", { name: kind });
    await card.getByText(digest).waitFor({ timeout: 10_000 });
  }

  /** The hash that is shown, once one is. */
  async shownHash() {
    const digits = this.card.locator(".hash-value code");
    await digits.waitFor();
    return digits.innerText().then((text) => text.replace(/\s/g, ""));
  }

  async output(name) {
    const outputs = this.role("region", { name: "Spec" });
    await outputs.getByRole("tab", { name }).click();
    return outputs.getByRole("tabpanel");
  }

  problem(text) {
    return this.role("region", { name: "Problems" }).getByRole("listitem").filter({ hasText: text });
  }
}
