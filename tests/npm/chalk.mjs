// The `chalk` command on state directories of its own.

import { execFile } from "node:child_process";
import { promisify } from "node:util";

import { variable } from "./variable.mjs";

/** The base of the quickstart example. */
export const PYTHON = "docker.io/library/python:3.12-slim-bookworm";

/** Environment of commands: without settings of whoever runs the tests. */
export function environment() {
  const names = Object.keys(process.env).filter((name) => !name.startsWith("CHALK_"));
  return { ...Object.fromEntries(names.map((name) => [name, process.env[name]])), NO_COLOR: "1" };
}

/** Runs a command and gives its standard output. */
export async function chalk(state, ...words) {
  const run = promisify(execFile);
  const command = ["--state", state, ...words];
  const { stdout } = await run(variable("CHALK_TEST_BIN"), command, { env: environment() });
  return stdout;
}

/** The hashes that the command prints for a declaration. */
export async function hashes(state, file, ...words) {
  return JSON.parse(await chalk(state, "compute", "image", "hash", file, "--json", ...words));
}
