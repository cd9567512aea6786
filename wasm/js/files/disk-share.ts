/**
 * Hashing many small files by several threads of Node. Opening, reading and closing a small file takes
 * longer than hashing it, and a thread does that only one by one (`bench/run.mjs` measures it).
 *
 * Threads take files by a shared counter. What a helping thread cannot do (a large file, an error, its
 * own end) it leaves undone, and the main thread does it.
 */

import * as fs from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";

import { AT_ONCE, hashAtOnce, isExecutable, locate, openFile } from "./disk-read.js";
import type { DigestSink } from "./tree.js";

/** Files that a thread takes at a time. */
const BLOCK = 16;
/** Fewest files for each helping thread: below, starting it takes longer than it saves. */
const FILES_PER_THREAD = 1500;
/** Most helping threads. */
const MOST_THREADS = 3;
/** Longest that results of a thread are waited for, in milliseconds, before its files are read again. */
const PATIENCE = 10_000;

/** State of a file. */
export const State = { Undone: 0, Plain: 1, Executable: 2, Told: 3 } as const;

/** Files and where their digests go; the arrays are shared by the threads. */
export interface Share {
  readonly root: string;
  readonly paths: readonly string[];
  /** Index of the first file that no thread has taken. */
  readonly next: Int32Array;
  readonly states: Uint8Array;
  readonly digests: Uint8Array;
  readonly sizes: Float64Array;
}

/** Shares files out. */
export function share(root: string, paths: readonly string[]): Share {
  const shared = (bytes: number) => new SharedArrayBuffer(bytes);
  return {
    root,
    paths,
    next: new Int32Array(shared(4)),
    states: new Uint8Array(shared(paths.length)),
    digests: new Uint8Array(shared(32 * paths.length)),
    sizes: new Float64Array(shared(8 * paths.length)),
  };
}

/** Hashes a block of files; false when all are taken. */
export function hashBlock({ root, paths, next, states, digests, sizes }: Share, buffer: Buffer): boolean {
  const first = Atomics.add(next, 0, BLOCK);
  for (let i = first; i < Math.min(first + BLOCK, paths.length); i += 1) {
    try {
      const open = openFile(locate(root, paths[i] ?? ""));
      try {
        if (open.stat.size >= AT_ONCE) continue;
        digests.set(hashAtOnce(open, buffer), 32 * i);
        sizes[i] = open.stat.size;
        Atomics.store(states, i, isExecutable(open.stat) ? State.Executable : State.Plain);
      } finally {
        fs.closeSync(open.fd);
      }
    } catch {
      // Left undone: whoever does it again tells why it cannot be read.
    }
  }
  return first + BLOCK < paths.length;
}

/** Tells of the files that are done since it was called last. */
export function collect({ paths, states, digests, sizes }: Share, sink: DigestSink): void {
  for (let i = 0; i < paths.length; i += 1) {
    const state = states[i];
    if (state === State.Undone || state === State.Told) continue;
    states[i] = State.Told;
    const size = sizes[i] ?? 0;
    sink.begin(paths[i] ?? "", size);
    sink.advance(size);
    sink.done(i, digests.subarray(32 * i, 32 * i + 32), size, state === State.Executable);
  }
}

/** Lets nobody take further files. */
export function stop({ next, paths }: Share): void {
  Atomics.store(next, 0, paths.length);
}

/** Starts threads that help; gives what waits for their end. None when that does not pay. */
export async function startHelpers(job: Share): Promise<() => Promise<void>> {
  const file = join(__dirname, "node-hash-thread.cjs");
  const count = Math.min(
    availableParallelism() - 1,
    MOST_THREADS,
    Math.floor(job.paths.length / FILES_PER_THREAD),
  );
  // Bundlers take the thread's own file along only when told to.
  if (count < 1 || !fs.existsSync(file)) return async () => {};
  // Loading this takes longer than everything else that starts with the package.
  const { Worker } = await import("node:worker_threads");
  const threads = Array.from({ length: count }, () => {
    const thread = new Worker(file, { workerData: job });
    thread.unref();
    const ended = new Promise<void>((resolve) => {
      thread.once("message", resolve);
      thread.once("error", () => resolve());
      thread.once("exit", () => resolve());
    });
    return { thread, ended };
  });
  return async () => {
    let timer: NodeJS.Timeout | undefined;
    const patience = new Promise<void>((resolve) => (timer = setTimeout(resolve, PATIENCE)));
    await Promise.race([Promise.all(threads.map(({ ended }) => ended)), patience]);
    clearTimeout(timer);
    for (const { thread } of threads) void thread.terminate();
  };
}
