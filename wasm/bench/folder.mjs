// Hashing a folder in Node, without starting Node: `node bench/folder.mjs FOLDER [RUNS]`. Prints the
// hash and the milliseconds of the first run (code still cold) and the median of the others, as JSON.
// `chalk compute image hash` of an `image.toml` with the same `add_local_dir` is what to compare with.
// `taskset -c 0` shows what the helping threads of `js/files/disk-share.ts` save.

import { Image } from "chalkcompute";

const [folder, runs = "11"] = process.argv.slice(2);
if (!folder) throw new Error("name a folder");
const image = Image.scratch().addLocalDir(folder, "/src", { strategy: "copy" });
const times = [];
let hash;
for (let i = 0; i < Number(runs); i += 1) {
  const start = performance.now();
  hash = await image.hash();
  times.push(performance.now() - start);
}
const [first, ...rest] = times;
const median = rest.sort((a, b) => a - b)[Math.floor(rest.length / 2)];
console.log(JSON.stringify({ hash, first_ms: round(first), median_ms: round(median) }));

function round(ms) {
  return Number(ms?.toFixed(1));
}
