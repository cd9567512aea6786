// The installed package, once for all tests, and what is expected of whatever loads it.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";

import { chalk, hashes, PYTHON } from "../chalk.mjs";
import { folder } from "../cleanup.mjs";
import { install } from "../installed.mjs";

/** Where the package is installed. */
export const dir = install();

/** Runs a program in that folder and gives its standard output. */
export async function run(program, ...words) {
  try {
    const { stdout } = await promisify(execFile)(program, words, { cwd: dir });
    return stdout;
  } catch ({ code, stdout, stderr }) {
    // Node.js quotes the line where it stopped, which in a bundle may be the whole engine.
    const said = `${stdout}\n${stderr}`.replaceAll(/^(.{500}).+$/gm, "$1…").trim();
    throw new Error(`${program} ${words.join(" ")} ended with ${code}:\n${said}`);
  }
}

/** How many vectors each file has, if it holds as many as it is known to. */
export function checkCounts(counts) {
  const expected = {};
  for (const name of Object.keys(counts)) {
    const { groups } = JSON.parse(readFileSync(join(dir, "vectors", `${name}.json`), "utf8"));
    expected[name] = groups.reduce((sum, { vectors }) => sum + vectors.length, 0);
  }
  assert.deepEqual(counts, expected);
  assert.equal(Object.keys(counts).length, 8);
}

let printed;

/** What the command prints for the quickstart example, with the digest of a base that it knows. */
export function quickstart() {
  printed ??= (async () => {
    const state = folder("state");
    const rootfs = join(folder("rootfs"), "rootfs.tar");
    const tree = folder("tree");
    mkdirSync(join(tree, "etc"));
    await run("tar", "--create", "--file", rootfs, "--directory", tree, ".");
    await chalk(state, "compute", "image", "import", rootfs, "--as", PYTHON);
    const example = join(import.meta.dirname, "../../../examples/quickstart/image.toml");
    const { recipe_hash, image_hash, base } = await hashes(state, example);
    assert.ok(image_hash, "the base is imported");
    return { recipe_hash, image_hash, digest: base.digest };
  })();
  return printed;
}
