/**
 * `chalkcompute` in Node: starts the engine from the file beside this script, before anything is asked.
 */

import { readFileSync } from "node:fs";
import { join } from "node:path";

import { ChalkError } from "../error.js";
import { initSync } from "./node-slim.js";

export {
  BuildRun,
  ChalkError,
  Client,
  Image,
  ResolvedImage,
  Sandbox,
  SandboxProcess,
  ServiceError,
  diff,
} from "./node-slim.js";

initSync(engineBytes());

function engineBytes(): Uint8Array<ArrayBuffer> {
  try {
    return readFileSync(join(__dirname, "chalk.wasm"));
  } catch (cause) {
    throw new ChalkError({
      code: "engine",
      reason: `chalk.wasm is not beside the script: ${cause instanceof Error ? cause.message : String(cause)}`,
      hint: "leave chalkcompute out of the bundle, copy chalk.wasm beside it, or use chalkcompute/slim",
      cause,
    });
  }
}
