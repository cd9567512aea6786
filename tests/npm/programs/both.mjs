// A program whose parts load the package both ways has one `Image`, not two.
import { createRequire } from "node:module";

import { ChalkError, Image } from "chalkcompute";
import * as slim from "chalkcompute/slim";

const required = createRequire(import.meta.url)("chalkcompute");
console.log(JSON.stringify([required.Image, slim.Image].map((one) => one === Image).concat(required.ChalkError === ChalkError)));
