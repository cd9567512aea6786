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
].flatMap((words) => words.split(" "));

const PAGE = "--lib es2022,dom,dom.iterable";
// No types of pages: those of Node are enough for the package's own.
const NODE = `--lib es2022 --types node --typeRoots ${join(import.meta.dirname, "../node_modules/@types")}`;

for (const [module, resolution, libraries] of [
  ["nodenext", "nodenext", PAGE],
  ["esnext", "bundler", PAGE],
  ["nodenext", "nodenext", NODE],
]) {
  test(`types under moduleResolution ${resolution}, ${libraries.split(" --t")[0]}`, () => {
    const names = readdirSync(folder).filter((name) => libraries === PAGE || name !== "browser.ts");
    const files = names.map((name) => join(folder, name));
    const words = [...STRICT, ...libraries.split(" "), "--module", module, "--moduleResolution", resolution, ...files];
    try {
      execFileSync(process.execPath, [tsc, ...words], { encoding: "utf8" });
    } catch (error) {
      throw new Error(error.stdout || error.message);
    }
  });
}
