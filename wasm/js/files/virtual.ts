/**
 * A tree in the place of the disk, for pages that run code written for Node: a plain string is then a
 * path in it.
 */

import { ChalkError } from "../error.js";
import type { Disk } from "../platform.js";
import { type FileTree, type QuickTree, baseName, clean, isQuick, join } from "./tree.js";

/** Most bytes of a declaration. */
const TEXT_LIMIT = 16 * 1024 * 1024;

/** The disk whose working directory is a tree. */
export function virtualDisk(files: FileTree): Disk {
  const trees = new Map([["", files]]);
  return {
    workingDirectory: () => "",
    absolute(path) {
      if (typeof path === "string") return clean(path);
      throw new ChalkError({ code: "value", reason: "expected a path, found an address" });
    },
    tree(root) {
      const tree = trees.get(root) ?? below(files, root);
      trees.set(root, tree);
      return tree;
    },
    isTree: (tree) => [...trees.values()].includes(tree),
    read(path) {
      const found = clean(path);
      if (!isQuick(files)) {
        throw new ChalkError({
          code: "file",
          reason: `${path} cannot be read at once`,
          hint: "read it and use fromDeclaration",
        });
      }
      const bytes = files.text(found, TEXT_LIMIT);
      if (!bytes) throw new ChalkError({ code: "file", reason: `${path}: no such file` });
      const name = baseName(found);
      return { dir: found.slice(0, -name.length - 1), name, bytes };
    },
  };
}

/** A directory of a tree as a tree. */
function below(files: FileTree, dir: string): FileTree {
  const at = (path: string) => clean(join(dir, path));
  const tree: FileTree = {
    list: (path, signal) => files.list(at(path), signal),
    file: (path, signal) => files.file(at(path), signal),
  };
  if (!isQuick(files)) return tree;
  const quick: QuickTree = {
    ...tree,
    hash: (paths, sink) => files.hash(paths.map(at), sink),
    text: (path, limit) => files.text(at(path), limit),
  };
  return quick;
}
