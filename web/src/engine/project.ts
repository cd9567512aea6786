/** The files that were dropped on the page, as the directory that declarations find their paths in. */
import type { DigestSink, Entry, FileContents, FileTree } from "chalkcompute/slim";
import { digestOf } from "./digest.js";
import type { FileRow, FileState } from "./protocol.js";

/** Files whose digests are computed at the same time: reading them is mostly waiting. */
const AT_A_TIME = 16;
/** Bytes from which a file is read alone. */
const LARGE = 8 * 1024 * 1024;

interface ProjectFile {
  file: File;
  executable: boolean;
  index: number;
  state: FileState;
  /** Digest that is computed or known: a `File` is a snapshot, which cannot be read once it changed. */
  digest: Promise<Uint8Array> | null;
}

/** Told about every change, so that the page can show it. */
export interface ProjectListener {
  rows(version: number, rows: FileRow[]): void;
  state(version: number, index: number, state: FileState): void;
}

export class Project implements FileTree {
  readonly #files = new Map<string, ProjectFile>();
  readonly #dirs = new Map<string, Map<string, Entry>>([["", new Map()]]);
  readonly #emptyDirs = new Set<string>();
  readonly #lanes = new Lanes();
  /** Whether anything was dropped: an empty folder is one too. */
  #given = false;
  #version = 0;
  #stop = new AbortController();

  constructor(private readonly listener: ProjectListener) {}

  add(files: { path: string; file: File }[], dirs: string[], replace: boolean): void {
    if (replace) this.#clear();
    this.#given = true;
    for (const { path, file } of files) {
      const executable = this.#files.get(path)?.executable ?? false;
      this.#files.set(path, { file, executable, index: 0, state: { state: "unused" }, digest: null });
    }
    for (const dir of dirs) this.#emptyDirs.add(dir);
    this.#reindex();
  }

  /** Takes away one file, or all. */
  remove(path: string | null): void {
    if (path === null) this.#clear();
    else this.#files.delete(path);
    this.#reindex();
  }

  setExecutable(path: string, on: boolean): void {
    const file = this.#files.get(path);
    if (file) file.executable = on;
  }

  /** The text of a file; undefined when there is none. */
  async readText(path: string): Promise<string | undefined> {
    return this.#files.get(path)?.file.text();
  }

  /** Computes the digest of a file ahead of any need. */
  want(path: string): void {
    const found = this.#files.get(path);
    if (!found) return;
    if (found.state.state === "cancelled") found.digest = null;
    void this.#digest(found).catch(() => undefined);
  }

  /** Ends all reading. What was being read has to be asked for again. */
  cancel(): void {
    this.#stop.abort();
    this.#stop = new AbortController();
  }

  /** Lets cancelled and failed files be read again. */
  retry(): void {
    for (const file of this.#files.values()) {
      if (file.state.state === "cancelled" || file.state.state === "failed") {
        file.digest = null;
        this.#tell(file, { state: "unused" });
      }
    }
  }

  list(dir: string): Promise<Entry[]> {
    const entries = this.#dirs.get(clean(dir));
    if (entries && this.#given) return Promise.resolve([...entries.values()]);
    return Promise.reject(new Error(this.#files.has(clean(dir)) ? "is not a directory" : this.#missing()));
  }

  file(path: string): Promise<FileContents | undefined> {
    const wanted = clean(path);
    if (this.#dirs.has(wanted)) return Promise.reject(new Error("is a directory, not a file"));
    const found = this.#files.get(wanted);
    if (!found && !this.#given) return Promise.reject(new Error(this.#missing()));
    return Promise.resolve(found && { body: found.file, executable: found.executable });
  }

  /** Digests are kept, so that an edit does not read every file again. */
  async hash(paths: readonly string[], sink: DigestSink): Promise<void> {
    let next = 0;
    const work = async () => {
      while (next < paths.length && !sink.stopped && !sink.signal?.aborted) {
        const index = next++;
        const path = clean(paths[index] ?? "");
        const found = this.#files.get(path);
        try {
          if (!found) throw new Error(this.#missing());
          const { size } = found.file;
          sink.begin(path, size);
          const digest = await orAborted(this.#digest(found), sink.signal);
          sink.advance(size);
          sink.done(index, digest, size, found.executable);
        } catch (reason) {
          sink.failed(index, reason);
        }
      }
    };
    await Promise.all(Array.from({ length: Math.min(AT_A_TIME, paths.length) }, work));
  }

  /** Contents at once, as a worker may read them. */
  text(path: string, limit: number): Uint8Array | undefined {
    const found = this.#files.get(clean(path));
    if (!found) return undefined;
    if (found.file.size > limit) throw new Error(`is larger than ${limit >> 20} MiB`);
    try {
      return new Uint8Array(new FileReaderSync().readAsArrayBuffer(found.file));
    } catch {
      throw new Error("cannot be read any more: it was changed or removed since it was dropped");
    }
  }

  #digest(found: ProjectFile): Promise<Uint8Array> {
    found.digest ??= this.#compute(found);
    return found.digest;
  }

  async #compute(found: ProjectFile): Promise<Uint8Array> {
    const { signal } = this.#stop;
    this.#tell(found, { state: "waiting" });
    const release = await this.#lanes.enter(found.file.size);
    try {
      signal.throwIfAborted();
      const digest = await digestOf(found.file, signal, (done) => this.#tell(found, { state: "hashing", done }));
      this.#tell(found, { state: "hashed", digest: `sha256:${hex(digest)}` });
      return digest;
    } catch (reason) {
      if (signal.aborted) {
        this.#tell(found, { state: "cancelled" });
        throw new Error("reading it was cancelled");
      }
      this.#tell(found, { state: "failed", reason: reason instanceof Error ? reason.message : String(reason) });
      throw reason;
    } finally {
      release();
    }
  }

  #tell(file: ProjectFile, state: FileState): void {
    file.state = state;
    this.listener.state(this.#version, file.index, state);
  }

  #clear(): void {
    this.cancel();
    this.#given = false;
    this.#files.clear();
    this.#emptyDirs.clear();
  }

  #reindex(): void {
    this.#dirs.clear();
    this.#dirs.set("", new Map());
    for (const dir of this.#emptyDirs) this.#enter(dir, "dir");
    for (const path of this.#files.keys()) this.#enter(path, "file");
    const sorted = [...this.#files].sort(([a], [b]) => order(a, b));
    this.#version += 1;
    sorted.forEach(([, file], index) => (file.index = index));
    this.listener.rows(
      this.#version,
      sorted.map(([path, { file, executable }]) => ({ path, size: file.size, executable })),
    );
    for (const [, file] of sorted) {
      if (file.state.state !== "unused") this.listener.state(this.#version, file.index, file.state);
    }
  }

  #enter(path: string, kind: "file" | "dir"): void {
    const at = path.lastIndexOf("/");
    const parent = at < 0 ? "" : path.slice(0, at);
    if (at >= 0 && !this.#dirs.has(parent)) this.#enter(parent, "dir");
    if (kind === "dir" && !this.#dirs.has(path)) this.#dirs.set(path, new Map());
    const name = path.slice(at + 1);
    this.#dirs.get(parent)?.set(name, { name, kind });
  }

  #missing(): string {
    return this.#given ? "not among the files of the project" : "no project folder was dropped on the page";
  }
}

/** The project with one file in the place of its own, such as the text of the editor. */
export class Overlay implements FileTree {
  readonly #bytes: Uint8Array;

  constructor(
    private readonly below: Project,
    private readonly path: string,
    text: string,
  ) {
    this.#bytes = new TextEncoder().encode(text);
  }

  list(dir: string): Promise<Entry[]> {
    return this.below.list(dir);
  }

  async file(path: string): Promise<FileContents | undefined> {
    return clean(path) === this.path ? { body: this.#bytes } : this.below.file(path);
  }

  hash(paths: readonly string[], sink: DigestSink): Promise<void> {
    return this.below.hash(paths, sink);
  }

  text(path: string, limit: number): Uint8Array | undefined {
    return clean(path) === this.path ? this.#bytes : this.below.text(path, limit);
  }
}

/** Lets many small files be read at the same time, and large ones one by one: they may fill memory. */
class Lanes {
  #open = AT_A_TIME;
  readonly #waiting: { lanes: number; go: () => void }[] = [];

  /** Waits for a place; gives what leaves it. */
  async enter(size: number): Promise<() => void> {
    const lanes = size > LARGE ? AT_A_TIME : 1;
    if (this.#waiting.length > 0 || this.#open < lanes) {
      await new Promise<void>((go) => this.#waiting.push({ lanes, go }));
    } else {
      this.#open -= lanes;
    }
    return () => {
      this.#open += lanes;
      for (let next = this.#waiting[0]; next && next.lanes <= this.#open; next = this.#waiting[0]) {
        this.#waiting.shift();
        this.#open -= next.lanes;
        next.go();
      }
    };
  }
}

/** The shortest path that means the same; one that leaves the directory begins with `..`. */
function clean(path: string): string {
  const words: string[] = [];
  for (const word of path.split("/")) {
    if (word === ".." && words.length > 0 && words.at(-1) !== "..") words.pop();
    else if (word !== "" && word !== ".") words.push(word);
  }
  return words.join("/");
}

/** By path, with what Git keeps at the end: nobody looks for it. */
function order(a: string, b: string): number {
  const [gitA, gitB] = [a.startsWith(".git/"), b.startsWith(".git/")];
  if (gitA !== gitB) return gitA ? 1 : -1;
  return a < b ? -1 : 1;
}

function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function orAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return promise;
  return new Promise((resolve, reject) => {
    const abort = () => reject(new Error("aborted"));
    signal.addEventListener("abort", abort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", abort));
  });
}
