// Files that are handed over as objects, as a browser does: maps, Blobs, lists of Files, handles, drops.
// The objects of browsers are played here; `tests/npm` takes real ones.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";

import { Image } from "chalkcompute";

const copy = { strategy: "copy" };
const sha256 = (data) => `sha256:${createHash("sha256").update(data).digest("hex")}`;
const addDir = (src) => Image.scratch().addLocalDir(src, "/x", copy);

const FILES = { "a.txt": "a", "sub/b.txt": "b", ".gitignore": "*.log\n", "sub/c.log": "c", "sub/deep/d": "d" };
const expected = () => addDir(FILES).hash();

test("contents of every kind", async () => {
  const bytes = new TextEncoder().encode("text");
  for (const src of [
    { text: "text" },
    new Blob(["te", "xt"]),
    new File(["text"], "name"),
    bytes,
    bytes.buffer,
    Buffer.from("_text_").subarray(1, 5),
    { body: bytes },
    { body: new Blob(["text"]) },
    { body: () => new Blob(["text"]).stream(), size: 4 },
    { body: async function* () { yield bytes; }, size: 4 },
    { kind: "file", name: "x", getFile: async () => new File(["text"], "x") },
  ]) {
    const resolved = await Image.scratch().addLocalFile(src, "/x", copy).resolve();
    assert.deepEqual(resolved.steps, [{ kind: "add_file", dest: "/x", digest: sha256("text"), mode: "0644" }]);
    const [upload] = resolved.uploads;
    assert.equal(await new Response(await resolved.read(upload)).text(), "text");
  }
  const { steps } = await Image.scratch()
    .addLocalFile({ body: bytes, executable: true }, "/run", copy)
    .addLocalFile(new File(["1"], "named.txt"), "/in/", copy)
    .resolve();
  assert.deepEqual(steps.map((step) => [step.dest, step.mode]), [["/run", "0755"], ["/in/named.txt", "0644"]]);
  const short = Image.scratch().addLocalFile({ body: () => new Blob(["text"]).stream(), size: 5 }, "/x", copy);
  await assert.rejects(short.hash(), { code: "file", message: /changed while it was read/ });
});

test("files of one name stay apart", async () => {
  const one = Image.scratch().addLocalFile(new File(["1"], "app.py"), "/1", copy);
  const two = one.addLocalFile(new File(["2"], "app.py"), "/2", copy);
  const branch = one.addLocalFile(new File(["3"], "app.py"), "/3", copy);
  const digests = async (image) => (await image.resolve()).steps.map((step) => step.digest);
  assert.deepEqual(await digests(two), ["1", "2"].map(sha256));
  assert.deepEqual(await digests(branch), ["1", "3"].map(sha256));
  assert.deepEqual(await digests(one), [sha256("1")]);
  let many = Image.scratch();
  for (let i = 0; i < 500; i += 1) many = many.addLocalFile({ text: String(i) }, `/${i}`, copy);
  assert.deepEqual(await digests(many), Array.from({ length: 500 }, (_, i) => sha256(String(i))));
});

test("maps, lists of Files, trees", async () => {
  const hash = await expected();
  assert.equal(await addDir(new Map(Object.entries(FILES))).hash(), hash);
  assert.equal(await addDir(Object.fromEntries(Object.entries(FILES).map(([path, text]) => [`./${path}`, Buffer.from(text)]))).hash(), hash);
  const files = Object.entries(FILES).map(([path, text]) => {
    const file = new File([text], path.split("/").at(-1));
    Object.defineProperty(file, "webkitRelativePath", { value: `chosen/${path}` });
    return file;
  });
  assert.equal(await addDir(files).hash(), hash);
  assert.equal(await addDir(new Set(files)).hash(), hash);
  assert.equal(await addDir({ length: files.length, ...files, item: (i) => files[i] }).hash(), hash);
  assert.equal(await addDir([new File(["a"], "a")]).hash(), await addDir({ a: "a" }).hash());
  const asked = [];
  const tree = {
    async list(dir) {
      asked.push(dir);
      return dir === "" ? [{ name: "a", kind: "file" }, { name: "l", kind: "symlink", target: "a" }, { name: "d", kind: "dir" }] : [];
    },
    async file(path) {
      return path === "a" ? { body: Buffer.from("a"), executable: true } : undefined;
    },
  };
  assert.match(await addDir(tree).hash(), /^sha256:/);
  assert.deepEqual(asked, ["", "d"]);
  const bad = { ...tree, list: async () => [{ name: "a/b", kind: "file" }] };
  await assert.rejects(addDir(bad).hash(), { code: "file", message: /`a\/b` is no name of a file/ });
  const gone = { ...tree, list: async () => Promise.reject(new Error("is locked")) };
  await assert.rejects(addDir(gone).hash(), { code: "file", message: /files: is locked/ });
});

/** A directory handle over contents by path. */
function handle(files, name = "chosen") {
  const entries = new Map();
  for (const [path, text] of Object.entries(files)) {
    const [first, ...rest] = path.split("/");
    if (rest.length === 0) {
      entries.set(first, { kind: "file", name: first, getFile: async () => new File([text], first) });
    } else if (!entries.has(first)) {
      const below = Object.entries(files).filter(([other]) => other.startsWith(`${first}/`));
      entries.set(first, handle(Object.fromEntries(below.map(([other, t]) => [other.slice(first.length + 1), t])), first));
    }
  }
  const get = (kind) => async (wanted) => {
    const found = entries.get(wanted);
    if (!found) throw new DOMException("no", "NotFoundError");
    if (found.kind !== kind) throw new DOMException("no", "TypeMismatchError");
    return found;
  };
  return {
    kind: "directory",
    name,
    getFileHandle: get("file"),
    getDirectoryHandle: get("directory"),
    async *entries() {
      yield* entries;
    },
  };
}

test("directory handles", async () => {
  assert.equal(await addDir(handle(FILES)).hash(), await expected());
  const dockerfile = new File(["FROM scratch\nCOPY sub/b.txt /\nCOPY gone /\n"], "Dockerfile");
  await assert.rejects(Image.fromDockerfile(dockerfile, { context: handle(FILES) }).hash(), {
    code: "file",
    message: /`gone` is not in the build context/,
  });
  const locked = { ...handle(FILES), entries: () => { throw new DOMException("no", "NotAllowedError"); } };
  await assert.rejects(addDir(locked).hash(), { code: "file", message: /the browser has no permission to read it/ });
});

/** Entries as drag and drop gives them, in batches. */
function entry(name, node) {
  if (typeof node === "string") {
    const file = (resolve) => resolve(new File([node], name));
    return { isDirectory: false, isFile: true, name, file };
  }
  const below = Object.entries(node).map(([child, inner]) => entry(child, inner));
  const createReader = () => {
    const left = [...below];
    return { readEntries: (resolve) => resolve(left.splice(0, 2)) };
  };
  return { isDirectory: true, isFile: false, name, createReader };
}

test("what was dropped, taken before the handler ends", async () => {
  const nested = { "a.txt": "a", ".gitignore": "*.log\n", sub: { "b.txt": "b", "c.log": "c", deep: { d: "d" } } };
  const transfer = (...entries) => ({
    items: entries.map((one) => ({ kind: "file", webkitGetAsEntry: () => one })),
    getData: () => "",
  });
  const drop = transfer(entry("chosen", nested));
  const image = addDir(drop);
  drop.items.length = 0;
  assert.equal(await image.hash(), await expected());
  assert.equal(await addDir(entry("chosen", nested)).hash(), await expected());
  const several = transfer(...Object.entries(nested).map(([name, node]) => entry(name, node)));
  assert.equal(await addDir(several).hash(), await expected());
  const text = { kind: "string", webkitGetAsEntry: () => null };
  assert.equal(await addDir({ items: [text], getData: () => "" }).hash(), await addDir({}).hash());
});
