// The package's own speed and that of its peers, measured in one run on one machine. Prints JSON:
// `{ versions, rows: [{ name, ours, peer, ratio, aim, met, unit, note }] }`, medians everywhere.
//
//     node run.mjs <chalk binary> <chromium>
//
// `cargo xtask bench` builds all that it needs, runs it, and writes the table into the documentation.

import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { createReadStream, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

import { createSHA256 } from "hash-wasm";

import { inChromium } from "./chromium.mjs";

const [, , chalk, chromium] = process.argv;
const MIB = 1024 * 1024;
const dist = new URL("../dist/", import.meta.url);
const { Image } = await import(new URL("node.js", dist).href);
const wasm = readFileSync(new URL("chalk.wasm", dist));

const rows = [];
let browser;

/** One line of the table. `ratio` is ours by the peer's, in the direction that `better` says. */
function row(name, unit, ours, peer, { aim, better, note = "" }) {
  const ratio = peer === undefined ? undefined : ours / peer;
  const value = peer === undefined ? ours : ratio;
  const met = better === "less" ? value <= aim : value >= aim;
  rows.push({ name, unit, ours, peer, ratio, aim: `${better === "less" ? "≤" : "≥"} ${aim}`, met, note });
}

function median(values) {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
}

/** Milliseconds that `run` takes: the median of `rounds`, after one that does not count. */
async function time(rounds, run) {
  const times = [];
  for (let i = 0; i <= rounds; i += 1) {
    const start = performance.now();
    await run();
    if (i > 0) times.push(performance.now() - start);
  }
  return median(times);
}

const scratch = mkdtempSync(join(tmpdir(), "chalk-bench-"));
try {
  sizes();
  startUp();
  await smallSpecs();
  await digests();
  await bigFile();
  await manyFiles();
  if (chromium) await inBrowser();
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
const versions = {
  node: process.version,
  "hash-wasm": JSON.parse(
    readFileSync(new URL("node_modules/hash-wasm/package.json", import.meta.url), "utf8"),
  ).version,
  ...(browser && { Chromium: browser }),
};
console.log(JSON.stringify({ versions, rows }));

function sizes() {
  row("chalk.wasm, raw", "bytes", wasm.length, undefined, { aim: 350_000, better: "less" });
  const packed = gzipSync(wasm, { level: 9 }).length;
  row("chalk.wasm, gzip -9", "bytes", packed, undefined, { aim: 150_000, better: "less" });
}

/** From `import` to a package that answers, in processes of their own. */
function startUp() {
  const measured = (file, code) => {
    const script = join(scratch, file);
    writeFileSync(script, code);
    const times = Array.from({ length: 21 }, () =>
      Number(execFileSync(process.execPath, [script], { encoding: "utf8" })),
    );
    return median(times.slice(1));
  };
  const esm = JSON.stringify(new URL("node.js", dist).href);
  const cjs = JSON.stringify(fileURLToPath(new URL("node.cjs", dist)));
  const timed = (load) => `const t = performance.now(); ${load}; console.log(performance.now() - t);`;
  const note = "median of 20 processes, from before the import to after it";
  const aim = { aim: 5, better: "less", note };
  row("start in Node, ESM", "ms", measured("start.mjs", timed(`await import(${esm})`)), undefined, aim);
  row("start in Node, CommonJS", "ms", measured("start.cjs", timed(`require(${cjs})`)), undefined, aim);
}

async function smallSpecs() {
  let image = Image.base("alpine:3.20").workdir("/app");
  for (let i = 0; i < 20; i += 1) image = image.runCommands(`echo step ${i} && make -C /src part-${i}`);
  const COUNT = 2000;
  let serial = 0;
  const each = async (run) => {
    const ms = await time(9, async () => {
      for (let i = 0; i < COUNT; i += 1) await run();
    });
    return (ms / COUNT) * 1000;
  };
  const changed = await each(() => image.env({ SERIAL: String((serial += 1)) }).hash());
  row("hash of a 20-step spec, one value changed each time", "µs", changed, undefined, {
    aim: 20,
    better: "less",
    note: "one call, resolving, canonical JSON and SHA-256; nothing is remembered from the last time",
  });
  const again = await each(() => image.hash());
  row("hash of the same 20-step image again", "µs", again, undefined, { aim: 20, better: "less" });
}

async function digests() {
  const { Sha256, initSync } = await import(new URL("../js/generated/engine.js", import.meta.url).href);
  initSync({ module: wasm });
  const peer = await createSHA256();
  const bytes = new Uint8Array(16 * MIB).map((_, i) => i * 31);
  const speed = async (run) => 16 / ((await time(9, run)) / 1000);
  const ours = await speed(() => {
    const hasher = new Sha256();
    hasher.update(bytes);
    hasher.digest();
    hasher.free();
  });
  const theirs = await speed(() => {
    peer.init();
    peer.update(bytes);
    peer.digest();
  });
  row("SHA-256 in WebAssembly against hash-wasm", "MiB/s", ours, theirs, { aim: 1.3, better: "more" });
}

async function bigFile() {
  const file = join(scratch, "big");
  const piece = Buffer.alloc(MIB).map((_, i) => i * 7);
  writeFileSync(file, "");
  for (let i = 0; i < 256; i += 1) writeFileSync(file, piece, { flag: "a" });
  const speed = async (run) => 256 / ((await time(5, run)) / 1000);
  const image = Image.scratch().addLocalFile(file, "/big", { strategy: "copy" });
  const ours = await speed(() => image.hash());
  const web = await speed(() => crypto.subtle.digest("SHA-256", readFileSync(file)));
  const note = "file in the page cache";
  row("256 MB file in Node against WebCrypto of the whole file", "MiB/s", ours, web, {
    aim: 0.9,
    better: "more",
    note,
  });
  const streamed = await speed(async () => {
    const hash = createHash("sha256");
    for await (const part of createReadStream(file, { highWaterMark: MIB })) hash.update(part);
    hash.digest();
  });
  row("the same against a stream into node:crypto", "MiB/s", ours, streamed, { aim: 0.9, better: "more", note });
  rmSync(file);
}

async function manyFiles() {
  const folder = join(scratch, "many");
  for (let i = 0; i < 10_000; i += 1) {
    const dir = join(folder, `d${i % 100}`);
    if (i < 100) mkdirSync(dir, { recursive: true });
    writeFileSync(join(dir, `f${i}.txt`), `${i}\n`.repeat(300));
  }
  const declaration = join(scratch, "image.toml");
  const step = 'add_local_dir = { src = "many", dest = "/many", strategy = "copy" }';
  writeFileSync(declaration, `[image]\nbase = "scratch"\n\n[[step]]\n${step}\n`);
  const command = ["compute", "image", "hash", declaration, "--offline"];
  const native = await time(9, () => execFileSync(chalk, command));
  const script = join(scratch, "many.mjs");
  const entry = JSON.stringify(new URL("node.js", dist).href);
  const call = `Image.scratch().addLocalDir(${JSON.stringify(folder)}, "/many", { strategy: "copy" })`;
  writeFileSync(script, `import { Image } from ${entry};\nconsole.log(await ${call}.hash());\n`);
  const whole = await time(9, () => execFileSync(process.execPath, [script]));
  const a = execFileSync(chalk, command, { encoding: "utf8" });
  const b = execFileSync(process.execPath, [script], { encoding: "utf8" });
  if (a !== b) throw new Error(`the command gives ${a}, the package ${b}`);
  const image = Image.scratch().addLocalDir(folder, "/many", { strategy: "copy" });
  const inside = await time(9, () => image.hash());
  const aim = { aim: 1.5, better: "less" };
  row("folder of 10,000 files, call in a running Node against the command", "ms", inside, native, aim);
  row("the same, whole Node process against the command", "ms", whole, native, aim);
  const bare = await time(9, () => execFileSync(process.execPath, ["--eval", "0"]));
  rows.at(-1).note = `of which Node itself starts in ${bare.toFixed(0)} ms`;
}

async function inBrowser() {
  const found = await inChromium(chromium, fileURLToPath(dist));
  browser = found.version;
  row("256 MB Blob in Chromium against bare WebCrypto", "MiB/s", found.ours, found.peer, {
    aim: 0.9,
    better: "more",
    note: "both from `blob` to digest",
  });
  row("first hash in Chromium, from import on", "ms", found.start, undefined, {
    aim: 100,
    better: "less",
    note: "files from loopback, compiled while they load",
  });
}
