/**
 * `chalkcompute/slim` in browsers and the like: the caller says where the engine comes from.
 */

import { start, startSync } from "../engine.js";
import type { FileTree } from "../files/tree.js";
import { virtualDisk } from "../files/virtual.js";
import { type EngineSource, load } from "../load.js";
import { setPlatform } from "../platform.js";
import { web } from "../web-platform.js";

setPlatform(web);

export * from "../api.js";
export type { EngineSource };

/** Options of {@link init}. */
export interface InitOptions {
  /**
   * Files in the place of a working directory. With it a plain string is a path, as in Node, and no
   * longer the text itself.
   */
  files?: FileTree | undefined;
}

/**
 * Starts the engine. Before, everything else throws `not-initialised`. A second call starts nothing, but
 * may give other files.
 *
 * @param source - Address of `chalkcompute/chalk.wasm`, a response with it, its bytes, or it compiled
 * @throws {@link ChalkError} `engine` when it cannot be loaded or the page forbids WebAssembly
 */
export function init(source: EngineSource, { files }: InitOptions = {}): Promise<void> {
  if (files) setPlatform({ ...web, disk: virtualDisk(files) });
  return start(() => load(source));
}

/** Starts the engine from its bytes, or from it compiled. Browsers refuse big ones on the main thread. */
export function initSync(wasm: BufferSource | WebAssembly.Module): void {
  startSync(wasm);
}
