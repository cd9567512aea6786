/**
 * Where the paths of a declaration lead: a directory for those that are written as paths, and objects
 * such as a `File` that were handed over under a name of their own.
 */

import { type FileTree, baseName, clean, isQuick } from "./tree.js";

/** A path of a declaration, found in one of its trees. */
export interface Place {
  readonly tree: FileTree;
  /** Path in that tree. */
  readonly path: string;
}

/** Names in use, shared by the versions of one chain; only its newest version may add to it. */
interface Names {
  readonly taken: Map<string, FileTree>;
  newest: Sources;
}

/**
 * Immutable. Adding a file to the newest version of a chain costs the same however many there are; a
 * branch counts its names once.
 */
export class Sources {
  /** Where paths lead that name nothing handed over. */
  readonly root: FileTree;
  readonly #parent: Sources | undefined;
  readonly #name: string;
  readonly #tree: FileTree | undefined;
  #names: Names | undefined;

  private constructor(root: FileTree, parent?: Sources, name = "", tree?: FileTree) {
    this.root = root;
    this.#parent = parent;
    this.#name = name;
    this.#tree = tree;
  }

  static at(root: FileTree): Sources {
    return new Sources(root);
  }

  /** Adds a tree under a name as like `wish` as can be; gives the path that leads to it. */
  attach(wish: string, tree: FileTree): [Sources, string] {
    const names = this.#ownNames();
    const name = freeName(wish, names.taken, this.root !== NO_FILES);
    const next = new Sources(this.root, this, name, tree);
    names.taken.set(name, tree);
    names.newest = next;
    next.#names = names;
    return [next, name];
  }

  /** The names of this version, which nobody else adds to. */
  #ownNames(): Names {
    if (this.#names?.newest === this) return this.#names;
    const taken = new Map<string, FileTree>();
    for (let at: Sources | undefined = this; at; at = at.#parent) {
      if (at.#tree) taken.set(at.#name, at.#tree);
    }
    this.#names = { taken, newest: this };
    return this.#names;
  }

  /** What a path of the declaration means. */
  find(path: string): Place {
    if (!this.#tree) return this.#inRoot(path);
    const { taken } = this.#ownNames();
    const cleaned = clean(path);
    for (let end = cleaned.length; end > 0; end = cleaned.lastIndexOf("/", end - 1)) {
      const tree = taken.get(cleaned.slice(0, end));
      if (tree) return { tree, path: cleaned.slice(end + 1) };
    }
    return this.#inRoot(path);
  }

  /** The disk follows links on the way to `..`; other trees get paths without such words. */
  #inRoot(path: string): Place {
    return { tree: this.root, path: isQuick(this.root) ? path : clean(path) };
  }
}

/** What is handed over under a path that the disk may have too is marked, so that both stay apart. */
const MARK = "given";

function freeName(wish: string, taken: ReadonlyMap<string, FileTree>, mark: boolean): string {
  // A mark in front keeps the last word, which a destination with a slash at its end takes over.
  const name = baseName(wish) || "file";
  return mark || taken.has(name) ? `${MARK}:${taken.size + 1}/${name}` : name;
}

/** A plain path as the declaration should write it: never one of the marked ones. */
export function plainPath(path: string): string {
  return path.startsWith(`${MARK}:`) ? `./${path}` : path;
}

/** No files at all: where paths lead in a browser, unless files were given. */
export const NO_FILES: FileTree = {
  list: () => Promise.reject(new Error("no local files were given here")),
  file: () => Promise.resolve(undefined),
};
