// Every vector of `tests/vectors`: what the package computes is what the files say.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { Image } from "chalkcompute";

import { VectorTree } from "./tree.mjs";

function read(name) {
  return JSON.parse(readFileSync(new URL(`../../tests/vectors/${name}.json`, import.meta.url), "utf8")).groups;
}

/** Checks every vector of a file, then what each group says of its hashes. */
async function checkAll(name, check) {
  let count = 0;
  for (const { name: group, expect, vectors } of read(name)) {
    const hashes = new Set();
    for (const vector of vectors) {
      const hash = await check(vector, `${name}: ${group}: ${vector.name}`);
      if (hash) hashes.add(hash);
      count += 1;
    }
    if (expect === "equal") assert.equal(hashes.size, 1, group);
    else if (expect === "differ") assert.equal(hashes.size, vectors.length, group);
    else assert.equal(expect, undefined, group);
  }
  assert.ok(count > 0);
  return count;
}

const EMPTY = { schema: "chalk.image/v1", base: "scratch" };

test("canonical JSON", async () => {
  let elsewhere = 0;
  await checkAll("jcs", async ({ value, canonical }, what) => {
    // Documents hold texts: what is canonical stands in labels, save for what no label may have.
    const texts = typeof value === "string" ? { text: value } : value;
    let expected = typeof value === "string" ? `{"text":${canonical}}` : canonical;
    const labels = {};
    for (const [name, text] of Object.entries(texts)) {
      if (typeof text !== "string" || Array.isArray(value)) continue;
      if (name.trim() === "") {
        expected = expected.replace(`${JSON.stringify(name)}:${JSON.stringify(text)},`, "");
        continue;
      }
      labels[name] = text.replaceAll("\0", "");
      expected = expected.replaceAll("\\u0000", "");
    }
    if (Object.keys(labels).length === 0) {
      elsewhere += 1;
      return;
    }
    const { canonical: written } = await Image.fromJSON({ ...EMPTY, labels }).resolve();
    assert.ok(written.includes(`"labels":${expected},`), what);
  });
  // Numbers in lists and empty names cannot stand in a spec; the tests of core have them.
  assert.equal(elsewhere, 2);
});

test("requirements", async () => {
  await checkAll("requirements", async ({ requirements, normal }, what) => {
    const steps = [{ kind: "pip_install", packages: requirements }];
    assert.deepEqual(Image.fromJSON({ ...EMPTY, steps }).steps[0].packages, normal, what);
    assert.deepEqual(Image.scratch().pipInstall(requirements).steps[0].packages, normal, what);
  });
});

test("trees", async () => {
  await checkAll("trees", async ({ tree, digest }, what) => {
    const image = Image.scratch().addLocalDir(new VectorTree(tree), "/x", { strategy: "copy" });
    const { steps, uploads } = await image.resolve();
    assert.equal(steps[0].digest, digest, what);
    assert.equal(uploads.at(-1).digest, digest, what);
    return digest;
  });
});

async function checkSpec(vector, resolved, what) {
  assert.equal(resolved.canonical, vector.canonical, what);
  assert.equal(resolved.recipeHash, vector.recipe_hash, what);
  assert.equal(resolved.imageHash, vector.image_hash, what);
  assert.equal(resolved.hash(), vector.image_hash ?? vector.recipe_hash, what);
  assert.deepEqual(resolved.stepKeys(), vector.keys, what);
  // What is printed reads back as the same spec.
  const again = Image.fromJSON(JSON.stringify(resolved)).spec;
  assert.deepEqual(again, resolved.spec, what);
  return resolved.hash();
}

for (const name of ["specs", "differ", "equal"]) {
  test(name, async () => {
    await checkAll(name, async (vector, what) => {
      const image = Image.fromJSON(vector.spec);
      return checkSpec(vector, await image.resolve(), what);
    });
  });
}

const declared = ({ file, text, files = {} }) =>
  Image.fromDeclaration(file, text, { files: new VectorTree(files) }).resolve();

test("declarations", async () => {
  await checkAll("declarations", async (vector, what) => {
    const resolved = await declared(vector);
    assert.deepEqual(resolved.spec, Image.fromJSON(vector.spec).spec, what);
    return checkSpec(vector, resolved, what);
  });
});

test("refused", async () => {
  await checkAll("refused", async (vector, what) => {
    await assert.rejects(async () => declared(vector), (error) => {
      assert.equal(error.name, "ChalkError", what);
      const messages = [error, ...error.errors].map((one) => one.message);
      assert.equal(messages.join("\n"), vector.refused, what);
      return true;
    });
  });
});
