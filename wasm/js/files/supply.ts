/**
 * Reading what the engine asks for. It never reads itself: it says which texts, listings and digests it
 * lacks, is given them, and is asked again.
 */

import { type Chain, type Files, type ResolvedHandle, engine } from "../engine.js";
import { ChalkError, aborted, fromEngine } from "../error.js";
import { hashFiles, piecesOf, sizeOf } from "./hash.js";
import { Reporter } from "./progress.js";
import type { Sources } from "./sources.js";
import type { DigestSink, FileTree, ReadOptions } from "./tree.js";
import { Unreadable, isQuick } from "./tree.js";

/** Most bytes of a file that is read as text. */
const TEXT_LIMIT = 16 * 1024 * 1024;

const KINDS = { file: 0, dir: 1, symlink: 2 } as const;

/** The image with every local file read; `undefined` when files would have to be read. */
export function resolveNow(chain: Chain): ResolvedHandle | undefined {
  const files = new (engine().Files)();
  try {
    return chain.resolve(files);
  } catch (thrown) {
    throw fromEngine(thrown);
  } finally {
    files.free();
  }
}

/** Reads local files until the image is resolved. `anyRead` says whether there were any to read. */
export async function resolveWith(
  chain: Chain,
  sources: Sources,
  options: ReadOptions,
): Promise<{ handle: ResolvedHandle; anyRead: boolean }> {
  const files = new (engine().Files)();
  const reporter = new Reporter(options.onProgress);
  const { signal } = options;
  try {
    for (let anyRead = false; ; anyRead = true) {
      if (signal?.aborted) throw aborted(signal);
      const handle = chain.resolve(files);
      if (handle) {
        reporter.end();
        return { handle, anyRead };
      }
      await supply(files, sources, reporter, signal);
    }
  } catch (thrown) {
    // What was interrupted may fail in its own way first.
    if (signal?.aborted) throw aborted(signal);
    throw fromEngine(thrown);
  } finally {
    files.free();
  }
}

async function supply(
  files: Files,
  sources: Sources,
  reporter: Reporter,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { texts, listings, contents } = files.needs();
  if (texts.length + listings.length + contents.length === 0) {
    throw new ChalkError({ code: "engine", reason: "the engine wants files and does not say which" });
  }
  for (const path of texts) {
    if (signal?.aborted) return;
    try {
      files.text(path, await readText(sources, path, signal));
    } catch (error) {
      files.fail(path, reasonOf(error));
    }
  }
  if (listings.length > 0) await list(files, sources, listings, reporter, signal);
  // Rules that are read only now may leave out some of the contents that were asked for.
  if (texts.length + listings.length > 0) return;
  await hash(files, sources, contents, reporter, signal);
}

async function readText(
  sources: Sources,
  path: string,
  signal: AbortSignal | undefined,
): Promise<Uint8Array | undefined> {
  const place = sources.find(path);
  if (isQuick(place.tree)) return place.tree.text(place.path, TEXT_LIMIT);
  const contents = await place.tree.file(place.path, signal);
  if (!contents) return undefined;
  const size = sizeOf(contents);
  if (size > TEXT_LIMIT) throw new Unreadable("is larger than 16 MiB");
  const whole = new Uint8Array(size);
  let read = 0;
  for await (const piece of piecesOf(contents.body)) {
    if (read + piece.length > size) throw new Unreadable("changed while it was read");
    whole.set(piece, read);
    read += piece.length;
  }
  if (read !== size) throw new Unreadable("changed while it was read");
  return whole;
}

async function list(
  files: Files,
  sources: Sources,
  dirs: readonly string[],
  reporter: Reporter,
  signal: AbortSignal | undefined,
): Promise<void> {
  reporter.phase("list", 0);
  for (const dir of dirs) {
    if (signal?.aborted) return;
    const { tree, path } = sources.find(dir);
    try {
      const entries = await tree.list(path, signal);
      const names: string[] = [];
      const targets: string[] = [];
      const kinds = new Uint8Array(entries.length);
      for (const [i, { name, kind, target }] of entries.entries()) {
        if (name === "" || name.includes("/")) throw new Unreadable(`\`${name}\` is no name of a file`);
        names.push(name);
        if (kind === "symlink") targets.push(target ?? "");
        kinds[i] = KINDS[kind];
      }
      files.listing(dir, names.join("/"), kinds, targets.join("\0"));
      reporter.found(dir, entries.length);
    } catch (error) {
      files.fail(dir, reasonOf(error));
    }
  }
}

async function hash(
  files: Files,
  sources: Sources,
  paths: string[],
  reporter: Reporter,
  signal: AbortSignal | undefined,
): Promise<void> {
  reporter.phase("hash", paths.length);
  const groups = new Map<FileTree, { indexes: number[]; paths: string[] }>();
  for (const [index, path] of paths.entries()) {
    const place = sources.find(path);
    let group = groups.get(place.tree);
    if (!group) groups.set(place.tree, (group = { indexes: [], paths: [] }));
    group.indexes.push(index);
    group.paths.push(place.path);
  }
  const digests = new Uint8Array(32 * paths.length);
  const sizes = new Float64Array(paths.length);
  const executable = new Uint8Array(paths.length);
  let failure: { index: number; reason: unknown } | undefined;
  for (const [tree, { indexes, paths: inTree }] of groups) {
    const sink: DigestSink = {
      signal,
      begin: (path, size) => reporter.begin(path, size),
      advance: (bytes) => reporter.advance(bytes),
      done(i, digest, size, mayExecute) {
        const index = indexes[i] ?? 0;
        digests.set(digest, 32 * index);
        sizes[index] = size;
        executable[index] = mayExecute ? 1 : 0;
        reporter.done();
      },
      failed(i, reason) {
        const index = indexes[i] ?? 0;
        // The first in order is told, so that the same fault always gives the same error.
        if (!failure || index < failure.index) failure = { index, reason };
      },
      get stopped() {
        return failure !== undefined;
      },
    };
    await (isQuick(tree) ? tree.hash(inTree, sink) : hashFiles(tree, inTree, sink));
    if (signal?.aborted) return;
    if (failure) {
      files.fail(paths[failure.index] ?? "", reasonOf(failure.reason));
      return;
    }
  }
  files.contents(digests, sizes, executable);
}

function reasonOf(error: unknown): string {
  if (error instanceof ChalkError) return error.reason;
  return error instanceof Error && error.message ? error.message : String(error);
}
