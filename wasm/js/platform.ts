/**
 * What differs between Node and browsers.
 */

import type { FileTree } from "./files/tree.js";

/** Hashes contents that arrive piece by piece. */
export interface Hasher {
  update(piece: Uint8Array): void;
  /** The 32 bytes of the digest. The hasher is used up. */
  digest(): Uint8Array;
}

/** The host, as far as this package needs it. */
export interface Platform {
  /** SHA-256 of bytes in memory. */
  sha256(bytes: Uint8Array<ArrayBuffer>): Uint8Array | Promise<Uint8Array>;
  /** SHA-256 of contents of any size. */
  hasher(): Hasher;
  /**
   * Largest contents, in bytes, that are read into memory and handed to {@link Platform.sha256}; what
   * is larger goes through a {@link Hasher} in pieces.
   */
  readonly wholeLimit: number;
  /** Local files by path; absent in browsers, where a plain text is the text itself. */
  readonly disk?: Disk;
}

/** Files of this machine. */
export interface Disk {
  /** The directory that relative paths start at. */
  workingDirectory(): string;
  /** The absolute path of a path or `file:` address. */
  absolute(path: string | URL): string;
  /** The files below a directory, or anywhere when a path is absolute; the same tree for the same root. */
  tree(root: string): FileTree;
  /** Whether a tree is one of these. */
  isTree(tree: FileTree): boolean;
  /** A declaration file; its own name and directory beside its bytes. */
  read(path: string): { dir: string; name: string; bytes: Uint8Array };
}

let current: Platform | undefined;

/** Names the platform; entry points do so before anything else. */
export function setPlatform(platform: Platform): void {
  current = platform;
}

/** The platform that the entry point named. */
export function platform(): Platform {
  if (!current) throw new Error("no entry point of chalkcompute was loaded");
  return current;
}
