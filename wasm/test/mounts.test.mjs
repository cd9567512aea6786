// Files that are mounted into sandboxes: which are taken, what goes up, and how a service is told of them.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { inspect } from "node:util";

import { ChalkError, Image } from "chalkcompute";
import * as page from "../dist/slim.js";

import { TOKEN, play, problem } from "./scripted-service.mjs";

page.initSync(readFileSync(new URL("../dist/chalk.wasm", import.meta.url)));

const copy = { strategy: "copy" };

function digestOf(bytes) {
  return `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
}

function coded(code, words) {
  return (error) => {
    assert.ok(error instanceof ChalkError, inspect(error));
    assert.deepEqual([error.code, words.test(error.message)], [code, true], inspect(error));
    return true;
  };
}

function folder(context, files) {
  const dir = mkdtempSync(join(tmpdir(), "chalk-mounts-"));
  context.after(() => rmSync(dir, { recursive: true, force: true }));
  for (const [name, contents] of Object.entries(files)) {
    mkdirSync(join(dir, name, ".."), { recursive: true });
    writeFileSync(join(dir, name), contents);
  }
  return dir;
}

/** A service that keeps blobs, and starts a sandbox when it has all that is mounted. */
async function mounting(context, put = () => false) {
  const blobs = new Map();
  const state = { now: 0, most: 0, puts: 0, request: undefined };
  const lacked = (digest) => (blobs.has(digest) ? [] : [digest]);
  const wanted = ({ type, digest }) => {
    const tree = type === "dir" && blobs.get(digest);
    return tree ? JSON.parse(tree).flatMap((entry) => lacked(entry.digest ?? digest)) : lacked(digest);
  };
  const service = await play(context, {
    "POST /v1/sandboxes": ({ body }) => {
      state.request = JSON.parse(body);
      const digests = [...new Set(state.request.mounts.flatMap(({ source }) => wanted(source)))].sort();
      return digests.length > 0 ? { reply: "needs_blobs", digests } : { reply: "accepted", id: "s1", state: "starting" };
    },
    "PUT /v1/blobs/*": async (call) => {
      const { request, response, words } = call;
      state.puts += 1;
      state.now += 1;
      state.most = Math.max(state.most, state.now);
      try {
        if (await put(call)) return;
        const pieces = [];
        for await (const piece of request) pieces.push(piece);
        const bytes = Buffer.concat(pieces);
        if (digestOf(bytes) !== words[0]) return problem(response, 400, "digest-mismatch", "not its digest");
        blobs.set(words[0], bytes);
        response.writeHead(201).end();
      } finally {
        state.now -= 1;
      }
    },
  });
  return { service, blobs, state, sandboxes: service.client().sandboxes };
}

/** The tree that a mount names, as a service has it. */
function treeOf(blobs, { source }) {
  assert.equal(source.type, "dir");
  return JSON.parse(blobs.get(source.digest));
}

test("what an image declares goes up once, several at a time, and keeps bits and links", async (context) => {
  const many = Object.fromEntries(Array.from({ length: 12 }, (_, n) => [`src/sub/f${n}`, `contents ${n}`]));
  const dir = folder(context, {
    ...many,
    "src/.gitignore": "*.log\n",
    "src/left.log": "left out",
    "src/run.sh": "#!/bin/sh\n",
    "src/big": Buffer.alloc(3_000_000, "b"),
    "app.py": "print(1)\n",
    "tool": "#!/bin/sh\n",
  });
  chmodSync(join(dir, "src/run.sh"), 0o755);
  chmodSync(join(dir, "tool"), 0o755);
  symlinkSync("run.sh", join(dir, "src/link"));
  const { sandboxes, blobs, state } = await mounting(context, async () => {
    await new Promise((resolve) => setTimeout(resolve, 5));
    return false;
  });
  const image = Image.scratch()
    .addLocalDir(join(dir, "src"), "/srv", { exclude: ["f11"] })
    .addLocalFile(join(dir, "app.py"), "/app/")
    .workdir("/app")
    .addLocalFile(join(dir, "tool"), "/bin/tool");
  const resolved = await image.resolve();
  const seen = [];
  await sandboxes.run(resolved, { onUpload: (progress) => seen.push(progress) });
  assert.equal(state.request.image, await Image.scratch().workdir("/app").hash());
  const [srv, app, tool] = state.request.mounts;
  const file = (text, executable) => ({ type: "file", digest: digestOf(text), executable });
  assert.deepEqual([app.dest, app.source, app.writable], ["/app/app.py", file("print(1)\n", false), false]);
  assert.deepEqual([tool.dest, tool.source, tool.writable], ["/bin/tool", file("#!/bin/sh\n", true), false]);
  assert.equal(srv.dest, "/srv");
  const tree = treeOf(blobs, srv);
  const names = Object.keys(many).map((name) => name.slice(4)).filter((name) => !name.endsWith("f11"));
  assert.deepEqual(tree.map(({ path }) => path).sort(), [".gitignore", "big", "link", "run.sh", "sub", ...names].sort());
  const entry = (name) => tree.find(({ path }) => path === name);
  assert.deepEqual(entry("run.sh"), { path: "run.sh", type: "file", mode: "0755", digest: digestOf("#!/bin/sh\n") });
  assert.deepEqual(entry("link"), { path: "link", type: "symlink", target: "run.sh" });
  assert.equal(entry("big").mode, "0644");
  // The same as a copy would be.
  const copied = await Image.scratch().addLocalDir(join(dir, "src"), "/srv", { ...copy, exclude: ["f11"] }).resolve();
  assert.equal(srv.source.digest, copied.steps[0].digest);

  assert.ok(state.most > 1 && state.most <= 4, `${state.most} at once`);
  assert.deepEqual([...new Set(seen.map(({ phase }) => phase))], ["list", "hash", "upload"]);
  const last = seen.at(-1);
  assert.deepEqual([last.files, last.bytes], [last.filesTotal, last.bytesTotal]);
  assert.ok(seen.some(({ phase, bytes }) => phase === "upload" && bytes > 0 && bytes < 3_000_000));

  // Nothing goes up again, and an edit changes only what it touches.
  const { puts, request } = state;
  await sandboxes.run(resolved);
  assert.deepEqual([state.puts, state.request], [puts, request]);
  writeFileSync(join(dir, "src/sub/f3"), "edited");
  await sandboxes.run(image);
  assert.equal(state.puts, puts + 2);
  assert.equal(state.request.image, request.image);
  assert.notEqual(state.request.mounts[0].source.digest, request.mounts[0].source.digest);
  assert.equal(treeOf(blobs, state.request.mounts[0]).find(({ path }) => path === "sub/f3").digest, digestOf("edited"));
});

test("what is mounted besides", async (context) => {
  const dir = folder(context, { "d/a": "a", "d/b.log": "b", "f.txt": "f" });
  const before = process.cwd();
  process.chdir(dir);
  context.after(() => process.chdir(before));
  const { sandboxes, blobs, state } = await mounting(context);
  const declared = Image.scratch().addLocalFile({ text: "declared" }, "/declared");
  await sandboxes.run(declared, {
    mounts: [
      { src: "d", dest: "/d", writable: true, exclude: ["*.log"] },
      { src: "f.txt", dest: "/etc/" },
      { src: new URL(`file://${dir}/d`), dest: "/e" },
      { src: { text: "text" }, dest: "/text", writable: false },
      { src: new Uint8Array([1, 2]), dest: "/bytes" },
      { src: { body: new Blob(["blob"]), executable: true }, dest: "/blob" },
      { src: new Map([["x/y", "z"]]), dest: "/map" },
      { src: { "x.txt": "x" }, dest: "/object" },
    ],
  });
  const { mounts } = state.request;
  assert.deepEqual(
    mounts.map(({ dest, writable, source }) => [dest, writable, source.type, source.executable]),
    [
      ["/declared", false, "file", false],
      ["/d", true, "dir", undefined],
      ["/etc/f.txt", false, "file", false],
      ["/e", false, "dir", undefined],
      ["/text", false, "file", false],
      ["/bytes", false, "file", false],
      ["/blob", false, "file", true],
      ["/map", false, "dir", undefined],
      ["/object", false, "dir", undefined],
    ],
  );
  const paths = (index) => treeOf(blobs, mounts[index]).map(({ path }) => path);
  assert.deepEqual([paths(1), paths(3), paths(7), paths(8)], [["a"], ["a", "b.log"], ["x", "x/y"], ["x.txt"]]);
  assert.deepEqual(mounts.slice(4, 7).map(({ source }) => String(blobs.get(source.digest))), ["text", "\x01\x02", "blob"]);

  // An image by name brings nothing along but what is given.
  await sandboxes.run("team/app:v1", { mounts: [{ src: "f.txt", dest: "/f" }] });
  assert.deepEqual([state.request.image, state.request.mounts.length], ["team/app:v1", 1]);
});

test("in a page, from what it was given", async (context) => {
  const { service, blobs, state } = await mounting(context);
  const client = new page.Client({ server: service.url, token: TOKEN });
  const image = page.Image.scratch().addLocalDir({ "a.txt": new Blob(["a"]), b: "text itself" }, "/srv");
  const mounts = [{ src: "the text itself", dest: "/text" }, { src: new File(["named"], "n.txt"), dest: "/files/" }];
  await client.sandboxes.run(image, { mounts });
  const [srv, text, named] = state.request.mounts;
  assert.deepEqual(treeOf(blobs, srv).map(({ path, digest }) => [path, String(blobs.get(digest))]), [
    ["a.txt", "a"],
    ["b", "text itself"],
  ]);
  assert.deepEqual([text.dest, text.source.digest], ["/text", digestOf("the text itself")]);
  assert.deepEqual([named.dest, named.source.digest], ["/files/n.txt", digestOf("named")]);
});

test("what cannot be mounted", async (context) => {
  const dir = folder(context, { f: "f", "d/a": "a" });
  const { sandboxes, service } = await mounting(context);
  const f = join(dir, "f");
  const missing = Image.scratch().addLocalFile(f, "/f").addLocalFile(join(dir, "none"), "/none");
  const check = (image, mounts, code, words) => assert.rejects(sandboxes.run(image, { mounts }), coded(code, words));
  await check(missing, [], "file", /^image\.mounts\[1\]\.src: .*none: no such file/);
  const good = { src: f, dest: "/f" };
  await check("app", [good, { src: join(dir, "none"), dest: "/x" }], "file", /^mounts\[1\]\.src: .*none: no such file/);
  await check("app", [{ src: f, dest: "f" }], "path", /^mounts\[0\]\.dest: `f` is not an absolute path/);
  await check("app", [{ src: { text: "" }, dest: "/x/" }], "path", /^mounts\[0\]\.dest: .*no name of their own/);
  await check("app", [{ src: f, dest: "/f", exclude: ["a"] }], "conflict", /^mounts\[0\]\.exclude/);
  await check("app", [{ src: f, dest: "/f", writeable: true }], "unknown-field", /^mounts\[0\]\.writeable/);
  await check("app", [{ src: f, dest: "/f", writable: 1 }], "wrong-type", /^mounts\[0\]\.writable/);
  await check("app", [good, { src: 7, dest: "/x" }], "wrong-type", /^mounts\[1\]\.src/);
  await check("app", ["f:/f"], "wrong-type", /^mounts\[0\]: expected an object/);
  assert.deepEqual(service.asked, []);
});

test("a file that changes meanwhile, and giving up", async (context) => {
  const dir = folder(context, { f: "first", ...Object.fromEntries(Array.from({ length: 20 }, (_, n) => [`d/${n}`, `${n}`])) });
  const change = await mounting(context, async ({ request, response, time }) => {
    if (time > 0) return false;
    // Broken off; when it is read again it is another one.
    writeFileSync(join(dir, "f"), "other");
    request.resume();
    problem(response, 503, "unavailable", "the service stops");
    return true;
  });
  const image = Image.scratch().addLocalFile(join(dir, "f"), "/f");
  await assert.rejects(change.sandboxes.run(image), coded("file", /f: changed since/));

  const own = new AbortController();
  const giving = await mounting(context, ({ request }) => {
    if (giving.state.puts < 5) return false;
    request.resume();
    setTimeout(() => own.abort(), 10);
    return true;
  });
  const many = Image.scratch().addLocalDir(join(dir, "d"), "/d");
  await assert.rejects(giving.sandboxes.run(many, { signal: own.signal }), coded("aborted", /aborted/));
  assert.ok(giving.state.puts < 20, `${giving.state.puts} uploads`);
});
