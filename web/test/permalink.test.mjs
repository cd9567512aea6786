// Links carry the declaration, are never sent, and say what is wrong with them.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { deflateRawSync } from "node:zlib";
import { BASE, DIGEST, SEED, withBrowser } from "./browser.mjs";

const browser = withBrowser();
const links = JSON.parse(await readFile(new URL("links.json", import.meta.url)));

const link = (value) => `#v1=${deflateRawSync(typeof value === "string" ? value : JSON.stringify(value)).toString("base64url")}`;

test("a link brings back text, tab and digest, and no server sees it", async (t) => {
  const first = await browser.open(t);
  await first.context.grantPermissions(["clipboard-read", "clipboard-write"]);
  await first.write("image.toml", '[image]\ndebian_slim = "3.12"\n# ünïcödé 🖍️\n');
  await first.role("textbox", { name: `Digest of base ${BASE}` }).fill(DIGEST);
  await first.role("region", { name: "Image hash" }).waitFor();
  const hash = await first.shownHash();
  await first.role("button", { name: "Copy link" }).click();
  await first.page.getByText("The link is copied").waitFor();
  const url = await first.page.evaluate(() => navigator.clipboard.readText());
  const second = await browser.open(t, { fragment: new URL(url).hash });
  await second.hash("Image hash", hash);
  assert.match(await second.editor("image.toml").innerText(), /ünïcödé 🖍️/);
  assert.ok(browser.server.requests.every((request) => !request.includes("v1")), "the fragment stays here");
});

test("the address follows the text, so that a reload loses nothing", async (t) => {
  const page = await browser.open(t);
  await page.write("requirements.txt", "flask\n");
  await page.settled("flask\n");
  const hash = await page.shownHash();
  await page.page.reload();
  await page.hash("Recipe hash", hash);
  assert.match(await page.editor("requirements.txt").innerText(), /flask/);
});

test("links that were once given out open for ever", async (t) => {
  assert.ok(links.length >= 4);
  for (const { fragment, tab, text, hash } of links) {
    const page = await browser.open(t, { fragment });
    await page.hash(hash.kind, hash.digest);
    assert.equal(await page.text(tab), text);
  }
});

test("damaged, foreign and newer links say so, and the example is shown", async (t) => {
  const whole = link({ tab: "toml", text: '[image]\nbase = "scratch"\n' });
  const cases = [
    [whole.slice(0, -8), "cut off or changed"],
    [`${whole.slice(0, 12)}%%%`, "characters that no link has"],
    ["#v1=", "cut off or changed"],
    [link("not json"), "no JSON"],
    [link({ tab: "perl", text: "" }), "no declaration"],
    [link({ tab: "toml", text: 3 }), "no declaration"],
    [link({ tab: "toml", text: "", pins: { a: "sha256:1" } }), "digests cannot be read"],
    [link(`{"tab":"toml","text":"${"a".repeat(9 * 1024 * 1024)}"}`), "more than 8 MiB"],
    ["#v2=abc", "has format v2"],
    ["#something", "does not begin as links of this page do"],
  ];
  for (const [fragment, words] of cases) {
    const page = await browser.open(t, { fragment });
    await page.role("alert").filter({ hasText: words }).waitFor().catch(() => assert.fail(`${fragment.slice(0, 40)}: expected ${words}`));
    await page.hash("Recipe hash", SEED);
  }
});

test("a token beside a link leaves the address at once, and the link works", async (t) => {
  const fragment = link({ tab: "toml", text: '[image]\nbase = "scratch"\n' }).replace("#", "#token=s3cret&");
  const page = await browser.open(t, { fragment, quiet: false });
  await page.card.getByText("no base").waitFor();
  assert.doesNotMatch(page.page.url(), /token|s3cret/);
  assert.match(page.page.url(), /#v1=/);
  const stored = await page.page.evaluate(() => [Object.values(sessionStorage), Object.values(localStorage)].map(String));
  assert.doesNotMatch(stored[1], /s3cret/);
  // This host is no service, and says 404.
  await page.role("alert").filter({ hasText: "Not connected" }).waitFor();
});
