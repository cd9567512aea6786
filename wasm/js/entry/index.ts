/**
 * `chalkcompute` in browsers and the like: starts the engine from the file beside this script.
 */

import { init } from "./slim.js";

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
} from "./slim.js";

await init(new URL("./chalk.wasm", import.meta.url));
