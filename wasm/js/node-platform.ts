/**
 * Node as a platform: the disk, and Node's own SHA-256.
 */

import { basename, dirname, resolve } from "node:path";
import { fileURLToPath } from "node:url";

import { DiskTree } from "./files/disk.js";
import { Unreadable } from "./files/tree.js";
import { hasher, sha256 } from "./node-digest.js";
import type { Disk, Platform } from "./platform.js";

/** Most bytes of a declaration file. */
const DECLARATION_LIMIT = 16 * 1024 * 1024;

let lastTree: DiskTree | undefined;

const disk: Disk = {
  workingDirectory: () => process.cwd(),
  absolute: (path) => resolve(path instanceof URL ? fileURLToPath(path) : path),
  tree(root) {
    if (lastTree?.root !== root) lastTree = new DiskTree(root);
    return lastTree;
  },
  isTree: (tree) => tree instanceof DiskTree,
  read(path) {
    const place = resolve(path);
    const [dir, name] = [dirname(place), basename(place)];
    const bytes = new DiskTree(dir).text(name, DECLARATION_LIMIT);
    if (!bytes) throw new Unreadable("no such file");
    return { dir, name, bytes };
  },
};

/** Node. */
export const node: Platform = {
  sha256,
  hasher() {
    const hash = hasher();
    return {
      update: (piece) => void hash.update(piece),
      digest: () => hash.digest(),
    };
  },
  // Node hashes as fast in pieces as at one go, so that only small contents are read whole.
  wholeLimit: 1024 * 1024,
  disk,
};
