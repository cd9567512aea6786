// The page shows the hashes that the command prints.

import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import { PYTHON, hashes } from "../chalk.mjs";
import { folder } from "../cleanup.mjs";
import { connect, open, service } from "./open.mjs";

const EXAMPLE = join(import.meta.dirname, "../../../examples/quickstart/image.toml");

test("the example has the hash of the command, before and after its base is resolved", async (t) => {
  const page = await connect(t);
  assert.doesNotMatch(page.page.url(), /token/, "the token leaves the address");
  const { recipe_hash, image_hash, base } = await hashes(service.state, EXAMPLE);
  await page.hash("Recipe hash", recipe_hash);
  await page.role("button", { name: "Resolve base" }).click();
  await page.hash("Image hash", image_hash);
  assert.equal(await page.role("textbox", { name: `Digest of base ${PYTHON}` }).inputValue(), base.digest);
  await page.write("image.toml", readFileSync(EXAMPLE, "utf8"));
  await page.hash("Image hash", image_hash);
  assert.deepEqual(page.noise, [], "the console is quiet");
});

test("step keys and the plan are those of the command", async (t) => {
  const page = await connect(t);
  const { steps } = await hashes(service.state, EXAMPLE);
  await page.role("button", { name: "Resolve base" }).click();
  await page.role("region", { name: "Image hash" }).waitFor();
  const panel = await page.output(/^Steps/);
  for (const { key } of steps) await panel.getByText(key).waitFor();
  assert.equal(await panel.getByRole("listitem").count(), steps.length);
});

test("a mistake is told in the words of the command", async (t) => {
  const page = await open(t);
  const text = '[image]\ndebian_slim = "3.12"\n\n[[step]]\npip_install = ["requests", "pandas >= "]\n';
  await page.write("image.toml", text);
  const problem = page.role("region", { name: "Problems" }).getByRole("listitem");
  await problem.filter({ hasText: "line 5" }).waitFor();
  const shown = await problem.innerText();
  const said = await refusal(text);
  const reason = /`pandas >= ` is not a requirement: [^;\n]+/.exec(said)?.[0];
  assert.ok(reason && shown.includes(reason), `${shown}\n${said}`);
});

/** What the command says of a declaration that it refuses. */
async function refusal(text) {
  const file = join(folder("refused"), "image.toml");
  writeFileSync(file, text);
  try {
    await service.chalk("compute", "image", "hash", file, "--offline");
  } catch ({ code, stderr }) {
    assert.equal(code, 2);
    return stderr;
  }
  return assert.fail("the command took it");
}
