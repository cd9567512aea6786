// A tree in the place of a working directory: strings are paths in it, as they are in Node.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

import { Image as InNode } from "chalkcompute";
// The entry that browsers get, which Node does not choose by itself.
import { ChalkError, Image, init } from "../dist/slim.js";

const FILES = {
  "app.py": "print()\n",
  "requirements.txt": "requests\n-r more/dev.txt\n",
  "more/dev.txt": "pytest\n",
  "more/image.toml": '[image]\ndebian_slim = "3.12"\n[[step]]\npip_install_from_requirements = "dev.txt"\n',
  "docker/Dockerfile": "FROM alpine\nCOPY a.txt /\n",
  "docker/a.txt": "a\n",
};

/** A tree that reads at once, as a page's worker can. */
const tree = {
  async list(dir) {
    const below = Object.keys(FILES).filter((path) => path.startsWith(dir && `${dir}/`));
    if (below.length === 0) throw new Error("no such directory");
    const words = below.map((path) => path.slice(dir && dir.length + 1).split("/"));
    const kinds = new Map(words.map(([name, ...rest]) => [name, rest.length > 0 ? "dir" : "file"]));
    return [...kinds].map(([name, kind]) => ({ name, kind }));
  },
  async file(path) {
    return path in FILES ? { body: new TextEncoder().encode(FILES[path]) } : undefined;
  },
};

await init(await readFile(new URL("../dist/chalk.wasm", import.meta.url)), { files: tree });

const same = async (made, inNode) => assert.equal(await made.hash(), await inNode.hash());
const text = (path) => ({ text: FILES[path] });

test("paths of calls lead into the tree", async () => {
  await same(
    Image.debianSlim().addLocalFile("./app.py", "/app/", { strategy: "copy" }),
    InNode.debianSlim().addLocalFile(text("app.py"), "/app/app.py", { strategy: "copy" }),
  );
  await same(
    Image.scratch().addLocalDir("more", "/more", { strategy: "copy" }),
    InNode.scratch().addLocalDir({ "dev.txt": FILES["more/dev.txt"], "image.toml": FILES["more/image.toml"] }, "/more", { strategy: "copy" }),
  );
  await same(Image.debianSlim().pipInstallFromRequirements("requirements.txt"), InNode.debianSlim().pipInstall("requests", "pytest"));
  await same(
    Image.fromDockerfile("docker/Dockerfile"),
    InNode.fromDockerfile(text("docker/Dockerfile"), { context: { "a.txt": "a\n" } }),
  );
});

test("the declaration keeps the paths as they were written", () => {
  assert.match(Image.scratch().addLocalFile("./app.py", "/a").toTOML(), /"(\.\/)?app\.py"/);
});

test("what is not in the tree is an error that names it", async () => {
  const wrong = [() => Image.scratch().addLocalFile("gone.py", "/a", { strategy: "copy" }), () => Image.scratch().addLocalFile("../app.py", "/a", { strategy: "copy" })];
  for (const make of wrong) {
    await assert.rejects(make().resolve(), (error) => error instanceof ChalkError && /gone\.py|\.\.\/app\.py/.test(error.message));
  }
  assert.throws(() => Image.fromFile("gone.toml"), ChalkError);
});

test("a declaration file needs a tree that reads at once, and its paths are relative to it", async () => {
  const quick = {
    ...tree,
    text: (path) => (path in FILES ? new TextEncoder().encode(FILES[path]) : undefined),
    hash: async (paths, sink) => paths.forEach((path, i) => sink.failed(i, new Error(path))),
  };
  assert.throws(() => Image.fromFile("more/image.toml"), /cannot be read at once/);
  await init(await readFile(new URL("../dist/chalk.wasm", import.meta.url)), { files: quick });
  await same(Image.fromFile("more/image.toml"), InNode.debianSlim().pipInstall("pytest"));
});
