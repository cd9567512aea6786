// For Node.js, bundled into one file that holds the engine too.
import wasm from "chalkcompute/chalk.wasm";
import { Image, initSync } from "chalkcompute/slim";

initSync(wasm);
const image = Image.scratch().addLocalFile(process.argv[2], "/file", { strategy: "copy" });
image.resolve().then(({ steps }) => console.log(steps[0].digest));
