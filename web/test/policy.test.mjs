// Strict policy, no third parties, and plain words where the engine cannot run.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { SEED, withBrowser } from "./browser.mjs";

let blocked = false;
const browser = withBrowser((path) => (blocked && path.endsWith(".js") ? { "content-security-policy": "script-src 'self'" } : {}));

test("the page asks nobody but its own host", async (t) => {
  const page = await browser.open(t);
  await page.hash("Recipe hash", SEED);
  await page.write("JavaScript", "const a = ;\n");
  await page.problem("SyntaxError").waitFor();
  const foreign = page.requests.filter((url) => !url.startsWith(browser.server.url) && !/^(blob|data):/.test(url));
  assert.deepEqual(foreign, []);
});

test("neither document allows inline code or styles", async () => {
  for (const name of ["index.html", "sandbox.html"]) {
    const html = await readFile(new URL(`../dist/${name}`, import.meta.url), "utf8");
    const policy = /http-equiv="Content-Security-Policy"\s+content="([^"]+)"/.exec(html)?.[1] ?? "";
    assert.match(policy, /^default-src 'none';/);
    assert.doesNotMatch(policy, /unsafe-inline|'unsafe-eval'|\*|https?:/);
  }
});

test("where WebAssembly is blocked, the page says so and what to do", async (t) => {
  blocked = true;
  t.after(() => (blocked = false));
  const page = await browser.open(t, { quiet: false });
  const alert = page.role("alert").filter({ hasText: "chalk.wasm cannot be started" });
  await alert.waitFor();
  assert.match(await alert.innerText(), /wasm-unsafe-eval/);
  await page.card.getByText("The hash engine does not run.").waitFor();
});

test("where the engine's file is missing, the page says so", async (t) => {
  const page = await browser.open(t, { quiet: false });
  await page.hash("Recipe hash", SEED);
  await page.page.route("**/*.wasm", (route) => route.fulfill({ status: 404 }));
  await page.page.reload();
  await page.role("alert").filter({ hasText: "cannot be loaded" }).waitFor();
});
