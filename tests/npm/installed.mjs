// The packed package, installed in an empty folder as a stranger does it.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, existsSync, lstatSync, readdirSync } from "node:fs";
import { dirname, join } from "node:path";

import { folder } from "./cleanup.mjs";
import { variable } from "./variable.mjs";

/** What Node.js runs, and what browsers do. */
const PROGRAMS = join(import.meta.dirname, "programs");
const VECTORS = join(import.meta.dirname, "..", "vectors");

/** Installs the package and puts the programs and the vectors beside it; gives the folder. */
export function install() {
  const dir = folder("packed");
  // Nothing is asked of the registry: the package has no dependencies.
  npm(["install", "--offline", "--no-audit", "--no-fund", "--loglevel=error", variable("CHALK_TEST_PACKAGE")], dir);
  const modules = readdirSync(join(dir, "node_modules")).filter((name) => !name.startsWith("."));
  assert.deepEqual(modules, ["chalkcompute"]);
  assert.ok(lstatSync(join(dir, "node_modules/chalkcompute")).isDirectory(), "a copy, not a link");
  cpSync(PROGRAMS, dir, { recursive: true });
  cpSync(VECTORS, join(dir, "vectors"), { recursive: true });
  return dir;
}

function npm(words, cwd) {
  // Run by npm, this process has its settings for another folder.
  const names = Object.keys(process.env).filter((name) => !/^npm_/i.test(name));
  const env = Object.fromEntries(names.map((name) => [name, process.env[name]]));
  execFileSync("npm", words, { cwd, env, stdio: "inherit" });
}

/** Versions of Node.js that npm brought, by name: the oldest that the package runs on, and the newest. */
export function nodes() {
  const modules = join(import.meta.dirname, "node_modules");
  const found = readdirSync(modules).filter((name) => /^node-\d+-/.test(name));
  const paths = found.map((name) => [/\d+/.exec(name)[0], join(modules, name, "bin/node")]);
  assert.equal(paths.length, 2, `Node.js from npm: ${found}`);
  for (const [, path] of paths) assert.ok(existsSync(path), path);
  return paths;
}

/** The folder of a package that this suite itself has. */
export function tool(name) {
  return dirname(join(import.meta.dirname, "node_modules", name, "package.json"));
}
