/**
 * `chalkcompute/slim` in Node, for programs bundled into one file: the caller brings the engine.
 */

import { start, startSync } from "../engine.js";
import { type EngineSource, load } from "../load.js";
import { node } from "../node-platform.js";
import { setPlatform } from "../platform.js";

setPlatform(node);

export * from "../api.js";
export type { EngineSource };

/** As in browsers. */
export function init(source: EngineSource): Promise<void> {
  return start(() => load(source));
}

/** As in browsers. */
export function initSync(wasm: BufferSource | WebAssembly.Module): void {
  startSync(wasm);
}
