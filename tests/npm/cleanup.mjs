// What has to be undone when a suite ends, be it by a signal: nothing may be left running or lying
// about. Everything happens while the process exits, so it is all synchronous.

import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Longest that a stop may take on a busy machine, in milliseconds. */
const PATIENCE = 60_000;

const acts = [];

process.on("exit", () => {
  for (const act of acts.reverse()) act();
});
for (const [signal, number] of [["SIGHUP", 1], ["SIGINT", 2], ["SIGTERM", 15]]) {
  process.on(signal, () => process.exit(128 + number));
}

/** A new empty folder that is gone with the process. */
export function folder(name) {
  const path = mkdtempSync(join(tmpdir(), `chalk-${name}-`));
  acts.push(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** Starts a program that ends with this process. */
export function start(program, words, options) {
  const child = spawn(program, words, options);
  // Waiting for it would be waiting for ever.
  child.unref();
  acts.push(() => end(child, "SIGTERM"));
  return child;
}

/** Ends a process that was started here, and waits until it is gone. */
export function end(child, signal) {
  if (child.exitCode !== null || child.signalCode !== null || !child.pid) return;
  child.kill(signal);
  for (const until = Date.now() + PATIENCE; isAlive(child.pid); pause(20)) {
    if (Date.now() > until) child.kill("SIGKILL");
  }
}

function isAlive(pid) {
  try {
    // Behind the name, which may hold anything: the state, Z when nobody has waited for it yet.
    return !/\) Z[^)]*$/.test(readFileSync(`/proc/${pid}/stat`, "utf8"));
  } catch {
    return false;
  }
}

function pause(milliseconds) {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds);
}
