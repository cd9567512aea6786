/**
 * `chalkcompute` in browsers and the like: starts the engine from the file beside this script.
 */

import { init } from "./slim.js";

export { ChalkError, Image, ResolvedImage, diff } from "./slim.js";

await init(new URL("./chalk.wasm", import.meta.url));
