// As bundles, by the bundlers' own rules for finding chalk.wasm.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { copyFileSync, cpSync, readFileSync, readdirSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { test } from "node:test";

import * as esbuild from "esbuild";
import * as vite from "vite";

import { nodes } from "../installed.mjs";
import { serve } from "../static.mjs";
import { checkPage } from "./outcome.mjs";
import { dir, run } from "./package.mjs";

const QUIET = { root: dir, configFile: false, logLevel: "warn" };

/** Expects one WebAssembly file in a folder: it is neither inlined nor there twice. */
function checkEngine(folder) {
  const files = readdirSync(join(dir, folder), { recursive: true }).filter((name) => name.endsWith(".wasm"));
  assert.equal(files.length, 1, String(files));
}

test("built by Vite", async (t) => {
  const outDir = "built-by-vite";
  await vite.build({ ...QUIET, build: { outDir, target: "es2022", rolldownOptions: { input: join(dir, "vite.html") } } });
  checkEngine(outDir);
  await checkPage(t, `${await serveWithVectors(outDir)}/vite.html`);
});

for (const exclude of [[], ["chalkcompute"]]) {
  test(`served by Vite while developing, bundled beforehand: ${exclude.length === 0}`, async (t) => {
    const server = await vite.createServer({
      ...QUIET,
      cacheDir: `.vite-${exclude}`,
      optimizeDeps: { entries: ["vite.html"], exclude },
      server: { host: "127.0.0.1", port: await freePort() },
    });
    t.after(() => server.close());
    await server.listen();
    await checkPage(t, new URL("vite.html", server.resolvedUrls.local[0]).href);
  });
}

test("built by esbuild, the engine by its loader for files", async (t) => {
  const outDir = "built-by-esbuild";
  await esbuild.build({
    absWorkingDir: dir,
    entryPoints: { esbuild: "bundled-slim.mjs" },
    bundle: true,
    format: "esm",
    loader: { ".wasm": "file" },
    minify: true,
    outdir: outDir,
  });
  checkEngine(outDir);
  copyFileSync(join(dir, "esbuild.html"), join(dir, outDir, "esbuild.html"));
  await checkPage(t, `${await serveWithVectors(outDir)}/esbuild.html`);
});

test("built by esbuild, the engine copied beside the script", async (t) => {
  const outDir = "copied-by-esbuild";
  await esbuild.build({
    absWorkingDir: dir,
    entryPoints: { esbuild: "bundled.mjs" },
    bundle: true,
    format: "esm",
    target: "es2022",
    outdir: outDir,
  });
  copyFileSync(join(dir, "node_modules/chalkcompute/dist/chalk.wasm"), join(dir, outDir, "chalk.wasm"));
  copyFileSync(join(dir, "esbuild.html"), join(dir, outDir, "esbuild.html"));
  await checkPage(t, `${await serveWithVectors(outDir)}/esbuild.html`);
});

test("one file for Node.js, with the engine in it", async () => {
  // In ES modules esbuild gives what was CommonJS no way to require Node's own modules.
  const banner = { js: 'import { createRequire } from "node:module"; const require = createRequire(import.meta.url);' };
  for (const [format, options] of [["cjs", {}], ["esm", { banner }]]) {
    const outfile = `one-file.bundle.${format === "esm" ? "mjs" : "cjs"}`;
    await esbuild.build({
      absWorkingDir: dir,
      entryPoints: ["one-file.mjs"],
      bundle: true,
      format,
      platform: "node",
      target: "node20",
      loader: { ".wasm": "binary" },
      outfile,
      ...options,
    });
    const digest = createHash("sha256").update(readFileSync(process.execPath)).digest("hex");
    for (const [version, node] of nodes()) {
      const printed = await run(node, outfile, process.execPath);
      assert.equal(printed, `sha256:${digest}\n`, `${outfile} in Node.js ${version}`);
    }
  }
});

/** A port that nobody listens on now. Vite takes the next one where somebody does by then. */
async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

/** Serves a built folder, with the vectors beside what was built. */
function serveWithVectors(folder) {
  cpSync(join(dir, "vectors"), join(dir, folder, "vectors"), { recursive: true });
  return serve(join(dir, folder));
}
