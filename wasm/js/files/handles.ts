/**
 * Files of a browser's user: directory handles of the File System API, and what was dropped.
 *
 * Browsers tell neither executable bits nor symbolic links: files count as `0644`, and a link as what
 * the browser makes of it.
 */

import { type Entry, type FileContents, type FileTree, Unreadable, clean } from "./tree.js";

/** A directory that the user picked (`showDirectoryPicker()`), or one of the origin's own. */
export class HandleTree implements FileTree {
  readonly #dirs = new Map<string, Promise<FileSystemDirectoryHandle>>();

  constructor(root: FileSystemDirectoryHandle) {
    this.#dirs.set("", Promise.resolve(root));
  }

  /** Handles of directories are asked for once: a big tree would ask for each parent per file. */
  #dir(path: string): Promise<FileSystemDirectoryHandle> {
    let found = this.#dirs.get(path);
    if (!found) {
      const [parent, name] = split(path);
      found = this.#dir(parent).then((dir) => dir.getDirectoryHandle(name));
      this.#dirs.set(path, found);
      found.catch(() => this.#dirs.delete(path));
    }
    return found;
  }

  async list(dir: string): Promise<Entry[]> {
    try {
      const listed: Entry[] = [];
      for await (const [name, handle] of (await this.#dir(clean(dir))).entries()) {
        listed.push({ name, kind: handle.kind === "directory" ? "dir" : "file" });
      }
      return listed;
    } catch (error) {
      throw inWords(error, "directory");
    }
  }

  async file(path: string): Promise<FileContents | undefined> {
    const [parent, name] = split(clean(path));
    try {
      const handle = await (await this.#dir(parent)).getFileHandle(name);
      return { body: await handle.getFile() };
    } catch (error) {
      if (nameOf(error) === "NotFoundError") return undefined;
      throw inWords(error, "file");
    }
  }
}

type Entries = ReadonlyMap<string, FileSystemEntry>;

/** A directory, or several things at once, as drag and drop gives them. */
export class DropTree implements FileTree {
  readonly #top: () => Promise<Entries>;
  readonly #dirs = new Map<string, Promise<Entries>>();

  private constructor(top: () => Promise<Entries>) {
    this.#top = top;
  }

  /** The contents of a directory. */
  static of(dir: FileSystemDirectoryEntry): DropTree {
    return new DropTree(() => read(dir));
  }

  /**
   * What was dropped. The entries are taken before this returns: a `DataTransfer` is empty once the
   * handler of its event is done. One directory alone stands for its contents.
   */
  static dropped(transfer: DataTransfer): DropTree {
    const entries: FileSystemEntry[] = [];
    for (const item of Array.from(transfer.items)) {
      const entry = item.kind === "file" ? item.webkitGetAsEntry() : null;
      if (entry) entries.push(entry);
    }
    const [first] = entries;
    if (entries.length === 1 && first && isDirectory(first)) return DropTree.of(first);
    return new DropTree(() => Promise.resolve(new Map(entries.map((entry) => [entry.name, entry]))));
  }

  #dir(path: string): Promise<Entries> {
    let found = this.#dirs.get(path);
    if (!found) {
      found = path === "" ? this.#top() : this.#readDir(path);
      this.#dirs.set(path, found);
      found.catch(() => this.#dirs.delete(path));
    }
    return found;
  }

  async #readDir(path: string): Promise<Entries> {
    const [parent, name] = split(path);
    const entry = (await this.#dir(parent)).get(name);
    if (!entry) throw new Unreadable("no such directory");
    if (!isDirectory(entry)) throw new Unreadable("is not a directory");
    return read(entry);
  }

  async list(dir: string): Promise<Entry[]> {
    const path = clean(dir);
    // Read anew: what was dropped may have changed since it was listed before.
    this.#dirs.delete(path);
    const entries = await this.#dir(path);
    return Array.from(entries, ([name, entry]) => ({ name, kind: entry.isDirectory ? "dir" : "file" }));
  }

  async file(path: string): Promise<FileContents | undefined> {
    const cleaned = clean(path);
    if (cleaned === "") throw new Unreadable("is a directory, not a file");
    const [parent, name] = split(cleaned);
    const entries = await this.#dir(parent).catch(() => undefined);
    const entry = entries?.get(name);
    if (!entry) return undefined;
    if (isDirectory(entry)) throw new Unreadable("is a directory, not a file");
    const file = new Promise<File>((resolve, reject) => {
      (entry as FileSystemFileEntry).file(resolve, reject);
    });
    return { body: await file.catch((error: unknown) => Promise.reject(inWords(error, "file"))) };
  }
}

function isDirectory(entry: FileSystemEntry): entry is FileSystemDirectoryEntry {
  return entry.isDirectory;
}

/** All entries of a directory, which come in batches of about a hundred. */
async function read(dir: FileSystemDirectoryEntry): Promise<Map<string, FileSystemEntry>> {
  const reader = dir.createReader();
  const entries = new Map<string, FileSystemEntry>();
  for (;;) {
    const batch = await new Promise<FileSystemEntry[]>((resolve, reject) => {
      reader.readEntries(resolve, reject);
    }).catch((error: unknown) => Promise.reject(inWords(error, "directory")));
    if (batch.length === 0) return entries;
    for (const entry of batch) entries.set(entry.name, entry);
  }
}

function split(path: string): [parent: string, name: string] {
  const at = path.lastIndexOf("/");
  return [path.slice(0, Math.max(at, 0)), path.slice(at + 1)];
}

function nameOf(error: unknown): string {
  return (error as Partial<Error> | undefined)?.name ?? "";
}

/** The browser's error in words that follow a path. */
export function inWords(error: unknown, wanted: "file" | "directory"): Error {
  switch (nameOf(error)) {
    case "NotFoundError":
      return new Unreadable(`no such ${wanted}`);
    case "TypeMismatchError":
      return new Unreadable(wanted === "file" ? "is a directory, not a file" : "is not a directory");
    case "NotAllowedError":
    case "SecurityError":
      return new Unreadable("the browser has no permission to read it: choose or drop it again");
    case "NotReadableError":
      return new Unreadable("cannot be read any more: it was changed or removed since it was chosen");
  }
  return error instanceof Error ? error : new Unreadable(String(error));
}
