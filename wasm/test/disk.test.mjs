// Local files in Node.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import * as fs from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, before, beforeEach, test } from "node:test";
import { pathToFileURL } from "node:url";

import { Image } from "chalkcompute";

const home = process.cwd();
let dir;

before(() => {
  dir = fs.realpathSync(fs.mkdtempSync(join(tmpdir(), "chalk-")));
  process.chdir(dir);
});

after(() => {
  process.chdir(home);
  fs.rmSync(dir, { recursive: true, force: true });
});

beforeEach(() => {
  for (const name of fs.readdirSync(dir)) fs.rmSync(join(dir, name), { recursive: true, force: true });
});

function write(files) {
  for (const [path, text] of Object.entries(files)) {
    fs.mkdirSync(dirname(join(dir, path)), { recursive: true });
    fs.writeFileSync(join(dir, path), text);
  }
}

const sha256 = (data) => `sha256:${createHash("sha256").update(data).digest("hex")}`;
const copy = { strategy: "copy" };
const addDir = (src, options) => Image.scratch().addLocalDir(src, "/x", { ...copy, ...options });
const addFile = (src, dest = "/x") => Image.scratch().addLocalFile(src, dest, copy);

/** The entries of the one copied directory. */
async function tree(image) {
  const { uploads, steps } = await image.resolve();
  const listing = uploads.find((upload) => upload.digest === steps[0].digest);
  return JSON.parse(new TextDecoder().decode(listing.bytes));
}

const paths = async (image) => (await tree(image)).map((entry) => entry.path);

async function fails(image, message, code = "file") {
  await assert.rejects(image.hash(), (error) => {
    assert.equal(error.message, message);
    assert.equal(error.code, code);
    return true;
  });
}

test("a file by path and by address", async () => {
  write({ "app.py": "print()", "run.sh": "#!" });
  fs.chmodSync("run.sh", 0o754);
  const step = { kind: "add_file", dest: "/app/app.py", digest: sha256("print()"), mode: "0644" };
  for (const src of ["app.py", "./app.py", join(dir, "app.py"), pathToFileURL("app.py")]) {
    const { steps, uploads } = await addFile(src, "/app/").resolve();
    assert.deepEqual(steps, [step]);
    assert.deepEqual([uploads[0].digest, uploads[0].size], [step.digest, 7]);
  }
  assert.equal((await addFile("run.sh").resolve()).steps[0].mode, "0755");
  fs.chmodSync("run.sh", 0o645);
  assert.equal((await addFile("run.sh").resolve()).steps[0].mode, "0644");
  for (const mode of [0o711, "711", "0711"]) {
    const image = Image.scratch().addLocalFile("run.sh", "/x", { strategy: "copy", mode });
    assert.equal((await image.resolve()).steps[0].mode, "0711");
  }
  fs.symlinkSync("app.py", "link");
  assert.equal((await addFile("link").resolve()).steps[0].digest, step.digest);
});

test("contents are read every time", async () => {
  write({ a: "1" });
  const image = addFile("a");
  const before = await image.hash();
  const { mtime, atime } = fs.statSync("a");
  write({ a: "2" });
  fs.utimesSync("a", atime, mtime);
  assert.notEqual(await image.hash(), before);
  write({ a: "1" });
  assert.equal(await image.hash(), before);
});

test("a directory, links and executable bits", async () => {
  write({ "src/a": "a", "src/deep/run": "r", "src/it's \n odd": "" });
  fs.chmodSync("src/deep/run", 0o700);
  fs.mkdirSync("src/empty");
  fs.symlinkSync("/etc", "src/out");
  fs.symlinkSync("nowhere", "src/broken");
  const entries = await tree(addDir("src"));
  const file = (path, text, mode = "0644") => ({ path, type: "file", digest: sha256(text), mode });
  assert.deepEqual(
    entries.map((entry) => Object.fromEntries(Object.entries(entry).sort())),
    [
      file("a", "a"),
      { path: "broken", type: "symlink", target: "nowhere" },
      { path: "deep", type: "dir" },
      file("deep/run", "r", "0755"),
      { path: "empty", type: "dir" },
      file("it's \n odd", ""),
      { path: "out", type: "symlink", target: "/etc" },
    ].map((entry) => Object.fromEntries(Object.entries(entry).sort())),
  );
  const hash = await addDir("src").hash();
  for (const src of ["./src", "src/", `${dir}/src`, pathToFileURL("src")]) {
    assert.equal(await addDir(src).hash(), hash, String(src));
  }
});

test("sockets and pipes are left out of a directory", async () => {
  write({ "src/a": "" });
  execFileSync("mkfifo", ["src/pipe"]);
  const server = createServer().listen("src/socket");
  await new Promise((resolve) => server.once("listening", resolve));
  try {
    assert.deepEqual(await paths(addDir("src")), ["a"]);
    const reason = "is not a regular file; paths are relative to the working directory";
    await fails(addFile("src/pipe"), `call 2: addLocalFile.src: src/pipe: ${reason}`);
    await fails(addFile("src/socket"), `call 2: addLocalFile.src: src/socket: ${reason}`);
  } finally {
    await new Promise((resolve) => server.close(resolve));
  }
});

test("ignore files at every level, exclude, and .git", async () => {
  write({
    "src/.gitignore": "*.log\nnode_modules/\n",
    "src/.chalkignore": "!keep.log\n",
    "src/.git/HEAD": "",
    "src/drop.log": "",
    "src/keep.log": "",
    "src/node_modules/deep/a": "",
    "src/deep/.gitignore": "*.tmp\n",
    "src/deep/a.tmp": "",
    "src/deep/b": "",
    "src/a.tmp": "",
    "src/docs/x": "",
  });
  const all = [".chalkignore", ".gitignore", "a.tmp", "deep", "deep/.gitignore", "deep/b", "docs", "docs/x", "keep.log"];
  assert.deepEqual(await paths(addDir("src")), all);
  const without = all.filter((path) => !path.startsWith("docs"));
  assert.deepEqual(await paths(addDir("src", { exclude: ["docs/"] })), without);
});

test("what cannot be read is told with call and path", async () => {
  write({ "src/a": "", plain: "" });
  const hint = "paths are relative to the working directory";
  await fails(addFile("gone"), `call 2: addLocalFile.src: gone: no such file; ${hint}`);
  await fails(addFile("src"), `call 2: addLocalFile.src: src: is a directory, not a file; ${hint}`);
  await fails(addFile("plain/x"), `call 2: addLocalFile.src: plain/x: not a directory (ENOTDIR); ${hint}`);
  await fails(addDir("gone"), `call 2: addLocalDir.src: gone: no such directory; ${hint}`);
  await fails(addDir("plain"), `call 2: addLocalDir.src: plain: is not a directory; ${hint}`);
  const raw = Buffer.concat([Buffer.from(`${dir}/src/caf`), Buffer.from([0xe9])]);
  fs.writeFileSync(raw, "");
  await fails(
    addDir("src"),
    `call 2: addLocalDir.src: src: caf\\xe9: its name is not UTF-8: rename it, or exclude its directory; ${hint}`,
  );
  fs.rmSync(raw);
  // A name may hold the character that stands for such bytes.
  write({ "src/\ufffd": "" });
  assert.deepEqual(await paths(addDir("src")), ["a", "\ufffd"]);
});

test("a file that vanishes or changes while it is read", async () => {
  write({ "src/a": "a", "src/b": randomBytes(3_000_000) });
  const hint = "paths are relative to the working directory";
  // The first report comes when the directory is listed, before contents are read.
  const on = (phase, change) => {
    let done = false;
    return (progress) => {
      if (progress.phase === phase && !done) {
        done = true;
        change();
      }
    };
  };
  const rejects = (onProgress, message) =>
    assert.rejects(addDir("src").hash({ onProgress }), (error) => {
      assert.deepEqual([error.code, error.path], ["file", "call 2: addLocalDir.src"]);
      assert.match(error.message, message);
      assert.ok(error.message.endsWith(hint));
      return true;
    });
  const inHash = (change) => on("hash", change);
  await rejects(inHash(() => fs.rmSync("src/a")), /src\/a: no such file/);
  write({ "src/a": "a" });
  // Large files are read in pieces, with reports between them.
  let reports = 0;
  const slowly = (change) => (progress) => {
    if (progress.phase === "hash" && progress.bytes > 1 && (reports += 1) === 1) change();
  };
  write({ "src/b": randomBytes(200_000_000) });
  await rejects(slowly(() => fs.truncateSync("src/b", 150_000_000)), /src\/b: changed while it was read: it had 200000000 bytes and now has 150000000/);
  reports = 0;
  write({ "src/b": randomBytes(200_000_000) });
  await rejects(slowly(() => fs.appendFileSync("src/b", "x")), /src\/b: changed while it was read: it had 200000000 bytes and now has more/);
});

test("progress and cancelling", async () => {
  // So large that no machine hashes it between two reports.
  write({ "src/b": randomBytes(250_000_000), "src/a": "a" });
  const seen = [];
  const image = addDir("src");
  await image.resolve({ onProgress: (progress) => seen.push(progress) });
  const last = (phase) => seen.filter((progress) => progress.phase === phase).at(-1);
  assert.equal(last("list").files, 2);
  assert.deepEqual(last("hash"), { phase: "hash", files: 2, filesTotal: 2, bytes: 250_000_001, bytesTotal: 250_000_001 });
  const control = new AbortController();
  const given = new Error("given up");
  const cancelled = image.hash({
    signal: control.signal,
    onProgress: ({ bytes }) => bytes > 1 && control.abort(given),
  });
  await assert.rejects(cancelled, (error) => {
    assert.deepEqual([error.code, error.name, error.cause], ["aborted", "AbortError", given]);
    return true;
  });
  await assert.rejects(image.hash({ signal: AbortSignal.abort() }), { code: "aborted" });
  // Nothing of this hurts the image.
  assert.match(await image.hash(), /^sha256:/);
});

test("others have their turn while many files are hashed", async () => {
  write(Object.fromEntries(Array.from({ length: 4000 }, (_, i) => [`src/${i % 40}/${i}`, String(i)])));
  let turns = 0;
  const timer = setInterval(() => (turns += 1), 1);
  const entries = await tree(addDir("src"));
  clearInterval(timer);
  assert.equal(entries.length, 4040);
  assert.ok(turns > 0);
});

test("projects", async () => {
  write({ "api/pyproject.toml": "p", "api/uv.lock": "l", "api/main.py": "m" });
  const digest = (text) => `sha256:${createHash("sha256").update(text).digest("hex")}`;
  const files = { pyproject: digest("p"), lock: digest("l") };
  const given = { "pyproject.toml": "p", "uv.lock": "l", "main.py": "other" };
  const { steps, uploads } = await Image.scratch()
    .uvSync("api")
    .uvSync(pathToFileURL("api"), { extras: ["Web_Ui", "cli"], workdir: "/srv/", force: true })
    .uvSync(given, { env: { UV_NO_DEV: "1" } })
    .resolve();
  assert.deepEqual(steps, [
    { kind: "uv_sync", ...files },
    { kind: "uv_sync", ...files, extras: ["cli", "web-ui"], workdir: "/srv", force: true },
    { kind: "uv_sync", ...files, env: { UV_NO_DEV: "1" } },
  ]);
  assert.deepEqual(uploads.map((upload) => upload.digest).sort(), Object.values(files).sort());
  fs.rmSync("api/uv.lock");
  await assert.rejects(Image.scratch().uvSync("api").hash(), {
    message: "call 2: uvSync.project: api/uv.lock: no such file; make it with `uv lock`",
  });
  assert.throws(() => Image.scratch().uvSync("api", { extra: ["cli"] }), { code: "unknown-field" });
  assert.throws(() => Image.scratch().uvSync("api", { extras: ["a b"] }), { code: "name" });
  assert.throws(() => Image.scratch().uvSync("api", { workdir: "srv" }), { code: "path" });
});

test("requirements files", async () => {
  write({
    "requirements.txt": "# all\r\n-r more/base.txt\nRequests\n",
    "more/base.txt": "pandas >= 2.0\n-r deep.txt\n",
    "more/deep.txt": "numpy\n",
  });
  const packages = ["numpy", "pandas>=2.0", "requests"];
  const { steps } = await Image.scratch()
    .pipInstallFromRequirements("requirements.txt")
    .uvPipInstallFromRequirements(pathToFileURL("requirements.txt"), { force: true })
    .resolve();
  assert.deepEqual(steps, [
    { kind: "pip_install", packages },
    { kind: "uv_pip_install", packages, force: true },
  ]);
  write({ "more/deep.txt": "numpy\n-c limits.txt\n" });
  await assert.rejects(Image.scratch().pipInstallFromRequirements("requirements.txt").hash(), (error) => {
    assert.deepEqual(
      [error.code, error.file, error.line, error.path],
      ["requirement", "more/deep.txt", 2, "call 2: pipInstallFromRequirements"],
    );
    assert.match(error.hint, /`addLocalFile`.*`pipInstall` with `-c/);
    return true;
  });
  fs.rmSync("more/deep.txt");
  await assert.rejects(Image.scratch().pipInstallFromRequirements("requirements.txt").hash(), {
    code: "file",
    file: "more/deep.txt",
  });
});

test("Dockerfiles with their context", async () => {
  write({
    "app/Dockerfile": "FROM alpine AS x\nCOPY . /\nFROM scratch\nARG V=1\nCOPY --from=x /a /\nCOPY src/ /src/\n",
    "app/.dockerignore": "**/*.log\n",
    "app/src/a": "a",
    "app/src/b": "b",
    "app/src/c.log": "c",
    "other/src/a": "a",
    "other/src/b": "b",
  });
  const image = Image.fromDockerfile("app/Dockerfile", { target: "1" });
  const hash = await image.hash();
  const digest = `sha256:${"cd".repeat(32)}`;
  assert.notEqual(await image.hash({ base: { alpine: digest } }), hash);
  fs.writeFileSync("app/src/c.log", "changed");
  const text = fs.readFileSync("app/Dockerfile", "utf8");
  for (const [file, options] of [
    ["app/Dockerfile"],
    [pathToFileURL("app/Dockerfile")],
    [{ text }, { context: "app" }],
    [new Blob([text]), { context: pathToFileURL("app") }],
  ]) {
    assert.equal(await Image.fromDockerfile(file, options).hash(), hash, String(file));
  }
  assert.equal(await Image.fromFile("app/Dockerfile").hash(), hash);
  const only = { text: "FROM scratch\nCOPY src/ /src/\n" };
  assert.equal(
    await Image.fromDockerfile(only, { context: "other" }).hash(),
    await Image.fromDockerfile(only, { context: { "src/a": "a", "src/b": "b" } }).hash(),
  );
  assert.notEqual(await Image.fromDockerfile("app/Dockerfile", { args: { V: "2" } }).hash(), hash);
  fs.writeFileSync("app/src/a", "changed");
  assert.notEqual(await image.hash(), hash);
  await assert.rejects(Image.fromDockerfile(only).hash(), { code: "file" });
  const step = Image.scratch().dockerfileCommands("COPY src/a /", { context: "other" });
  assert.match((await step.resolve()).steps[0].context, /^sha256:/);
  await assert.rejects(Image.scratch().dockerfileCommands("COPY gone /", { context: "other" }).hash(), (error) => {
    assert.deepEqual([error.code, error.path], ["file", "call 2: dockerfileCommands[0]"]);
    assert.match(error.message, /`gone` is not in the build context/);
    return true;
  });
});

test("declaration files and calls behind them", async () => {
  write({
    "app/image.toml": '[image]\nbase = "scratch"\n\n[[step]]\nadd_local_file = { src = "a", dest = "/a", strategy = "copy" }\n',
    "app/a": "in app",
    a: "in home",
  });
  const image = Image.fromFile("app/image.toml");
  const digests = async (of) => (await of.resolve()).steps.map((step) => step.digest);
  assert.deepEqual(await digests(image), [sha256("in app")]);
  // Paths of calls start at the working directory.
  const longer = image.addLocalFile("a", "/b", copy).addLocalFile({ text: "here" }, "/c", copy);
  assert.deepEqual(await digests(longer), ["in app", "in home", "here"].map(sha256));
  const text = fs.readFileSync("app/image.toml", "utf8");
  assert.deepEqual(await digests(Image.fromTOML(text)), [sha256("in home")]);
  assert.deepEqual(await digests(Image.fromTOML(text, { files: "app" })), [sha256("in app")]);
  assert.deepEqual(await digests(Image.fromTOML(text, { files: { a: "mine" } })), [sha256("mine")]);
  const mixed = Image.fromTOML(text, { files: { a: "mine" } }).addLocalFile("a", "/b/", copy);
  assert.deepEqual(await digests(mixed), ["mine", "in home"].map(sha256));
  assert.equal((await mixed.resolve()).steps[1].dest, "/b/a");
  write({ "spec.json": JSON.stringify(await image.resolve()) });
  assert.equal(await Image.fromFile(pathToFileURL("spec.json")).hash(), await image.hash());
  assert.throws(() => Image.fromFile("gone.toml"), {
    message: "call 1: fromFile: gone.toml: no such file; paths are relative to the working directory",
  });
  write({ "bad.toml": "[image]\n" });
  assert.throws(() => Image.fromFile("bad.toml"), { code: "missing", file: "bad.toml", line: 1 });
});

test("the working directory is that of the call", async () => {
  write({ "one/a": "1", "two/a": "2" });
  process.chdir("one");
  const image = addFile("a");
  process.chdir("../two");
  const { steps } = await image.addLocalFile("a", "/b", copy).resolve();
  process.chdir(dir);
  assert.deepEqual(steps.map((step) => step.digest), ["1", "2"].map(sha256));
});

test("what goes up", async () => {
  write({ "src/a": "a", "src/copy": "a", big: randomBytes(3_000_000) });
  const resolved = await addDir("src").addLocalFile("big", "/big", copy).resolve();
  assert.deepEqual(resolved.uploads.map((upload) => upload.path), ["src/a", undefined, "big"]);
  const bytes = async (upload) => Buffer.from(await new Response(await resolved.read(upload)).arrayBuffer());
  for (const upload of resolved.uploads) {
    const read = await bytes(upload);
    assert.equal(read.length, upload.size);
    assert.equal(sha256(read), upload.digest);
  }
  const [a, , big] = resolved.uploads;
  write({ "src/a": "b", big: randomBytes(3_000_000) });
  const changed = (path) => ({ code: "file", message: `${path}: changed since the image was resolved; resolve the image again` });
  await assert.rejects(bytes(a), changed("src/a"));
  await assert.rejects(bytes(big), changed("big"));
  fs.truncateSync("big", 5);
  await assert.rejects(resolved.read(big), changed("big"));
  fs.rmSync("big");
  await assert.rejects(resolved.read(big), { code: "file", message: "big: no such file; resolve the image again" });
});
