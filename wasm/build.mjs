// Builds `dist` from `js`, and from `js/generated`, which `cargo xtask wasm` fills.

import { execFileSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";

import { build } from "esbuild";
import { rollup } from "rollup";
import { dts } from "rollup-plugin-dts";

import { writeWireTypes } from "./wire.mjs";

process.chdir(import.meta.dirname);

/** `node.cjs` requires `node-slim.cjs`, so that a program that uses both has one engine. */
const sharedInNode = {
  name: "shared-in-node",
  setup(build) {
    build.onResolve({ filter: /^\.\/node-slim\.js$/ }, () => ({
      path: "./node-slim.cjs",
      external: true,
    }));
  },
};

const generated = (name) => `js/generated/${name}`;
for (const name of ["engine.js", "engine.d.ts", "chalk.wasm", "schema.json"]) {
  if (!existsSync(generated(name))) {
    console.error(`${generated(name)} is missing: run \`cargo xtask wasm\``);
    process.exit(1);
  }
}
rmSync("dist", { recursive: true, force: true });
mkdirSync("dist");
await writeWireTypes(generated("schema.json"), generated("wire.ts"));
await scripts();
await types();
copyFileSync(generated("chalk.wasm"), "dist/chalk.wasm");
// Packed with the package, which lies below what they are for.
for (const licence of ["LICENSE-APACHE", "LICENSE-MIT"]) copyFileSync(`../${licence}`, licence);
esmWrapper("node");
esmWrapper("node-slim");

/** Browsers share one copy of the code between both entries, and so does Node. */
async function scripts() {
  const common = { bundle: true, target: "es2022", logLevel: "warning", charset: "utf8" };
  await build({
    ...common,
    entryPoints: ["js/entry/index.ts", "js/entry/slim.ts"],
    outdir: "dist",
    format: "esm",
    platform: "neutral",
    splitting: true,
    chunkNames: "core",
  });
  await build({
    ...common,
    entryPoints: ["js/entry/node.ts", "js/entry/node-slim.ts"],
    outdir: "dist",
    outExtension: { ".js": ".cjs" },
    format: "cjs",
    platform: "node",
    target: "node20",
    plugins: [sharedInNode],
  });
}

/**
 * ES modules of Node are handed the CommonJS copy: a program whose parts load the package both ways
 * then has one `Image`, not two.
 */
function esmWrapper(name) {
  const names = Object.keys(createRequire(import.meta.url)(`./dist/${name}.cjs`)).sort();
  writeFileSync(`dist/${name}.js`, `export { ${names.join(", ")} } from "./${name}.cjs";\n`);
}

/** One file of types for each entry, and the same again for CommonJS. */
async function types() {
  rmSync("build", { recursive: true, force: true });
  execFileSync(process.execPath, ["node_modules/typescript/bin/tsc", "-p", "."], { stdio: "inherit" });
  copyFileSync(generated("engine.d.ts"), "build/types/generated/engine.d.ts");
  const bundle = await rollup({
    input: { index: "build/types/api.d.ts", slim: "build/types/entry/slim.d.ts" },
    plugins: [dts()],
  });
  await bundle.write({ dir: "dist", entryFileNames: "[name].d.ts", chunkFileNames: "[name].d.ts" });
  await bundle.close();
  for (const name of ["index", "slim"]) {
    const text = readFileSync(`dist/${name}.d.ts`, "utf8");
    writeFileSync(`dist/${name}.d.cts`, text.replaceAll(/"\.\/(\w+)\.js"|'\.\/(\w+)\.js'/g, '"./$1$2.cjs"'));
  }
}
