/**
 * Where the paths of a call lead.
 */

import type { Call } from "../arguments.js";
import { type Disk, platform } from "../platform.js";
import type { Given } from "./given.js";
import { NO_FILES, Sources, plainPath } from "./sources.js";
import { type FileTree, Unreadable } from "./tree.js";

/** Reads a declaration file; what is wrong is told of the call. */
export function readDeclaration(disk: Disk, path: string, call: Call): ReturnType<Disk["read"]> {
  try {
    return disk.read(path);
  } catch (error) {
    if (!(error instanceof Unreadable)) throw error;
    throw call.error("file", "", `${path}: ${error.message}`, "paths are relative to the working directory");
  }
}

/** Where plain paths lead in Node: the working directory as it is now. In browsers: nowhere. */
export function homeSources(): Sources {
  const { disk } = platform();
  return Sources.at(disk ? disk.tree(disk.workingDirectory()) : NO_FILES);
}

/** What was given as the place where paths begin. */
export function rootedIn(given: Given): Sources {
  if ("tree" in given) return Sources.at(given.tree);
  return Sources.at(diskTree(given.path));
}

function diskTree(path: string): FileTree {
  const { disk } = platform();
  return disk ? disk.tree(disk.absolute(path)) : NO_FILES;
}

/**
 * The path that a declaration writes for something given. `wish` is the name of what has none.
 */
export function place(given: Given, sources: Sources, wish: string): [Sources, string] {
  if ("tree" in given) return sources.attach(given.name || wish, given.tree);
  const { disk } = platform();
  if (!disk || given.path === "") return [sources, given.path];
  // A path of a call starts at the working directory, whatever the paths of a declaration file start at.
  if (sources.root === disk.tree(disk.workingDirectory())) return [sources, plainPath(given.path)];
  if (disk.isTree(sources.root)) return [sources, disk.absolute(given.path)];
  const absolute = disk.absolute(given.path);
  return sources.attach(absolute, disk.tree(absolute));
}
