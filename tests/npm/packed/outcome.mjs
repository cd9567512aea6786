// What a page that loaded the package comes to.

import assert from "node:assert/strict";

import { openPage } from "../chromium.mjs";
import { checkCounts, quickstart } from "./package.mjs";

/** Opens a page and gives its outcome. */
export async function outcome(t, url) {
  const { page, noise } = await openPage(t);
  await page.goto(url);
  const found = await page.waitForFunction(() => globalThis.outcome, undefined, { timeout: 60_000 });
  return { found: await found.jsonValue(), noise };
}

/** Expects that the vectors hold on a page, and that the example's hash is the command's. */
export async function checkPage(t, url) {
  const { found, noise } = await outcome(t, url);
  assert.equal(found.error, undefined);
  checkCounts(found.counts);
  assert.equal(found.seed, (await quickstart()).recipe_hash);
  assert.deepEqual(noise, [], "the console is quiet");
}
