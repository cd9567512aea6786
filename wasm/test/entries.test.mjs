// How the package is loaded: both module systems of Node, slim, several copies, a broken file.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";

const require = createRequire(import.meta.url);
const dist = new URL("../dist/", import.meta.url);
const dir = mkdtempSync(join(tmpdir(), "chalk-"));
after(() => rmSync(dir, { recursive: true, force: true }));

const EMPTY = "sha256:79c6218474b19dfa177eefa80f2c072000c9b116bfe429423716a50cd735a77c";

test("import and require give the same classes", async () => {
  const imported = await import("chalkcompute");
  const required = require("chalkcompute");
  assert.equal(imported.Image, required.Image);
  assert.equal(imported.ChalkError, required.ChalkError);
  assert.equal(await required.Image.scratch().hash(), EMPTY);
  const slim = await import("chalkcompute/slim");
  assert.equal(slim.Image, imported.Image);
  assert.deepEqual(Object.keys(imported).filter((name) => name !== "default").sort(), Object.keys(required).sort());
});

test("the WebAssembly file can be asked for", () => {
  const file = require.resolve("chalkcompute/chalk.wasm");
  assert.equal(readFileSync(file).subarray(0, 4).toString("latin1"), "\0asm");
  assert.equal(require("chalkcompute/package.json").name, "chalkcompute");
});

/** Runs a program with a copy of the package of its own. */
function run(name, program, prepare = () => {}) {
  const copy = join(dir, name);
  cpSync(dist, copy, { recursive: true });
  prepare(copy);
  writeFileSync(join(copy, "program.mjs"), program);
  return execFileSync(process.execPath, [join(copy, "program.mjs")], { encoding: "utf8", stdio: "pipe" });
}

test("slim waits to be initialised", () => {
  const program = `
    import { readFileSync } from "node:fs";
    import { Image, init, initSync } from "./node-slim.cjs";
    try { Image.scratch(); } catch (error) { console.log(error.name, error.code); }
    await init(new Uint8Array(4)).catch((error) => console.log(error.name, error.code));
    await init(new Response("nothing", { status: 404 })).catch((error) => console.log(error.message));
    const page = new Response("<html>", { headers: { "content-type": "text/html" } });
    await init(page).catch((error) => console.log(error.message));
    const wasm = readFileSync(new URL("./chalk.wasm", import.meta.url));
    const response = new Response(wasm, { headers: { "content-type": "application/octet-stream" } });
    await Promise.all([init(response), init("http://nowhere.invalid")]);
    initSync(wasm);
    console.log(await Image.scratch().hash());
  `;
  assert.deepEqual(run("slim", program).trim().split("\n"), [
    "ChalkError not-initialised",
    "ChalkError engine",
    "chalk.wasm cannot be loaded from the response: the server answered 404; serve the file beside the script, or use chalkcompute/slim with an address of your own",
    "chalk.wasm cannot be loaded from the response: the server answered with text/html, not WebAssembly; serve the file beside the script, or use chalkcompute/slim with an address of your own",
    EMPTY,
  ]);
});

test("every way to initialise", () => {
  for (const [name, source] of Object.entries({
    bytes: "wasm",
    module: "new WebAssembly.Module(wasm)",
    response: 'new Response(wasm, { headers: { "content-type": "application/wasm" } })',
    promise: "Promise.resolve(new Response(wasm))",
    address: "`data:application/wasm;base64,${wasm.toString('base64')}`",
  })) {
    const program = `
      import { readFileSync } from "node:fs";
      import { Image, init } from "./node-slim.cjs";
      const wasm = readFileSync(new URL("./chalk.wasm", import.meta.url));
      await init(${source});
      console.log(await Image.scratch().hash());
    `;
    assert.equal(run(name, program).trim(), EMPTY, name);
  }
});

test("the build for browsers, in Node", () => {
  const program = `
    import { readFileSync } from "node:fs";
    import { Image, initSync } from "./slim.js";
    initSync(readFileSync(new URL("./chalk.wasm", import.meta.url)));
    console.log(await Image.scratch().hash());
    const text = Image.scratch().addLocalFile("the text itself", "/x", { strategy: "copy" });
    const same = Image.scratch().addLocalFile({ text: "the text itself" }, "/x", { strategy: "copy" });
    console.log(await text.hash() === await same.hash());
    try { Image.scratch().addLocalDir("src", "/x"); } catch (error) { console.log(error.message); }
    try { Image.fromFile("image.toml"); } catch (error) { console.log(error.message); }
    const big = new Blob([new Uint8Array(3_000_000)]);
    for (const body of [big, () => big.stream()]) {
      const image = Image.scratch().addLocalFile({ body, size: big.size }, "/x", { strategy: "copy" });
      console.log((await image.resolve()).steps[0].digest);
    }
  `;
  const zeros = `sha256:${createHash("sha256").update(new Uint8Array(3_000_000)).digest("hex")}`;
  const lines = run("browser", program, (copy) => writeFileSync(join(copy, "package.json"), '{"type":"module"}')).trim().split("\n");
  assert.deepEqual(lines.slice(0, 4), [
    EMPTY,
    "true",
    "call 2: addLocalDir.src: a browser cannot open a directory by its path; pass what the user chose or dropped",
    "call 1: fromFile: a browser has no disk; read the file and use fromDeclaration",
  ]);
  assert.deepEqual(lines.slice(4), [zeros, zeros]);
});

test("two copies side by side", () => {
  const program = `
    import { Image as One, diff } from "./node.cjs";
    import { createRequire } from "node:module";
    const { Image: Two } = createRequire(import.meta.url)("./second/node.cjs");
    console.log(One === Two, await One.scratch().hash() === await Two.scratch().hash());
    // An image of another copy is taken by its spec.
    console.log((await diff(One.scratch(), Two.scratch().toJSON())).equal);
  `;
  const output = run("two", program, (copy) => cpSync(dist, join(copy, "second"), { recursive: true }));
  assert.equal(output, "false true\ntrue\n");
});

test("a missing or damaged WebAssembly file is told", () => {
  const program = 'try { await import("./node.cjs"); } catch (error) { console.log(error.name, error.code, error.message); }';
  assert.match(run("missing", program, (copy) => rmSync(join(copy, "chalk.wasm"))), /^ChalkError engine chalk\.wasm is not beside the script/);
  const damaged = run("damaged", program, (copy) => writeFileSync(join(copy, "chalk.wasm"), "\0asm"));
  assert.match(damaged, /^ChalkError engine chalk\.wasm cannot be started/);
});
