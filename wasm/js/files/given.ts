/**
 * What callers may hand over as a local file or directory.
 */

import { type Call, isPlainObject } from "../arguments.js";
import { ChalkError } from "../error.js";
import { platform } from "../platform.js";
import { DropTree, HandleTree, inWords } from "./handles.js";
import { type Content, MemoryTree, SingleFile, contentsOf, isBlob, treeOfFiles } from "./memory.js";
import type { FileContents, FileTree } from "./tree.js";

/** A `File`, or anything like it. */
export type NamedBlob = Blob & {
  readonly name: string;
  /** Path from the chosen directory's parent, where a directory was chosen. */
  readonly webkitRelativePath?: string;
};

/** A `FileSystemFileHandle`. */
export interface FileHandle {
  readonly kind: "file";
  readonly name: string;
  getFile(): Promise<Blob>;
}

/** A `FileSystemDirectoryHandle`. */
export interface DirectoryHandle {
  readonly kind: "directory";
  readonly name: string;
  getFileHandle(name: string): Promise<object>;
  getDirectoryHandle(name: string): Promise<object>;
}

/** A `FileSystemDirectoryEntry`, as `DataTransferItem.webkitGetAsEntry()` gives it. */
export interface DirectoryEntry {
  readonly isDirectory: boolean;
  readonly name: string;
  createReader(): object;
}

/** A `DataTransfer` of a drop. */
export interface DroppedFiles {
  readonly items: { readonly length: number };
  getData(format: string): string;
}

/**
 * A local file.
 *
 * - `string`: in Node a path, relative to the working directory. **In a browser the text itself.**
 * - `URL`: in Node a `file:` address.
 * - `{ text }`: a text, everywhere.
 * - `Blob`, `File`, `FileSystemFileHandle`: what the user of a browser chose or dropped.
 * - `Uint8Array`, `ArrayBuffer`: the bytes, which must not be changed afterwards.
 * - {@link FileContents}: the only form beside a path that can be executable.
 */
export type LocalFile =
  | string
  | URL
  | { readonly text: string }
  | Blob
  | FileHandle
  | Uint8Array
  | ArrayBuffer
  | FileContents;

/**
 * A local directory.
 *
 * - `string`, `URL`: in Node a path or `file:` address.
 * - `FileSystemDirectoryHandle`: what `showDirectoryPicker()` gives.
 * - `DataTransfer`, `FileSystemDirectoryEntry`: what was dropped. Pass a `DataTransfer` before the
 *   handler of the event ends. One directory alone stands for its contents.
 * - `FileList` or any iterable of `File`s: what `<input type="file" webkitdirectory>` gives.
 * - `Map` or object: contents by path; a plain string is the text itself.
 * - {@link FileTree}: anything else.
 */
export type LocalDir =
  | string
  | URL
  | FileTree
  | DirectoryHandle
  | DroppedFiles
  | DirectoryEntry
  | ArrayLike<NamedBlob>
  | Iterable<NamedBlob>
  | ReadonlyMap<string, Content>
  | { readonly [path: string]: Content };

/** A path of the disk, or an object under the name that it brought along, if it did. */
export type Given = { readonly path: string } | { readonly name: string; readonly tree: FileTree };

/** Reads a {@link LocalFile}. */
export function givenFile(value: unknown, call: Call, field: string): Given {
  const { disk } = platform();
  if (typeof value === "string") {
    const text = call.text(value, field);
    return disk ? { path: text } : single(contentsOf(text));
  }
  if (value instanceof URL) return { path: localPath(value, call, field) };
  if (isFileHandle(value)) return { name: value.name, tree: new HandleFile(value) };
  if (isPlainObject(value) && "text" in value) {
    return single(contentsOf(call.text(value["text"], `${field}.text`)));
  }
  const contents = contentsOf(value);
  if (!contents) throw call.wrongType(field, FILE_WORDS, value);
  const { name } = value as { name?: unknown };
  return single(contents, typeof name === "string" ? name : "");
}

const FILE_WORDS = "a local file (a path in Node, a File, a Blob, bytes or { text })";
const DIR_WORDS =
  "a local directory (a path in Node, a directory handle, a drop, Files, or contents by path)";

function single(contents: FileContents | undefined, name = ""): Given {
  return { name, tree: new SingleFile(contents ?? { body: new Uint8Array() }) };
}

/** Reads a {@link LocalDir}. What was dropped is taken before this returns. */
export function givenDir(value: unknown, call: Call, field: string): Given {
  if (typeof value === "string") {
    const path = call.text(value, field);
    if (platform().disk) return { path };
    throw call.error(
      "wrong-type",
      field,
      "a browser cannot open a directory by its path",
      "pass what the user chose or dropped",
    );
  }
  if (value instanceof URL) return { path: localPath(value, call, field) };
  if (typeof value !== "object" || value === null || isBlob(value) || ArrayBuffer.isView(value)) {
    throw call.wrongType(field, DIR_WORDS, value);
  }
  const name = "name" in value && typeof value.name === "string" ? value.name : "files";
  if (has(value, "list") && has(value, "file")) return { name, tree: value as FileTree };
  if (has(value, "getDirectoryHandle")) {
    return { name, tree: new HandleTree(value as FileSystemDirectoryHandle) };
  }
  if (has(value, "getData") && "items" in value) {
    return { name, tree: DropTree.dropped(value as DataTransfer) };
  }
  if (has(value, "createReader")) {
    return { name, tree: DropTree.of(value as FileSystemDirectoryEntry) };
  }
  if (value instanceof Map || Object.prototype.toString.call(value) === "[object Map]") {
    return { name: "files", tree: memory(value as Map<unknown, unknown>, call, field) };
  }
  if (Symbol.iterator in value || "length" in value) {
    const files = Array.from(value as Iterable<unknown>);
    for (const [i, file] of files.entries()) {
      const named = isBlob(file) && typeof (file as Partial<File>).name === "string";
      if (!named) throw call.wrongType(`${field}[${i}]`, "a File", file);
    }
    return { name: "files", tree: treeOfFiles(files as File[]) };
  }
  if (!isPlainObject(value)) throw call.wrongType(field, DIR_WORDS, value);
  return { name: "files", tree: memory(Object.entries(value), call, field) };
}

function memory(files: Iterable<readonly [unknown, unknown]>, call: Call, field: string): MemoryTree {
  const read: [string, FileContents][] = [];
  for (const [path, content] of files) {
    const name = call.text(path, field);
    const contents = contentsOf(content);
    if (!contents) throw call.wrongType(`${field}.${name}`, "contents (text, bytes or a Blob)", content);
    read.push([name, contents]);
  }
  try {
    return new MemoryTree(read);
  } catch (thrown) {
    throw thrown instanceof ChalkError ? call.error(thrown.code, field, thrown.reason) : thrown;
  }
}

function localPath(url: URL, call: Call, field: string): string {
  const { disk } = platform();
  if (disk && url.protocol === "file:") return disk.absolute(url);
  const reason = disk ? `expected a file: address, found ${url.protocol}` : "a browser cannot open an address as a file";
  throw call.error("value", field, reason, "fetch it and pass the Blob");
}

function has(value: object, method: string): boolean {
  return typeof (value as Record<string, unknown>)[method] === "function";
}

/** Whether an object can only be a {@link LocalFile}. */
export function isFile(value: unknown): boolean {
  if (isPlainObject(value)) return "text" in value || "body" in value;
  return isBlob(value) || value instanceof ArrayBuffer || ArrayBuffer.isView(value) || isFileHandle(value);
}

function isFileHandle(value: unknown): value is FileHandle {
  return typeof value === "object" && value !== null && has(value, "getFile");
}

/** A file by its handle, opened when it is read. */
class HandleFile extends SingleFile {
  readonly #handle: FileHandle;

  constructor(handle: FileHandle) {
    super({ body: new Uint8Array() });
    this.#handle = handle;
  }

  override async file(path: string): Promise<FileContents | undefined> {
    if (path !== "") return undefined;
    try {
      return { body: await this.#handle.getFile() };
    } catch (error) {
      throw inWords(error, "file");
    }
  }
}
