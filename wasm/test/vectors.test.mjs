// Every vector of `tests/vectors`: what the package computes is what the files say.

import { readFileSync } from "node:fs";
import { test } from "node:test";

import { Image } from "chalkcompute";

import { checkVectors } from "../../tests/vectors/check.mjs";

test("vectors", async () => {
  const folder = new URL("../../tests/vectors/", import.meta.url);
  await checkVectors(Image, (name) => JSON.parse(readFileSync(new URL(name, folder), "utf8")));
});
