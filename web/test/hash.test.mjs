// Typing shows the hash, and everything that comes with it.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { BASE, DIGEST, SEED, withBrowser } from "./browser.mjs";

const browser = withBrowser();
const vectors = JSON.parse(await readFile(new URL("../../tests/vectors/declarations.json", import.meta.url)));

test("the example of every way to declare has a hash", async (t) => {
  const page = await browser.open(t);
  await page.hash("Recipe hash", SEED);
  await page.role("tab", { name: "image.toml" }).first().click();
  await page.hash("Recipe hash", SEED);
  for (const tab of ["Dockerfile", "requirements.txt"]) {
    await page.role("tab", { name: tab, exact: true }).first().click();
    await page.card.getByText("base not pinned").waitFor();
    await assert.doesNotReject(page.shownHash());
  }
});

test("typing gives the hashes of the vectors", async (t) => {
  const page = await browser.open(t);
  let checked = 0;
  for (const { vectors: group } of vectors.groups) {
    for (const { file, files, text, recipe_hash: recipe, image_hash: image } of group) {
      const tab = /Dockerfile$/.test(file) ? "Dockerfile" : file;
      if (files || !["Dockerfile", "image.toml"].includes(tab)) continue;
      await page.write(tab, text);
      await (image ? page.hash("Image hash", image) : page.hash("Recipe hash", recipe));
      checked += 1;
    }
  }
  assert.ok(checked > 15, `only ${checked} vectors`);
});

test("JavaScript, image.toml and requirements.txt that mean the same have the same hash", async (t) => {
  const page = await browser.open(t);
  const requirements = "Pandas >=2.0\n# a comment\nrequests\n";
  await page.write("requirements.txt", requirements);
  await page.settled(requirements);
  const wanted = await page.shownHash();
  await page.write("image.toml", '[image]\ndebian_slim = "3.12"\n[[step]]\npip_install = ["requests", "pandas>=2.0"]\n');
  await page.hash("Recipe hash", wanted);
  await page.write("JavaScript", 'import * as chalk from "chalkcompute";\nchalk.Image.debianSlim().pipInstall("requests", "pandas>=2.0");\n');
  await page.hash("Recipe hash", wanted);
});

test("a digest makes the recipe hash an image hash", async (t) => {
  const page = await browser.open(t);
  await page.hash("Recipe hash", SEED);
  const field = page.role("textbox", { name: `Digest of base ${BASE}` });
  await field.fill("sha256:123");
  await page.role("alert").filter({ hasText: "A digest has 64 hex digits; these are 3." }).waitFor();
  await field.fill("g".repeat(64));
  await page.role("alert").filter({ hasText: "other characters" }).waitFor();
  await field.fill(`python@${DIGEST}`);
  await page.role("region", { name: "Image hash" }).waitFor();
  const canonical = await (await page.output("Canonical JSON")).locator("pre").innerText();
  assert.equal(await page.shownHash(), `sha256:${createHash("sha256").update(canonical).digest("hex")}`);
  assert.ok(canonical.includes(`"base":"${DIGEST}"`));
  await field.fill("");
  await page.hash("Recipe hash", SEED);
});

test("the canonical document is what is hashed, and the other forms say the same", async (t) => {
  const page = await browser.open(t);
  await page.hash("Recipe hash", SEED);
  const text = async (name) => (await page.output(name)).locator("pre").innerText();
  const canonical = await text("Canonical JSON");
  assert.equal(`sha256:${createHash("sha256").update(canonical).digest("hex")}`, SEED);
  const spec = JSON.parse(await text("Spec JSON"));
  assert.deepEqual(spec.steps.map(({ kind }) => kind), ["pip_install", "run"]);
  assert.match(await text("Dockerfile"), /^FROM docker\.io\/library\/python:3\.12-slim-bookworm/m);
  const toml = await text("image.toml");
  await page.write("image.toml", toml);
  await page.hash("Recipe hash", SEED);
});

test("steps have the keys of the vectors", async (t) => {
  const page = await browser.open(t);
  const { text, keys } = vectors.groups.flatMap((group) => group.vectors).find((one) => one.name === "image.toml" && one.keys.length === 2);
  await page.write("image.toml", text);
  const panel = await page.output(/^Steps/);
  for (const key of keys) await panel.getByText(key).waitFor();
});

test("a mistake is shown at its place, and a click goes there", async (t) => {
  const page = await browser.open(t);
  const cases = [
    ["JavaScript", 'import { Image } from "chalkcompute";\n\nImage.debianSlim()\n  .pipInstall("not a requirement!");\n', 4, "not a requirement"],
    ["JavaScript", "const a = 1;\nconst b = ;\n", 2, "SyntaxError"],
    ["JavaScript", "const a = 1;\nthrow new Error('on purpose');\n", 2, "on purpose"],
    ["JavaScript", 'import { x } from "node:fs";\n', 1, "node:fs"],
    ["image.toml", '[image]\ndebian_slim = "3.12"\n\n[[step]]\nrun_command = ["true"]\n', 5, "run_command"],
    ["image.toml", '[image\n', 1, ""],
    ["Dockerfile", "FROM scratch\nRUNN true\n", 2, "RUNN"],
    ["requirements.txt", "requests\n!!!\n", 2, "!!!"],
  ];
  for (const [tab, text, line, words] of cases) {
    await page.write(tab, text);
    const problem = page.problem(words).filter({ hasText: `line ${line}` });
    await problem.waitFor().catch(async () => {
      const shown = await page.role("region", { name: "Problems" }).innerText({ timeout: 1_000 });
      assert.fail(`${tab} ${JSON.stringify(text)}: expected line ${line} with ${words}, found ${shown}`);
    });
    await page.card.getByText("No hash").waitFor();
    await problem.getByRole("button").click();
    assert.ok(await page.editor(tab).evaluate((element) => element.getRootNode().activeElement === element), "the editor has the focus");
    assert.equal(await page.editor(tab).locator(".cm-activeLine").innerText(), text.split("\n")[line - 1]);
  }
});

test("several bases are pinned one by one", async (t) => {
  const page = await browser.open(t);
  await page.write("Dockerfile", "FROM golang:1.22 AS build\nRUN go version\nFROM debian:12\nCOPY --from=build /usr/local/go /go\n");
  await page.card.getByText("base not pinned").waitFor();
  await page.role("textbox", { name: /golang:1\.22/ }).fill(DIGEST);
  await page.card.getByText("base not pinned").waitFor();
  await page.role("textbox", { name: /debian:12/ }).fill(DIGEST.replace("0", "1"));
  await page.role("region", { name: "Image hash" }).waitFor();
});

test("what would rebuild: the first step, the leaf and what runs again", async (t) => {
  const page = await browser.open(t);
  await page.hash("Recipe hash", SEED);
  await page.role("button", { name: "Keep as A" }).click();
  const region = page.role("region", { name: "What would rebuild?" });
  await region.getByText("Equal: same hash, nothing would rebuild.").waitFor();
  const text = await page.text("JavaScript");
  await page.write("JavaScript", text.replace("git curl", "git jq"));
  await region.getByText("step 2 of 2 is the first that runs again, 1 step in all, 1 step reused").waitFor();
  const row = region.getByRole("row").filter({ hasText: "steps[1].command" });
  assert.deepEqual(await row.getByRole("cell").allInnerTexts(), [
    "apt-get update && apt-get install -y git curl",
    "apt-get update && apt-get install -y git jq",
  ]);
  const steps = await page.output(/^Steps/);
  assert.match(await steps.getByRole("listitem").nth(0).innerText(), /as in A/);
  assert.match(await steps.getByRole("listitem").nth(1).innerText(), /reruns/);
  await page.write("JavaScript", text.replace('.env({ PROJECT_ROOT: "/app" })', '.env({ PROJECT_ROOT: "/app" })\n  .runtimeEnv({ A: "1" })'));
  await region.getByText("but no step runs again").waitFor();
  await region.getByRole("button", { name: "Back to A" }).click();
  await region.getByText("Equal").waitFor();
  await page.role("textbox", { name: `Digest of base ${BASE}` }).fill(DIGEST);
  await page.role("region", { name: "Image hash" }).waitFor();
  await region.getByText("Equal").waitFor();
  await region.getByRole("button", { name: "Forget A" }).click();
  await region.getByText("Keep the spec as A").waitFor();
});

test("an answer that is older than the text is dropped", async (t) => {
  const page = await browser.open(t);
  await page.hash("Recipe hash", SEED);
  // Each edit ends the run of the code before it; only the last may show.
  for (let i = 0; i < 15; i += 1) {
    await page.write("JavaScript", `import { Image } from "chalkcompute";\nImage.base("a:${i}");\n`);
  }
  await page.role("textbox", { name: /library\/a:14$/ }).waitFor();
});

test("every edit of a 50-step spec has its hash; the time is told", async (t) => {
  const page = await browser.open(t);
  const steps = Array.from({ length: 49 }, (_, i) => `[[step]]\nrun_commands = ["echo ${i}"]\n`).join("\n");
  await page.write("image.toml", `[image]\ndebian_slim = "3.12"\n\n${steps}\n[[step]]\nrun_commands = ["echo "]`);
  await page.role("tab", { name: "Steps 50" }).waitFor();
  for (let i = 0; i < 2; i += 1) await page.page.keyboard.press("ArrowLeft");
  await page.page.evaluate(() => {
    const content = document.querySelector(".editor").shadowRoot.querySelector(".cm-content");
    const times = [];
    let began = 0;
    content.addEventListener("beforeinput", () => (began = performance.now()), { capture: true });
    const value = document.querySelector(".hash-value");
    // On a busy machine it says in between that it computes.
    const told = () => value.querySelector("code") && times.push(performance.now() - began);
    new MutationObserver(told).observe(value, { childList: true });
    globalThis.times = times;
  });
  for (let i = 1; i <= 25; i += 1) {
    await page.page.keyboard.type("x");
    await page.page.waitForFunction((count) => globalThis.times.length === count, i);
  }
  const times = (await page.page.evaluate(() => globalThis.times)).sort((a, b) => a - b);
  t.diagnostic(`from key to hash: median ${times[12].toFixed(1)} ms, worst ${times.at(-1).toFixed(1)} ms`);
  await (await page.output(/^Steps/)).getByText(`echo ${"x".repeat(25)}`).waitFor();
});
