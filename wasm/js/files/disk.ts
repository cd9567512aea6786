/**
 * Files of this machine, in Node. The rules are those of `store::tree::LocalFiles`: listing follows no
 * link, a file that is named directly may be one; sockets, pipes and devices are left out.
 *
 * Small files are read in this thread, blocking, in slices. A second thread was tried: for a folder of
 * 10,000 files it saved a twentieth, since starting it and handing the paths over takes as long as
 * half of the folder.
 */

import * as fs from "node:fs";
import { setImmediate } from "node:timers";

import { hasher } from "../node-digest.js";
import {
  AT_ONCE,
  type OpenFile,
  changed,
  checkRegular,
  hashAtOnce,
  isExecutable,
  locate,
  openFile,
} from "./disk-read.js";
import type { DigestSink, Entry, FileContents, QuickTree } from "./tree.js";
import { Unreadable } from "./tree.js";

/** Pieces in which larger files are read. */
const PIECE = 1024 * 1024;
/** How long, in milliseconds, small files may keep everything else waiting. */
const SLICE = 12;

/** A directory of the disk, as the place where relative paths start. */
export class DiskTree implements QuickTree {
  /** The absolute path where relative ones start. */
  readonly root: string;

  constructor(root: string) {
    this.root = root;
  }

  async list(dir: string): Promise<Entry[]> {
    const place = locate(this.root, dir);
    let entries: fs.Dirent[];
    try {
      entries = fs.readdirSync(place, { withFileTypes: true });
    } catch (error) {
      if (codeOf(error) === "ENOENT") throw new Unreadable("no such directory");
      if (codeOf(error) === "ENOTDIR") throw new Unreadable("is not a directory");
      throw inWords(error);
    }
    if (entries.some((entry) => entry.name.includes("\ufffd"))) checkNames(place);
    const listed: Entry[] = [];
    for (const entry of entries) {
      const { name } = entry;
      if (entry.isFile()) listed.push({ name, kind: "file" });
      else if (entry.isDirectory()) listed.push({ name, kind: "dir" });
      else if (entry.isSymbolicLink()) {
        listed.push({ name, kind: "symlink", target: linkTarget(place, name) });
      }
    }
    return listed;
  }

  async file(path: string): Promise<FileContents | undefined> {
    const place = locate(this.root, path);
    const stat = statFile(place);
    return (
      stat && {
        body: () => pieces(place),
        size: stat.size,
        executable: isExecutable(stat),
      }
    );
  }

  text(path: string, limit: number): Uint8Array | undefined {
    const place = locate(this.root, path);
    const stat = statFile(place);
    if (!stat) return undefined;
    if (stat.size > limit) throw tooLarge(limit);
    let bytes: Uint8Array;
    try {
      bytes = fs.readFileSync(place);
    } catch (error) {
      throw inWords(error);
    }
    if (bytes.length > limit) throw tooLarge(limit);
    return bytes;
  }

  async hash(paths: readonly string[], sink: DigestSink): Promise<void> {
    const buffer = Buffer.allocUnsafe(AT_ONCE);
    let sliceEnd = performance.now() + SLICE;
    for (const [index, path] of paths.entries()) {
      if (performance.now() > sliceEnd) {
        await new Promise((resolve) => setImmediate(resolve));
        sliceEnd = performance.now() + SLICE;
      }
      if (sink.stopped || sink.signal?.aborted) return;
      try {
        const open = openFile(locate(this.root, path));
        try {
          const { size } = open.stat;
          sink.begin(path, size);
          const small = size < AT_ONCE;
          const digest = small ? hashAtOnce(open, buffer) : await hashInPieces(open, sink);
          if (!digest) return;
          if (small) sink.advance(size);
          sink.done(index, digest, size, isExecutable(open.stat));
        } finally {
          fs.closeSync(open.fd);
        }
      } catch (error) {
        sink.failed(index, inWords(error));
      }
    }
  }
}

function statFile(place: string): fs.Stats | undefined {
  let stat: fs.Stats;
  try {
    stat = fs.statSync(place);
  } catch (error) {
    if (codeOf(error) === "ENOENT" || codeOf(error) === "ENOTDIR") return undefined;
    throw inWords(error);
  }
  checkRegular(stat);
  return stat;
}

/**
 * The digest of a large file: the next piece is read while one is hashed. `undefined` when the caller
 * gave up.
 */
async function hashInPieces(
  { fd, stat }: OpenFile,
  sink: DigestSink,
): Promise<Uint8Array | undefined> {
  const hash = hasher();
  let filled = Buffer.allocUnsafeSlow(PIECE);
  let free = Buffer.allocUnsafeSlow(PIECE);
  let size = 0;
  let pending = readInto(fd, filled);
  try {
    for (;;) {
      const read = await pending;
      if (read === 0) break;
      if (sink.stopped || sink.signal?.aborted) return undefined;
      size += read;
      if (size > stat.size) break;
      pending = readInto(fd, free);
      hash.update(filled.subarray(0, read));
      sink.advance(read);
      [filled, free] = [free, filled];
    }
  } finally {
    // The descriptor is closed next: nothing may read from it then.
    await pending.catch(() => 0);
  }
  const after = fs.fstatSync(fd);
  if (size !== stat.size) throw changed(stat.size, Math.max(size, after.size));
  if (after.mtimeMs !== stat.mtimeMs) throw new Unreadable("was written to while it was read");
  return hash.digest();
}

function readInto(fd: number, buffer: Buffer): Promise<number> {
  return new Promise((resolve, reject) => {
    fs.read(fd, buffer, 0, buffer.length, null, (error, read) => {
      if (error) reject(error);
      else resolve(read);
    });
  });
}

/** The contents of a file, each piece in memory of its own. */
async function* pieces(place: string): AsyncGenerator<Uint8Array, void, undefined> {
  let open: OpenFile;
  try {
    open = openFile(place);
  } catch (error) {
    throw inWords(error);
  }
  try {
    for (;;) {
      const piece = Buffer.allocUnsafeSlow(Math.min(PIECE, Math.max(open.stat.size, 4096)));
      const read = await readInto(open.fd, piece);
      if (read === 0) return;
      yield piece.subarray(0, read);
    }
  } catch (error) {
    throw inWords(error);
  } finally {
    fs.closeSync(open.fd);
  }
}

function linkTarget(dir: string, name: string): string {
  const raw = fs.readlinkSync(`${dir}/${name}`, "buffer");
  const target = raw.toString();
  if (target.includes("\ufffd") && !Buffer.from(target).equals(raw)) {
    throw new Unreadable(`${name}: links to \`${escaped(raw)}\`, which is not UTF-8`);
  }
  return target;
}

/** Node shows names that are not UTF-8 with replacement characters, which real names may hold too. */
function checkNames(place: string): void {
  for (const raw of fs.readdirSync(place, "buffer")) {
    if (!Buffer.from(raw.toString()).equals(raw)) {
      throw new Unreadable(
        `${escaped(raw)}: its name is not UTF-8: rename it, or exclude its directory`,
      );
    }
  }
}

/** Bytes as Rust's `escape_ascii` shows them. */
function escaped(raw: Buffer): string {
  const one = (byte: number) =>
    byte >= 0x20 && byte < 0x7f && byte !== 0x5c
      ? String.fromCharCode(byte)
      : `\\x${byte.toString(16).padStart(2, "0")}`;
  return Array.from(raw, one).join("");
}

function tooLarge(limit: number): Unreadable {
  return new Unreadable(`is larger than ${limit >> 20} MiB`);
}

function codeOf(error: unknown): string {
  return (error as NodeJS.ErrnoException | undefined)?.code ?? "";
}

/** `EACCES: permission denied, open '/x'` without the path, which is told anyway. */
function inWords(error: unknown): Unreadable {
  if (error instanceof Unreadable) return error;
  switch (codeOf(error)) {
    case "ENOENT":
      return new Unreadable("no such file");
    case "ENXIO":
      return new Unreadable("is not a regular file");
  }
  const message = error instanceof Error ? error.message : String(error);
  const [, code, words] = /^([A-Z0-9]+): (.+?), \w+(?: '.*)?$/s.exec(message) ?? [];
  return new Unreadable(code && words ? `${words} (${code})` : message);
}
