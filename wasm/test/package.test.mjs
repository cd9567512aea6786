// What is packed: the files, and how tools and TypeScript see them.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { publint } from "publint";

const folder = join(import.meta.dirname, "..");
const out = mkdtempSync(join(tmpdir(), "chalk-"));
let packed;

before(() => {
  const words = ["pack", "--json", "--ignore-scripts", "--pack-destination", out];
  const output = execFileSync("npm", words, { cwd: folder, encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
  const parsed = JSON.parse(output);
  packed = Array.isArray(parsed) ? parsed[0] : Object.values(parsed)[0];
});

after(() => rmSync(out, { recursive: true, force: true }));

test("the files of the tarball", () => {
  assert.deepEqual(
    packed.files.map((file) => file.path).sort(),
    [
      "LICENSE-APACHE",
      "LICENSE-MIT",
      "README.md",
      "dist/chalk.wasm",
      "dist/core.js",
      "dist/index.d.cts",
      "dist/index.d.ts",
      "dist/index.js",
      "dist/node-slim.cjs",
      "dist/node-slim.js",
      "dist/node.cjs",
      "dist/node.js",
      "dist/slim.d.cts",
      "dist/slim.d.ts",
      "dist/slim.js",
      "package.json",
    ],
  );
});

test("nothing is needed to run it, and nothing evaluates text", () => {
  const { dependencies, scripts } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  assert.equal(dependencies, undefined);
  assert.equal(scripts.install ?? scripts.postinstall ?? scripts.prepare, undefined);
  for (const { path } of packed.files.filter((file) => /\.c?js$/.test(file.path))) {
    const text = readFileSync(join(folder, path), "utf8");
    assert.doesNotMatch(text, /\beval\s*\(|new Function\b/, path);
  }
});

const tool = (name, ...words) => {
  try {
    execFileSync(process.execPath, [join(folder, "node_modules", ...name), ...words], { cwd: folder, encoding: "utf8" });
  } catch (error) {
    throw new Error(error.stdout + error.stderr);
  }
};

test("publint finds nothing", async () => {
  const tarball = readFileSync(join(out, packed.filename));
  const pack = { tarball: tarball.buffer.slice(tarball.byteOffset, tarball.byteOffset + tarball.length) };
  const { messages } = await publint({ strict: true, pack });
  assert.deepEqual(messages, []);
});

test("TypeScript finds the types of every entry in every mode", () => {
  // Resolution of before Node 12.7 knows no entries beside the main one.
  tool(["@arethetypeswrong/cli/dist/index.js"], join(out, packed.filename), "--profile", "node16", "--exclude-entrypoints", "./chalk.wasm");
});
