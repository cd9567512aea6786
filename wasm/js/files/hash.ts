/**
 * Hashing files of any tree, several at a time, in memory that does not grow with their sizes.
 */

import { platform } from "../platform.js";
import type { DigestSink, FileContents } from "./tree.js";
import { type FileTree, Unreadable } from "./tree.js";

/** Files that are read at the same time: reading them is mostly waiting. */
const AT_A_TIME = 16;
/** Pieces in which large contents are read. */
const PIECE = 4 * 1024 * 1024;

/** Hashes the files of a tree that has no faster way. */
export async function hashFiles(
  tree: FileTree,
  paths: readonly string[],
  sink: DigestSink,
): Promise<void> {
  const memory = new Budget(Math.max(platform().wholeLimit, PIECE));
  let next = 0;
  const worker = async () => {
    while (next < paths.length && !sink.stopped && !sink.signal?.aborted) {
      const index = next;
      next += 1;
      const path = paths[index] ?? "";
      try {
        const contents = await tree.file(path, sink.signal);
        if (!contents) throw new Unreadable("no such file");
        const size = sizeOf(contents);
        sink.begin(path, size);
        const held = await memory.take(Math.min(size, platform().wholeLimit));
        try {
          const digest = await hashContents(contents, size, sink);
          if (digest) sink.done(index, digest, size, contents.executable === true);
        } finally {
          held();
        }
      } catch (error) {
        sink.failed(index, error);
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(AT_A_TIME, paths.length) }, worker));
}

/** Bytes that may be held in memory at a time. */
class Budget {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(bytes: number) {
    this.#free = bytes;
  }

  /** Waits until that many bytes may be held; gives what ends it. */
  async take(bytes: number): Promise<() => void> {
    while (this.#free < bytes) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    this.#free -= bytes;
    return () => {
      this.#free += bytes;
      for (const wake of this.#waiting.splice(0)) wake();
    };
  }
}

/** How many bytes contents have. */
export function sizeOf({ body, size }: FileContents): number {
  if (typeof body === "function") return size ?? 0;
  return body instanceof Uint8Array ? body.length : body.size;
}

/** The digest of contents; `undefined` when the caller gave up. */
async function hashContents(
  { body }: FileContents,
  size: number,
  sink: DigestSink,
): Promise<Uint8Array | undefined> {
  if (body instanceof Uint8Array && size <= PIECE) {
    const digest = await platform().sha256(body as Uint8Array<ArrayBuffer>);
    sink.advance(size);
    return digest;
  }
  if (!(body instanceof Uint8Array) && typeof body !== "function" && size <= platform().wholeLimit) {
    const whole = await wholeOf(body);
    if (whole) {
      if (sink.stopped || sink.signal?.aborted) return undefined;
      if (whole.length !== size) throw new Unreadable("changed while it was read");
      const digest = await platform().sha256(whole);
      sink.advance(size);
      return digest;
    }
  }
  const hasher = platform().hasher();
  let read = 0;
  for await (const piece of piecesOf(body)) {
    if (sink.stopped || sink.signal?.aborted) return undefined;
    hasher.update(piece);
    read += piece.length;
    sink.advance(piece.length);
  }
  if (read !== size) throw new Unreadable(`changed while it was read: it has ${read} bytes in place of ${size}`);
  return hasher.digest();
}

/** All of a `Blob`, or `undefined` where memory for it is short. */
async function wholeOf(blob: Blob): Promise<Uint8Array<ArrayBuffer> | undefined> {
  try {
    return new Uint8Array(await blob.arrayBuffer());
  } catch (error) {
    // Browsers report want of memory as a file that cannot be read; pieces will tell which it is.
    if (blob.size > PIECE) return undefined;
    throw unreadable(error);
  }
}

/** The contents piece by piece. */
export async function* piecesOf(body: FileContents["body"]): AsyncGenerator<Uint8Array, void, undefined> {
  if (typeof body === "function") {
    const stream = body();
    if (Symbol.asyncIterator in stream) yield* stream;
    else yield* chunksOf(stream as ReadableStream<Uint8Array>);
    return;
  }
  if (body instanceof Uint8Array) {
    for (let at = 0; at < body.length; at += PIECE) {
      // Lets others have their turn between pieces.
      await new Promise((resolve) => setTimeout(resolve));
      yield body.subarray(at, at + PIECE);
    }
    return;
  }
  // The next piece is read while one is worked on.
  const read = (at: number) => body.slice(at, at + PIECE).arrayBuffer();
  let next = read(0);
  for (let at = 0; at < body.size; at += PIECE) {
    const piece = await next.catch((error: unknown) => Promise.reject(unreadable(error)));
    next = read(at + PIECE);
    next.catch(() => {});
    yield new Uint8Array(piece);
  }
}

/** For hosts whose streams cannot be iterated. */
async function* chunksOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<Uint8Array, void, undefined> {
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    await reader.cancel();
  }
}

function unreadable(error: unknown): Error {
  const name = (error as Partial<Error> | undefined)?.name;
  if (name === "NotReadableError" || name === "NotFoundError") {
    return new Unreadable("cannot be read any more: it was changed or removed since it was chosen");
  }
  return error instanceof Error ? error : new Unreadable(String(error));
}
