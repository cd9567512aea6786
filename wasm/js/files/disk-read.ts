/**
 * Opening files of the disk, and hashing small ones.
 */

import * as fs from "node:fs";
import { isAbsolute } from "node:path";

import { sha256 } from "../node-digest.js";
import { Unreadable } from "./tree.js";

/** Files smaller than this are read at one go, blocking; it also is the size of the buffer for that. */
export const AT_ONCE = 256 * 1024;

/** Opening a pipe must not wait for somebody to write into it. */
const OPEN = fs.constants.O_RDONLY | (fs.constants.O_NONBLOCK ?? 0);

/** A file that is open for reading. */
export interface OpenFile {
  readonly fd: number;
  readonly stat: fs.Stats;
}

/** Where a path lies whose relative form starts at `root`. */
export function locate(root: string, path: string): string {
  if (path === "") return root;
  return isAbsolute(path) ? path : `${root}/${path}`;
}

/** Opens a regular file, which may be reached through links. */
export function openFile(place: string): OpenFile {
  const fd = fs.openSync(place, OPEN);
  try {
    const stat = fs.fstatSync(fd);
    checkRegular(stat);
    return { fd, stat };
  } catch (error) {
    fs.closeSync(fd);
    throw error;
  }
}

/** @throws {@link Unreadable} */
export function checkRegular(stat: fs.Stats): void {
  if (stat.isDirectory()) throw new Unreadable("is a directory, not a file");
  if (!stat.isFile()) throw new Unreadable("is not a regular file");
}

/** Whether the owner may execute a file. */
export function isExecutable(stat: fs.Stats): boolean {
  // Windows keeps no such bit.
  return process.platform !== "win32" && (stat.mode & 0o100) !== 0;
}

/** The digest of a file that is smaller than the buffer. */
export function hashAtOnce({ fd, stat }: OpenFile, buffer: Buffer): Uint8Array {
  let length = 0;
  while (length <= stat.size) {
    const read = fs.readSync(fd, buffer, length, buffer.length - length, null);
    length += read;
    // The size was told before: one read that gives as much need not be followed by another.
    if (read === 0 || length === stat.size) break;
  }
  if (length !== stat.size) throw changed(stat.size, length);
  return sha256(buffer.subarray(0, length));
}

/** The error of a file that did not stay as it was. */
export function changed(before: number, after: number): Unreadable {
  const now = after > before ? "more" : after;
  return new Unreadable(`changed while it was read: it had ${before} bytes and now has ${now}`);
}
