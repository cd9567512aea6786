// In a browser, from plain files and under a strict policy.

import assert from "node:assert/strict";
import { before, test } from "node:test";

import { POLICY, serve } from "../static.mjs";
import { checkPage, outcome } from "./outcome.mjs";
import { dir } from "./package.mjs";

let host;
let policy = POLICY;

before(async () => {
  host = await serve(dir, () => policy);
});

for (const name of ["plain", "plain-slim", "worker"]) {
  test(`${name}.html under ${POLICY}`, async (t) => {
    await checkPage(t, `${host}/${name}.html`);
  });
}

test("where the policy forbids WebAssembly, the error says so and what to do", async (t) => {
  policy = POLICY.replace(" 'wasm-unsafe-eval'", "");
  t.after(() => (policy = POLICY));
  for (const name of ["plain", "plain-slim"]) {
    const { found } = await outcome(t, `${host}/${name}.html`);
    assert.equal(found.code, "engine", JSON.stringify(found));
    assert.match(`${found.error} ${found.hint}`, /wasm-unsafe-eval/);
  }
});
