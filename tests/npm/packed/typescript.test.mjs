// TypeScript programs compile strictly against the packed types, and run.

import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";

import { nodes, tool } from "../installed.mjs";
import { quickstart, run } from "./package.mjs";

const STRICT = "--ignoreConfig --strict --exactOptionalPropertyTypes --noUncheckedIndexedAccess --target es2022 --types node";

async function tsc(...words) {
  const types = ["--typeRoots", join(tool("@types/node"), "..")];
  const compiler = join(tool("typescript"), "bin/tsc");
  return run(process.execPath, compiler, ...STRICT.split(" "), ...types, ...words);
}

test("the example as TypeScript has the hash of the command", async () => {
  const { recipe_hash, image_hash, digest } = await quickstart();
  await tsc("--module", "nodenext", "--outDir", "compiled", "seed.mts", "seed.cts");
  for (const [version, node] of nodes()) {
    for (const file of ["compiled/seed.mjs", "compiled/seed.cjs"]) {
      assert.equal(await run(node, file, digest), `${image_hash}\n`, `${file} in Node.js ${version}`);
      assert.equal(await run(node, file), `${recipe_hash}\n`, `${file} in Node.js ${version}`);
    }
  }
  // New versions run it as it stands.
  const [, newest] = nodes().sort(([a], [b]) => a - b).at(-1);
  assert.equal(await run(newest, "seed.mts", digest), `${image_hash}\n`);
});

test("the example compiles for bundlers", async () => {
  await tsc("--module", "esnext", "--moduleResolution", "bundler", "--lib", "es2022,dom", "--noEmit", "seed.mts");
});

test("a mistake does not compile", async () => {
  await assert.rejects(
    tsc("--module", "nodenext", "--noEmit", "mistake.mts"),
    /mistake\.mts\(3,.*TS2551.*pipInstal'.*pipInstall/,
  );
});
