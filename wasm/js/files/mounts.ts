/**
 * Files and directories that are mounted when a sandbox starts. They are read by the rules of copies, by
 * the engine's own code: a mount is what a copy of the same files at the same place would be.
 */

import { Call } from "../arguments.js";
import { engine } from "../engine.js";
import { ChalkError, fromEngine } from "../error.js";
import type { Mount, SandboxMount } from "../generated/wire.js";
import { platform } from "../platform.js";
import { type ResolvedImage, type Upload, madeFrom, sourcesOf } from "../resolved.js";
import { type LocalDir, type LocalFile, givenDir, givenFile, isFile } from "./given.js";
import { homeSources, place } from "./place.js";
import type { Sources } from "./sources.js";
import { resolveWith } from "./supply.js";
import type { ReadOptions } from "./tree.js";

/** A local file or directory over the image of one sandbox. */
export interface LocalMount {
  /**
   * What is mounted. In Node a text is a path, and what lies there says whether it is a file. Of a
   * directory everything is taken that `addLocalDir` would take. An object with `text` or `body` is a file.
   */
  src: LocalFile | LocalDir;
  /** Absolute path in the sandbox; of a file that has a name, a slash at the end puts it below. */
  dest: string;
  /** Whether it can be changed from inside. Changes are gone with the sandbox. */
  writable?: boolean | undefined;
  /** Globs to leave out of a directory besides what ignore files name. */
  exclude?: readonly string[] | undefined;
}

/** Mounts with their contents by digest. */
export interface ReadMounts {
  /** As a service takes them. */
  readonly mounts: SandboxMount[];
  /** Contents that a service may lack, each once. */
  readonly uploads: readonly Upload[];
  read(upload: Upload): ReturnType<ResolvedImage["read"]>;
}

/** Reads what an image declares to be mounted, and what is mounted besides. */
export async function readMounts(
  image: ResolvedImage | undefined,
  more: readonly LocalMount[],
  options: ReadOptions,
): Promise<ReadMounts> {
  const declared = image?.mounts ?? [];
  if (declared.length + more.length === 0) return { mounts: [], uploads: [], read: nothing };
  let copies: ResolvedImage;
  try {
    let copied = { chain: engine().Chain.begin('{"base":"scratch"}'), sources: image ? sourcesOf(image) : homeSources() };
    for (const mount of declared) copied = { ...copied, chain: copied.chain.call(JSON.stringify(asCopy(mount))) };
    for (const mount of more) copied = await copyOf(mount, copied);
    const { handle } = await resolveWith(copied.chain, copied.sources, options);
    copies = madeFrom(handle, copied.sources);
  } catch (thrown) {
    throw atMount(fromEngine(thrown), declared.length);
  }
  const mounts = copies.steps.map((step, i): SandboxMount => {
    const writable = more[i - declared.length]?.writable === true;
    switch (step.kind) {
      case "add_file": {
        const { digest, mode } = step;
        return { dest: step.dest, writable, source: { type: "file", digest, executable: mode === "0755" } };
      }
      case "add_dir":
        return { dest: step.dest, writable, source: { type: "dir", digest: step.digest } };
      default:
        throw new ChalkError({ code: "engine", reason: `a mount became a step ${step.kind}` });
    }
  });
  return { mounts, uploads: copies.uploads, read: (upload) => copies.read(upload) };
}

function nothing(): never {
  throw new ChalkError({ code: "missing", reason: "nothing is mounted" });
}

/** The call that copies what a declaration mounts. */
function asCopy({ src, dest, dir, exclude }: Mount): object {
  const strategy = "copy";
  if (!dir) return { add_local_file: { src, dest, strategy } };
  return { add_local_dir: { src, dest, strategy, ...(exclude && { exclude }) } };
}

type Copied = { chain: ReturnType<ReturnType<typeof engine>["Chain"]["begin"]>; sources: Sources };

/** The chain with a copy of what is mounted besides. */
async function copyOf(mount: LocalMount, { chain, sources }: Copied): Promise<Copied> {
  const call = new Call(chain.length + 1, "mount");
  const { src, dest, writable, exclude } = call.options(mount, ["src", "dest", "writable", "exclude"]);
  const at = call.text(dest, ".dest");
  if (writable !== undefined && typeof writable !== "boolean") {
    throw call.wrongType(".writable", "true or false", writable);
  }
  const dir = await isDirectory(src);
  if (exclude !== undefined && !dir) {
    throw call.error("conflict", ".exclude", "a file has nothing to leave out", "give it with a directory");
  }
  const given = dir ? givenDir(src, call, ".src") : givenFile(src, call, ".src");
  if ("tree" in given && given.name === "" && at.endsWith("/")) {
    throw call.error("path", ".dest", `the contents have no name of their own to take below \`${at}\``, "write the whole path of the file");
  }
  const [found, path] = place(given, sources, dir ? "files" : "file");
  const globs = exclude === undefined ? {} : { exclude: call.texts(exclude, ".exclude") };
  const copy = asCopy({ src: path, dest: at, dir, ...globs });
  return { chain: chain.call(JSON.stringify(copy)), sources: found };
}

/** Whether something given is a directory; what is not there counts as a file, which then is told. */
async function isDirectory(src: unknown): Promise<boolean> {
  if (typeof src !== "string" && !(src instanceof URL)) return !isFile(src);
  const { disk } = platform();
  if (!disk || (src instanceof URL && src.protocol !== "file:")) return false;
  try {
    await disk.tree(disk.workingDirectory()).list(src instanceof URL ? disk.absolute(src) : src);
    return true;
  } catch {
    return false;
  }
}

/** The error of a copy as that of a mount. */
function atMount(error: ChalkError, declared: number): ChalkError {
  const path = error.path.replace(/^call (\d+): \w+/, (_, number: string) => {
    const index = Number(number) - 2;
    return index < declared ? `image.mounts[${index}]` : `mounts[${index - declared}]`;
  });
  if (path === error.path && error.errors.length === 0) return error;
  const { code, reason, hint, file, line, column, cause } = error;
  const errors = error.errors.map((other) => atMount(other, declared));
  return new ChalkError({ code, path, reason, hint, file, line, column, cause, errors });
}
