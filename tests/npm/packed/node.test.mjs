// In Node.js, the oldest that the package runs on and the newest.

import assert from "node:assert/strict";
import { test } from "node:test";

import { nodes } from "../installed.mjs";
import { checkCounts, quickstart, run } from "./package.mjs";

for (const [version, node] of nodes()) {
  test(`Node.js ${version} is what it says`, async () => {
    assert.match(await run(node, "--version"), new RegExp(`^v${version}\\.`));
  });

  for (const ending of ["mjs", "cjs"]) {
    test(`the vectors in Node.js ${version}, .${ending}`, async () => {
      checkCounts(JSON.parse(await run(node, `vectors.${ending}`)));
    });

    test(`the example in Node.js ${version}, .${ending}, has the hash of the command`, async () => {
      const { recipe_hash, image_hash, digest } = await quickstart();
      assert.equal(await run(node, `seed.${ending}`, digest), `${image_hash}\n`);
      assert.equal(await run(node, `seed.${ending}`), `${recipe_hash}\n`);
    });
  }

  test(`import and require give one Image in Node.js ${version}`, async () => {
    assert.deepEqual(JSON.parse(await run(node, "both.mjs")), [true, true, true]);
  });

  test(`nothing is evaluated from text in Node.js ${version}`, async () => {
    const words = ["--disallow-code-generation-from-strings", "vectors.mjs"];
    checkCounts(JSON.parse(await run(node, ...words)));
  });
}
