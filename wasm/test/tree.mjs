// A tree of the vectors' files: each `text` (and `executable`), `symlink` or `dir`.

/** @implements {import("chalkcompute").FileTree} */
export class VectorTree {
  #files;

  constructor(files) {
    this.#files = new Map(Object.entries(files));
  }

  async list(dir) {
    const prefix = dir === "" || dir === "." ? "" : `${dir}/`;
    const entries = new Map();
    for (const [path, file] of this.#files) {
      if (!path.startsWith(prefix) || path === dir) continue;
      const [name, ...below] = path.slice(prefix.length).split("/");
      const kind = below.length > 0 || file.dir ? "dir" : file.symlink ? "symlink" : "file";
      if (!entries.has(name) || kind === "dir") entries.set(name, { name, kind, target: file.symlink });
    }
    if (entries.size === 0 && prefix && !this.#files.get(dir)?.dir) throw new Error("no such directory");
    return [...entries.values()];
  }

  async file(path) {
    const file = this.#files.get(path);
    if (!file) return undefined;
    if (file.text === undefined) throw new Error("is not a regular file");
    return { body: new TextEncoder().encode(file.text), executable: file.executable === true };
  }
}
