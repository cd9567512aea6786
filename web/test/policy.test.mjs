// Strict policy, no third parties, and plain words where the engine cannot run.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { SEED, withBrowser } from "./browser.mjs";

/** Policies by path, besides those in the documents. */
let policyOf = () => undefined;
const browser = withBrowser((path) => {
  const policy = policyOf(path);
  return policy ? { "content-security-policy": policy } : {};
});

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

test("the page works under the headers that the service sends", async (t) => {
  const source = await readFile(new URL("../../service/src/http/page.rs", import.meta.url), "utf8");
  const policy = (name) => new RegExp(`const ${name}: &str = "([^"]+)"`).exec(source)?.[1] ?? assert.fail(`no ${name}`);
  policyOf = (path) => policy(path === "/sandbox.html" ? "SANDBOX_POLICY" : "PAGE_POLICY");
  t.after(() => (policyOf = () => undefined));
  const page = await browser.open(t);
  await page.hash("Recipe hash", SEED);
  await page.write("JavaScript", 'import { Image } from "chalkcompute";\nImage.scratch();\n');
  await page.card.getByText("no base").waitFor();
});

test("where WebAssembly is blocked, the page says so and what to do", async (t) => {
  policyOf = (path) => (path.endsWith(".js") ? "script-src 'self'" : undefined);
  t.after(() => (policyOf = () => undefined));
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
