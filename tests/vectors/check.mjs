// Every vector of this folder: what the npm package computes is what the files say. For any host of
// JavaScript, so it imports nothing: callers hand it the package and a way to read the files.

/** A spec that says nothing, to put things in. */
const EMPTY = { schema: "chalk.image/v1", base: "scratch" };

/**
 * Checks all files.
 *
 * @param {typeof import("chalkcompute").Image} Image - From the package under test
 * @param {(name: string) => object | Promise<object>} read - Gives a file of this folder as a document
 * @returns {Promise<Record<string, number>>} How many vectors of each file hold
 * @throws {Error} At the first that does not
 */
export async function checkVectors(Image, read) {
  const counts = {};
  for (const [name, check] of Object.entries(CHECKS)) {
    const { groups } = await read(`${name}.json`);
    counts[name] = await checkGroups(name, groups, (vector, what) => check(Image, vector, what));
    if (counts[name] === 0) throw new Error(`${name}.json has no vectors`);
  }
  return counts;
}

/** Checks every vector of a file, then what each group says of its hashes. */
async function checkGroups(name, groups, check) {
  let count = 0;
  for (const { name: group, expect, vectors } of groups) {
    const hashes = new Set();
    for (const vector of vectors) {
      const hash = await check(vector, `${name}: ${group}: ${vector.name}`);
      if (hash) hashes.add(hash);
      count += 1;
    }
    const distinct = { equal: 1, differ: vectors.length }[expect];
    if (expect !== undefined) same(hashes.size, distinct, `${name}: ${group}: number of hashes`);
  }
  return count;
}

const CHECKS = {
  async jcs(Image, { value, canonical }, what) {
    // Documents hold texts: what is canonical stands in labels, save for what no label may have.
    // Numbers in lists and empty names cannot stand in a spec; the tests of core have them.
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
    if (Object.keys(labels).length === 0) return;
    const { canonical: written } = await Image.fromJSON({ ...EMPTY, labels }).resolve();
    if (!written.includes(`"labels":${expected},`)) same(written, expected, what);
  },

  async requirements(Image, { requirements, normal }, what) {
    const steps = [{ kind: "pip_install", packages: requirements }];
    same(Image.fromJSON({ ...EMPTY, steps }).steps[0].packages, normal, what);
    same(Image.scratch().pipInstall(requirements).steps[0].packages, normal, what);
  },

  async trees(Image, { tree, digest }, what) {
    const image = Image.scratch().addLocalDir(new VectorTree(tree), "/x", { strategy: "copy" });
    const { steps, uploads } = await image.resolve();
    same(steps[0].digest, digest, what);
    same(uploads.at(-1).digest, digest, what);
    return digest;
  },

  specs: checkSpec,
  differ: checkSpec,
  equal: checkSpec,

  async declarations(Image, vector, what) {
    const resolved = await declared(Image, vector);
    same(resolved.spec, Image.fromJSON(vector.spec).spec, what);
    return checkResolved(Image, vector, resolved, what);
  },

  async refused(Image, vector, what) {
    let refusal;
    try {
      await declared(Image, vector);
    } catch (error) {
      refusal = error;
    }
    same(refusal?.name, "ChalkError", what);
    const messages = [refusal, ...refusal.errors].map((one) => one.message);
    same(messages.join("\n"), vector.refused, what);
  },
};

async function checkSpec(Image, vector, what) {
  return checkResolved(Image, vector, await Image.fromJSON(vector.spec).resolve(), what);
}

function checkResolved(Image, vector, resolved, what) {
  same(resolved.canonical, vector.canonical, what);
  same(resolved.recipeHash, vector.recipe_hash, what);
  same(resolved.imageHash, vector.image_hash, what);
  same(resolved.hash(), vector.image_hash ?? vector.recipe_hash, what);
  same(resolved.stepKeys(), vector.keys, what);
  // What is printed reads back as the same spec.
  same(Image.fromJSON(JSON.stringify(resolved)).spec, resolved.spec, what);
  return resolved.hash();
}

async function declared(Image, { file, text, files = {} }) {
  return Image.fromDeclaration(file, text, { files: new VectorTree(files) }).resolve();
}

function same(found, expected, what) {
  const [a, b] = [found, expected].map((value) => JSON.stringify(value));
  if (a !== b) throw new Error(`${what}\nexpected ${b}\nfound    ${a}`);
}

/**
 * A tree of the vectors' files: each `text` (and `executable`), `symlink` or `dir`.
 *
 * @implements {import("chalkcompute").FileTree}
 */
class VectorTree {
  #files;

  constructor(files) {
    this.#files = new Map(Object.entries(files));
  }

  async list(dir) {
    const prefix = dir === "" || dir === "." ? "" : `${dir}/`;
    const entries = new Map();
    for (const [path, file] of this.#files) {
      if (!path.startsWith(prefix) || path === dir) continue;
      const [name, ...below] = path.slice(prefix.length).split("/");
      const kind = below.length > 0 || file.dir ? "dir" : file.symlink ? "symlink" : "file";
      if (!entries.has(name) || kind === "dir") entries.set(name, { name, kind, target: file.symlink });
    }
    if (entries.size === 0 && prefix && !this.#files.get(dir)?.dir) throw new Error("no such directory");
    return [...entries.values()];
  }

  async file(path) {
    const file = this.#files.get(path);
    if (!file) return undefined;
    if (file.text === undefined) throw new Error("is not a regular file");
    return { body: new TextEncoder().encode(file.text), executable: file.executable === true };
  }
}
