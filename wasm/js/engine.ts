/**
 * The engine: `core` as WebAssembly. The files beside `generated/engine.js` are made by
 * `cargo xtask wasm`.
 */

import initGenerated, * as generated from "./generated/engine.js";
import { ChalkError } from "./error.js";

export type Chain = generated.Chain;
export type Files = generated.Files;
export type ResolvedHandle = generated.Resolved;

let ready = false;

/** The engine. @throws {@link ChalkError} `not-initialised` */
export function engine(): typeof generated {
  if (!ready) {
    throw new ChalkError({
      code: "not-initialised",
      reason: "the engine is not initialised",
      hint: "call `await init(…)` or `initSync(…)` of chalkcompute/slim first",
    });
  }
  return generated;
}

/** Starts the engine from the bytes of `chalk.wasm`, or from it compiled. */
export function startSync(wasm: BufferSource | WebAssembly.Module): void {
  if (ready) return;
  try {
    generated.initSync({ module: wasm });
  } catch (thrown) {
    throw unusable(thrown);
  }
  ready = true;
}

let starting: Promise<void> | undefined;

/** Starts the engine once, however often it is called; after a failure it may be tried again. */
export function start(load: () => Promise<BufferSource | WebAssembly.Module>): Promise<void> {
  if (ready) return Promise.resolve();
  starting ??= load()
    .then(async (wasm) => {
      if (ready) return;
      await initGenerated({ module_or_path: wasm });
      ready = true;
    })
    .catch((thrown: unknown) => {
      starting = undefined;
      throw thrown instanceof ChalkError ? thrown : unusable(thrown);
    });
  return starting;
}

function unusable(thrown: unknown): ChalkError {
  const reason = thrown instanceof Error ? thrown.message : String(thrown);
  const blocked = /content security policy|unsafe-eval|disallowed by embedder/i.test(reason);
  return new ChalkError({
    code: "engine",
    reason: `chalk.wasm cannot be started: ${reason}`,
    hint: blocked
      ? "allow WebAssembly in the page's Content-Security-Policy: script-src 'wasm-unsafe-eval'"
      : "take chalk.wasm and the scripts from the same version of the package",
    cause: thrown,
  });
}
