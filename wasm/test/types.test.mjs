// Compiles the programs in `types/` against the built package, strictly. What must not compile says so
// by `@ts-expect-error`.

import { execFileSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { test } from "node:test";

const folder = join(import.meta.dirname, "types");
const tsc = createRequire(import.meta.url).resolve("typescript/bin/tsc");
const STRICT = [
  "--ignoreConfig",
  "--noEmit",
  "--strict",
  "--exactOptionalPropertyTypes",
  "--noUncheckedIndexedAccess",
  "--verbatimModuleSyntax",
  "--target es2022",
  "--lib es2022,dom,dom.iterable",
].flatMap((words) => words.split(" "));

for (const [module, resolution] of [["nodenext", "nodenext"], ["esnext", "bundler"]]) {
  test(`types under moduleResolution ${resolution}`, () => {
    const files = readdirSync(folder).map((name) => join(folder, name));
    const words = [...STRICT, "--module", module, "--moduleResolution", resolution, ...files];
    try {
      execFileSync(process.execPath, [tsc, ...words], { encoding: "utf8" });
    } catch (error) {
      throw new Error(error.stdout || error.message);
    }
  });
}
