// Runs all tests here. Against the build in `dist`, so build before.

import { spawnSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";

if (!existsSync(join(import.meta.dirname, "../dist/node.cjs"))) {
  console.error("there is no build: run `cargo xtask wasm`, or `npm run build` when only JavaScript changed");
  process.exit(1);
}
const tests = readdirSync(import.meta.dirname).filter((name) => name.endsWith(".test.mjs"));
const words = ["--test", "--test-reporter=spec", ...tests.map((name) => join(import.meta.dirname, name))];
process.exit(spawnSync(process.execPath, words, { stdio: "inherit" }).status ?? 1);
