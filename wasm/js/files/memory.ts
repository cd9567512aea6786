/**
 * Files that are at hand as objects: maps, lists of `File`s, a single one.
 */

import { ChalkError } from "../error.js";
import { type Entry, type FileContents, type FileTree, Unreadable, clean } from "./tree.js";

/** Contents as callers write them in a map. A plain string is the text itself. */
export type Content = string | Blob | Uint8Array | ArrayBuffer | FileContents;

/** One file, which is all there is: the empty path. */
export class SingleFile implements FileTree {
  readonly #contents: FileContents;

  constructor(contents: FileContents) {
    this.#contents = contents;
  }

  list(): Promise<Entry[]> {
    return Promise.reject(new Unreadable("is a file, not a directory"));
  }

  file(path: string): Promise<FileContents | undefined> {
    return Promise.resolve(path === "" ? this.#contents : undefined);
  }
}

type Node = FileContents | Map<string, Node>;

/** A directory made of contents by path. */
export class MemoryTree implements FileTree {
  readonly #root = new Map<string, Node>();

  /** @throws {@link ChalkError} when a path leaves the directory or lies below a file. */
  constructor(files: Iterable<readonly [path: string, contents: FileContents]>) {
    for (const [path, contents] of files) this.#add(path, contents);
  }

  #add(written: string, contents: FileContents): void {
    const path = clean(written.startsWith("/") ? `.${written}` : written);
    const words = path.split("/");
    const name = words.pop() ?? "";
    if (name === "" || words[0] === ".." || name === "..") {
      throw misplaced(written, "is not the path of a file in a directory");
    }
    let dir = this.#root;
    for (const word of words) {
      let below = dir.get(word);
      if (below === undefined) dir.set(word, (below = new Map<string, Node>()));
      if (!(below instanceof Map)) throw misplaced(written, `lies below \`${word}\`, which is a file`);
      dir = below;
    }
    if (dir.has(name)) throw misplaced(written, "stands twice");
    dir.set(name, contents);
  }

  #find(path: string): Node | undefined {
    let at: Node | undefined = this.#root;
    const cleaned = clean(path);
    if (cleaned === "") return at;
    for (const word of cleaned.split("/")) {
      if (!(at instanceof Map)) return undefined;
      at = at.get(word);
    }
    return at;
  }

  async list(dir: string): Promise<Entry[]> {
    const found = this.#find(dir);
    if (!found) throw new Unreadable("no such directory");
    if (!(found instanceof Map)) throw new Unreadable("is not a directory");
    return Array.from(found, ([name, node]) => ({
      name,
      kind: node instanceof Map ? ("dir" as const) : ("file" as const),
    }));
  }

  async file(path: string): Promise<FileContents | undefined> {
    const found = this.#find(path);
    if (found instanceof Map) throw new Unreadable("is a directory, not a file");
    return found;
  }
}

function misplaced(path: string, reason: string): ChalkError {
  return new ChalkError({ code: "path", reason: `the given file \`${path}\` ${reason}` });
}

/** Whether a value is a `Blob` or a `File`, of this realm or another. */
export function isBlob(value: unknown): value is Blob {
  const blob = value as Partial<Blob> | null;
  return typeof blob === "object" && typeof blob?.arrayBuffer === "function" && typeof blob.size === "number";
}

/** Contents as a caller gave them; `undefined` when they are none. */
export function contentsOf(value: unknown): FileContents | undefined {
  if (typeof value === "string") return { body: new TextEncoder().encode(value) };
  if (isBlob(value)) return { body: value };
  if (value instanceof ArrayBuffer) return { body: new Uint8Array(value) };
  if (ArrayBuffer.isView(value)) {
    return { body: new Uint8Array(value.buffer as ArrayBuffer, value.byteOffset, value.byteLength) };
  }
  if (typeof value !== "object" || value === null || !("body" in value)) return undefined;
  const { body, size, executable } = value as FileContents;
  if (typeof body === "function") {
    return typeof size === "number" ? { body, size, executable: executable === true } : undefined;
  }
  const inner = typeof body === "string" ? undefined : contentsOf(body);
  return inner && { body: inner.body, executable: executable === true };
}

/**
 * `File`s as a directory: by `webkitRelativePath`, whose first word is the chosen directory itself, or
 * by name where they have none.
 */
export function treeOfFiles(files: Iterable<File>): MemoryTree {
  const all = Array.from(files);
  const paths = all.map((file) => file.webkitRelativePath || file.name);
  const first = paths[0]?.split("/")[0];
  const chosen = paths.every((path) => path.includes("/") && path.split("/")[0] === first);
  const below = (path: string) => (chosen ? path.slice(path.indexOf("/") + 1) : path);
  return new MemoryTree(all.map((file, i) => [below(paths[i] ?? file.name), { body: file }] as const));
}
