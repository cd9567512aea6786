// Which way to SHA-256 is the fastest for which size: the engine's own, WebCrypto's, Node's. The limits
// in `js/web-platform.ts` and `js/node-platform.ts` come from here.
//
// In Node: `node bench/digest.mjs`. In a browser: serve this folder, import this file and call
// `measure()`; with `chrome --headless` as `tests/npm` does.

import init, { Sha256, sha256 } from "../js/generated/engine.js";

const inNode = typeof process !== "undefined" && process.versions?.node !== undefined;
const MIB = 1024 * 1024;

/** Times `run`, in milliseconds per call: the median of several rounds that take about 30 ms each. */
async function time(run) {
  let calls = 1;
  const round = async () => {
    const start = performance.now();
    for (let i = 0; i < calls; i += 1) await run();
    return performance.now() - start;
  };
  while ((await round()) < 15 && calls < 1e6) calls *= 2;
  const rounds = [];
  for (let i = 0; i < 7; i += 1) rounds.push((await round()) / calls);
  return rounds.sort((a, b) => a - b)[3];
}

/** Bytes in memory, by size: microseconds for each way. */
async function small(node) {
  const rows = [];
  for (const size of [64, 512, 1024, 2048, 4096, 8192, 16384, 65536, MIB]) {
    const bytes = new Uint8Array(size).fill(7);
    const row = {
      bytes: size,
      "engine µs": await time(() => sha256(bytes)),
      "WebCrypto µs": await time(() => crypto.subtle.digest("SHA-256", bytes)),
    };
    if (node?.hash) row["node:crypto µs"] = await time(() => node.hash("sha256", bytes, "buffer"));
    rows.push(row);
  }
  for (const row of rows) {
    for (const way of Object.keys(row).slice(1)) row[way] = Number((row[way] * 1000).toFixed(2));
  }
  return rows;
}

/** A `Blob` that the host keeps where it likes, as a file of the user is: MiB per second, end to end. */
async function big(sizes, blobOf) {
  const rows = [];
  for (const size of sizes) {
    const blob = await blobOf(size);
    const speed = async (run) => {
      const times = [];
      for (let i = 0; i < 3; i += 1) {
        const start = performance.now();
        await run();
        times.push(performance.now() - start);
      }
      return Math.round(size / MIB / (Math.min(...times) / 1000));
    };
    const inSlices = (piece) => async () => {
      const hasher = new Sha256();
      for (let at = 0; at < size; at += piece) {
        hasher.update(new Uint8Array(await blob.slice(at, at + piece).arrayBuffer()));
      }
      hasher.digest();
      hasher.free();
    };
    const row = { MiB: size / MIB };
    row["WebCrypto, whole"] = await speed(async () =>
      crypto.subtle.digest("SHA-256", await blob.arrayBuffer()),
    ).catch((error) => error.name);
    row["WebCrypto alone"] = await (async () => {
      const bytes = await blob.arrayBuffer();
      return speed(() => crypto.subtle.digest("SHA-256", bytes));
    })().catch((error) => error.name);
    for (const piece of [1, 4, 16]) row[`engine, ${piece} MiB`] = await speed(inSlices(piece * MIB));
    row["engine, stream()"] = await speed(async () => {
      const hasher = new Sha256();
      for (const reader = blob.stream().getReader(); ; ) {
        const { done, value } = await reader.read();
        if (done) break;
        hasher.update(value);
      }
      hasher.free();
    });
    rows.push(row);
  }
  return rows;
}

/** Measures all. `blobOf` makes a `Blob` of a size; in memory unless given. */
export async function measure({ sizes = [16 * MIB, 256 * MIB], blobOf } = {}) {
  const node = inNode ? await import("node:crypto") : undefined;
  const url = new URL("../js/generated/chalk.wasm", import.meta.url);
  const wasm = inNode ? (await import("node:fs")).readFileSync(url) : fetch(url);
  await init({ module_or_path: wasm });
  const inMemory = (size) => new Blob(Array.from({ length: size / MIB }, () => new Uint8Array(MIB).fill(7)));
  return { small: await small(node), big: await big(sizes, blobOf ?? inMemory) };
}

if (inNode && process.argv[1] === (await import("node:url")).fileURLToPath(import.meta.url)) {
  const { small, big } = await measure();
  console.table(small);
  console.table(big);
}
