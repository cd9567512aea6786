// For Node.js, bundled into one file that holds the engine too.
import wasm from "chalkcompute/chalk.wasm";
import { Image, initSync } from "chalkcompute/slim";

initSync(wasm);
console.log(Image.debianSlim("3.12").toTOML());
