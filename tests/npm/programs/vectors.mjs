import { readFileSync } from "node:fs";

import { Image } from "chalkcompute";

import { checkVectors } from "./vectors/check.mjs";

const read = (name) => JSON.parse(readFileSync(new URL(`vectors/${name}`, import.meta.url), "utf8"));
console.log(JSON.stringify(await checkVectors(Image, read)));
