// Made-up specs: the packed package gives the hashes that Rust gave, and refuses in the same words.

import assert from "node:assert/strict";
import { createReadStream } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { test } from "node:test";

import { install } from "./installed.mjs";
import { variable } from "./variable.mjs";

const { Image } = createRequire(join(install(), "random.cjs"))("chalkcompute");

/** What the package makes of a text, in the form of the lines that Rust wrote. */
async function judge(spec) {
  try {
    const resolved = await Image.fromJSON(spec).resolve();
    return {
      spec,
      canonical: resolved.canonical,
      recipe_hash: resolved.recipeHash,
      image_hash: resolved.imageHash,
      keys: resolved.stepKeys(),
    };
  } catch (error) {
    if (error.name !== "ChalkError") throw error;
    // The package names a file where the text itself is all that Rust was given.
    return { spec, refused: error.message.replace(/^spec\.json:/, "") };
  }
}

test("10,000 made-up specs have the same hashes in Rust and in WebAssembly", async (t) => {
  const lines = createInterface({ input: createReadStream(variable("CHALK_TEST_SPECS"), "utf8") });
  const counts = { sound: 0, refused: 0, pinned: 0, steps: 0 };
  let seed;
  for await (const line of lines) {
    const expected = JSON.parse(line);
    if (expected.seed !== undefined) {
      ({ seed } = expected);
      t.diagnostic(`seed: ${seed}`);
      continue;
    }
    assert.deepEqual(await judge(expected.spec), expected, `seed ${seed}, ${expected.spec}`);
    counts[expected.refused === undefined ? "sound" : "refused"] += 1;
    counts.pinned += expected.image_hash ? 1 : 0;
    counts.steps += expected.keys?.length ?? 0;
  }
  t.diagnostic(`${counts.sound} sound, ${counts.pinned} of them pinned, with ${counts.steps} steps; ${counts.refused} refused`);
  assert.equal(counts.sound, 10_000);
  // Refusals are some, not most: else the specs are not what people write.
  assert.ok(counts.refused > 500 && counts.refused < 8_000, `${counts.refused} refused`);
  assert.ok(counts.pinned > 1_000 && counts.steps > 10_000);
});
