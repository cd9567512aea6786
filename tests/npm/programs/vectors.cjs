const { readFileSync } = require("node:fs");
const { join } = require("node:path");

const { Image } = require("chalkcompute");

const read = (name) => JSON.parse(readFileSync(join(__dirname, "vectors", name), "utf8"));
import("./vectors/check.mjs")
  .then(({ checkVectors }) => checkVectors(Image, read))
  .then((counts) => console.log(JSON.stringify(counts)));
