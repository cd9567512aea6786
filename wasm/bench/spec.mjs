// Microseconds for specs of 20 steps, and milliseconds to load the package, as JSON:
// `node bench/spec.mjs`.

import { execFileSync } from "node:child_process";

import { Image } from "chalkcompute";

const CALLS = 3000;

function chain() {
  let image = Image.debianSlim("3.12");
  for (let i = 0; i < 20; i += 1) image = image.runCommands(`echo step ${i}`);
  return image;
}

/** Microseconds per call, the median of nine rounds. */
async function time(run) {
  const rounds = [];
  for (let round = 0; round < 9; round += 1) {
    const start = performance.now();
    for (let i = 0; i < CALLS; i += 1) await run(i);
    rounds.push(((performance.now() - start) / CALLS) * 1000);
    // Lets finalisers run.
    await new Promise((resolve) => setTimeout(resolve));
  }
  return Number(rounds.sort((a, b) => a - b)[4].toFixed(1));
}

const LOAD =
  'const t = process.hrtime.bigint(); require("chalkcompute"); console.log(Number(process.hrtime.bigint() - t) / 1e6)';

function load() {
  const cwd = new URL("..", import.meta.url);
  const times = Array.from({ length: 21 }, () => Number(execFileSync(process.execPath, ["-e", LOAD], { cwd })));
  return Number(times.sort((a, b) => a - b)[10].toFixed(2));
}

const image = chain();
console.log(
  JSON.stringify({
    hash_us: await time(() => image.hash()),
    call_and_hash_us: await time((i) => image.runCommands(`echo ${i}`).hash()),
    chain_and_hash_us: await time(() => chain().hash()),
    load_ms: load(),
  }),
);
