import wasm from "chalkcompute/chalk.wasm";
import { Image, init } from "chalkcompute/slim";

import { report } from "./page.mjs";

report(async () => {
  await init(new URL(wasm, import.meta.url));
  return { Image };
});
