/**
 * Local files, however the host offers them.
 */

/** What lies in a directory. */
export interface Entry {
  /** Its name, without any `/`. */
  readonly name: string;
  /** What it is; sockets, pipes and devices are not listed. */
  readonly kind: "file" | "dir" | "symlink";
  /** Where a symbolic link points, as stored. */
  readonly target?: string;
}

/** A regular file that was found. */
export interface FileContents {
  /** Contents; a function is called anew for every reading. */
  readonly body: Blob | Uint8Array | (() => ReadableStream<Uint8Array> | AsyncIterable<Uint8Array>);
  /** Bytes, where `body` is a function. A different count is an error. */
  readonly size?: number;
  /** Whether its owner may execute it. Absent means no: browsers do not tell. */
  readonly executable?: boolean;
}

/**
 * A directory of files. Paths are relative to it, with `/` between words and no `.` or `..` among
 * them; the empty path is the directory itself. Where a declaration names a path outside, it comes as
 * it is, beginning with `/` or `..`. Names are compared letter by letter.
 *
 * Implement it to take files from a place that this package does not know.
 */
export interface FileTree {
  /** Entries of one directory, in any order. Rejects when it is absent or not a directory. */
  list(dir: string, signal?: AbortSignal): Promise<readonly Entry[]>;
  /**
   * A file; `undefined` when nothing is there. Links are followed. Rejects when what is there is not
   * a regular file.
   */
  file(path: string, signal?: AbortSignal): Promise<FileContents | undefined>;
}

/** How far reading or uploading is. */
export interface Progress {
  /** Directories are being listed, contents hashed, or contents uploaded. */
  readonly phase: "list" | "hash" | "upload";
  /** Entries found, files hashed, or files uploaded. */
  readonly files: number;
  /** Files in all; 0 while listing. */
  readonly filesTotal: number;
  /** Bytes done. */
  readonly bytes: number;
  /** Bytes in all, as far as sizes are known: it grows while a disk is read. */
  readonly bytesTotal: number;
  /** What is being worked on. */
  readonly path?: string;
}

/** Options of everything that reads local files. */
export interface ReadOptions {
  /** Gives up when it fires; the error has the code `aborted` and the name `AbortError`. */
  signal?: AbortSignal | undefined;
  /** Called as work goes on, at most about twenty times a second and at the end of each phase. */
  onProgress?: ((progress: Progress) => void) | undefined;
}

/** Why a file cannot be read, in words that follow its path. */
export class Unreadable extends Error {}

/** Digests of files in the order in which they were asked for. */
export interface Digests {
  /** 32 bytes each. */
  readonly digests: Uint8Array;
  readonly sizes: Float64Array;
  /** 1 where the owner may execute the file. */
  readonly executable: Uint8Array;
}

/** Takes note of digests as they come. */
export interface DigestSink {
  readonly signal: AbortSignal | undefined;
  /** A file is being read. */
  begin(path: string, size: number): void;
  /** Bytes of it were read. */
  advance(bytes: number): void;
  /** File number `index` is done. */
  done(index: number, digest: Uint8Array, size: number, executable: boolean): void;
  /** File number `index` cannot be read. */
  failed(index: number, reason: unknown): void;
  /** Whether something failed and the rest need not be read. */
  readonly stopped: boolean;
}

/** A tree that has faster ways than reading files one by one through {@link FileTree.file}. */
export interface QuickTree extends FileTree {
  /** Hashes files in any order; what fails is told to the sink. */
  hash(paths: readonly string[], sink: DigestSink): Promise<void>;
  /** All of a small file; `undefined` when nothing is there. */
  text(path: string, limit: number): Uint8Array | undefined;
}

/** Whether a tree has those ways. */
export function isQuick(tree: FileTree): tree is QuickTree {
  return "hash" in tree && "text" in tree;
}

/** The shortest path that means the same, as `core::path::clean`; the directory itself is empty. */
export function clean(path: string): string {
  if (!/(^|\/)\.{0,2}(\/|$)/.test(path)) return path;
  const rooted = path.startsWith("/");
  const words: string[] = [];
  for (const word of path.split("/")) {
    if (word === "" || word === ".") continue;
    if (word !== "..") words.push(word);
    else if (words.length > 0 && words.at(-1) !== "..") words.pop();
    else if (!rooted) words.push(word);
  }
  return (rooted ? "/" : "") + words.join("/");
}

/** `path` below `dir`. */
export function join(dir: string, path: string): string {
  if (dir === "") return path;
  return path === "" ? dir : `${dir}/${path}`;
}

/** The last word of a path. */
export function baseName(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}
