/** Walking what was dropped or chosen. */

export interface Collected {
  /** Name of the one directory that was taken, whose contents are the project; null for loose files. */
  folder: string | null;
  files: { path: string; file: File }[];
  /** Directories, also empty ones. */
  dirs: string[];
  /** Walks the same again; null where the browser cannot. */
  again: (() => Promise<Collected>) | null;
}

/** Entries that are walked at the same time: asking for each is mostly waiting. */
const AT_A_TIME = 32;

/** What a drop holds. The entries must be taken before the event ends, so this must be called in it. */
export function fromDrop(transfer: DataTransfer): () => Promise<Collected> {
  const entries = Array.from(transfer.items, (item) => (item.kind === "file" ? item.webkitGetAsEntry() : null));
  const found = entries.filter((entry) => entry !== null);
  // Drops that are made by scripts have files but no entries.
  const loose = found.length > 0 ? [] : Array.from(transfer.files);
  const collect = async (): Promise<Collected> => {
    if (found.length === 0) return fromFiles(loose);
    const folder = found.length === 1 && found[0]?.isDirectory ? found[0].name : null;
    const collected: Collected = { folder, files: [], dirs: [], again: collect };
    const queue: { entry: FileSystemEntry; path: string }[] = [];
    if (folder !== null) queue.push({ entry: found[0]!, path: "" });
    else for (const entry of found) queue.push({ entry, path: entry.name });
    await walk(queue, async ({ entry, path }) => {
      if (entry.isFile) {
        collected.files.push({ path, file: await fileOf(entry as FileSystemFileEntry) });
        return [];
      }
      if (path !== "") collected.dirs.push(path);
      const children = await childrenOf(entry as FileSystemDirectoryEntry);
      return children.map((child) => ({ entry: child, path: below(path, child.name) }));
    });
    return collected;
  };
  return collect;
}

/** What `showDirectoryPicker` gave. */
export async function fromHandle(handle: FileSystemDirectoryHandle): Promise<Collected> {
  const collected: Collected = { folder: handle.name, files: [], dirs: [], again: () => fromHandle(handle) };
  await walk<{ handle: FileSystemHandle; path: string }>([{ handle, path: "" }], async ({ handle, path }) => {
    if (handle.kind === "file") {
      collected.files.push({ path, file: await (handle as FileSystemFileHandle).getFile() });
      return [];
    }
    if (path !== "") collected.dirs.push(path);
    const children: { handle: FileSystemHandle; path: string }[] = [];
    for await (const child of (handle as FileSystemDirectoryHandle).values()) {
      children.push({ handle: child, path: below(path, child.name) });
    }
    return children;
  });
  return collected;
}

/** What a file input gave. Those for directories tell no empty ones. */
export function fromFiles(files: Iterable<File>): Collected {
  const all = [...files];
  const folder = all[0]?.webkitRelativePath.split("/")[0] || null;
  const collected: Collected = { folder, files: [], dirs: [], again: null };
  for (const file of all) {
    const { webkitRelativePath: path } = file;
    collected.files.push({ path: path ? path.slice(path.indexOf("/") + 1) : file.name, file });
  }
  return collected;
}

/** Visits items and what they lead to, several at a time. */
async function walk<T>(queue: T[], visit: (item: T) => Promise<T[]>): Promise<void> {
  let running = 0;
  await new Promise<void>((resolve, reject) => {
    const pump = () => {
      if (running === 0 && queue.length === 0) resolve();
      while (running < AT_A_TIME && queue.length > 0) {
        running += 1;
        visit(queue.pop()!).then((more) => {
          running -= 1;
          for (const item of more) queue.push(item);
          pump();
        }, reject);
      }
    };
    pump();
  });
}

function below(dir: string, name: string): string {
  return dir === "" ? name : `${dir}/${name}`;
}

function fileOf(entry: FileSystemFileEntry): Promise<File> {
  return new Promise((resolve, reject) => entry.file(resolve, reject));
}

async function childrenOf(entry: FileSystemDirectoryEntry): Promise<FileSystemEntry[]> {
  const reader = entry.createReader();
  const all: FileSystemEntry[] = [];
  for (;;) {
    // Gives some at a time, and an empty list at the end.
    const some = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (some.length === 0) return all;
    all.push(...some);
  }
}
