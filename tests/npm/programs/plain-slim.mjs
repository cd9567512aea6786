import { Image, init } from "./node_modules/chalkcompute/dist/slim.js";
import { report } from "./page.mjs";

report(async () => {
  await init("/node_modules/chalkcompute/dist/chalk.wasm");
  return { Image };
});
