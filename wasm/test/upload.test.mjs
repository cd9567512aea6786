// Uploads against a scripted server.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { inspect } from "node:util";

import { ChalkError, Image } from "chalkcompute";

import { build, play, problem } from "./scripted-service.mjs";

function coded(code, words = /./) {
  return (error) => {
    assert.ok(error instanceof ChalkError, inspect(error));
    assert.equal(error.code, code, inspect(error));
    assert.match(error.message, words);
    return true;
  };
}

function digestOf(bytes) {
  return `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
}

/** A service that keeps blobs, and wants those that `wanted` says of a spec. */
async function storing(context, wanted, put = () => false) {
  const blobs = new Map();
  const state = { now: 0, most: 0 };
  const service = await play(context, {
    "POST /v1/builds": ({ body }) => {
      const digests = wanted(JSON.parse(body).spec, blobs).filter((digest) => !blobs.has(digest));
      return digests.length > 0
        ? { reply: "needs_blobs", digests: digests.toSorted() }
        : { reply: "accepted", ...build("queued") };
    },
    "PUT /v1/blobs/*": async (call) => {
      const { request, response, words } = call;
      state.now += 1;
      state.most = Math.max(state.most, state.now);
      try {
        if (await put(call)) return;
        const pieces = [];
        for await (const piece of request) pieces.push(piece);
        const bytes = Buffer.concat(pieces);
        if (digestOf(bytes) !== words[0]) {
          return problem(response, 400, "digest-mismatch", "the bytes do not have the digest");
        }
        blobs.set(words[0], bytes);
        response.writeHead(201).end();
      } catch {
        // The client gave up.
      } finally {
        state.now -= 1;
      }
    },
  });
  return { service, blobs, state };
}

/** Digests of the files in trees that are there; of the trees, where they are not. */
function treesThenFiles(spec, blobs) {
  return spec.steps.flatMap((step) => {
    const tree = blobs.get(step.digest);
    if (!tree) return [step.digest];
    return [...new Set(JSON.parse(tree).flatMap((entry) => entry.digest ?? []))];
  });
}

function folder(context, files) {
  const dir = mkdtempSync(join(tmpdir(), "chalk-upload-"));
  context.after(() => rmSync(dir, { recursive: true, force: true }));
  for (const [name, contents] of Object.entries(files)) writeFileSync(join(dir, name), contents);
  return dir;
}

test("a folder goes up a few files at a time, with progress", async (context) => {
  const files = Object.fromEntries(
    Array.from({ length: 30 }, (_, n) => [`file${n}`, Buffer.alloc(n === 0 ? 5_000_000 : 1000 + n, `${n}`)]),
  );
  const dir = folder(context, files);
  const { service, blobs, state } = await storing(context, treesThenFiles, async () => {
    await new Promise((resolve) => setTimeout(resolve, 5));
    return false;
  });
  const image = Image.scratch().addLocalDir(dir, "/srv", { strategy: "copy" });
  const seen = [];
  const run = await service.client().build(image, { onUpload: (progress) => seen.push(progress) });
  assert.equal(run.id, "0001");
  assert.ok(state.most > 1 && state.most <= 4, `${state.most} at once`);
  for (const contents of Object.values(files)) assert.deepEqual(blobs.get(digestOf(contents)), contents);
  assert.equal(blobs.size, 31);
  assert.ok(seen.every(({ phase }) => phase === "upload"));
  const last = seen.at(-1);
  const total = Object.values(files).reduce((sum, { length }) => sum + length, 0);
  assert.deepEqual([last.files, last.filesTotal, last.bytes, last.bytesTotal], [30, 30, total, total]);
  // A big file shows how far it is.
  assert.ok(seen.some(({ bytes }) => bytes > 0 && bytes < 5_000_000), inspect(seen.slice(0, 9)));

  // Nothing goes up twice.
  const puts = () => service.asked.filter((asked) => asked.startsWith("PUT")).length;
  assert.equal(puts(), 31);
  await service.client().build(image);
  assert.equal(puts(), 31);
});

test("contents in memory and blobs", async (context) => {
  const { service, blobs } = await storing(context, (spec) => spec.steps.map((step) => step.digest));
  const image = Image.scratch()
    .addLocalFile({ text: "text" }, "/text", { strategy: "copy" })
    .addLocalFile(new Uint8Array([1, 2, 3]), "/bytes", { strategy: "copy" })
    .addLocalFile(new Blob(["bl", "ob"]), "/blob", { strategy: "copy" })
    .addLocalFile({ text: "" }, "/empty", { strategy: "copy" });
  await service.client().build(image);
  assert.deepEqual([...blobs.values()].map(String).toSorted(), ["", "\x01\x02\x03", "blob", "text"]);
});

test("a broken upload is sent again", async (context) => {
  const dir = folder(context, { a: Buffer.alloc(300_000, "a"), b: "b" });
  const tries = new Map();
  const { service, blobs } = await storing(context, treesThenFiles, async ({ request, response, words }) => {
    const tried = (tries.get(words[0]) ?? 0) + 1;
    tries.set(words[0], tried);
    if (tried === 1) {
      request.once("data", () => request.destroy());
      request.resume();
      await new Promise((resolve) => request.once("close", resolve));
      return true;
    }
    if (tried === 2) {
      request.resume();
      problem(response, 503, "unavailable", "the service stops");
      return true;
    }
    return false;
  });
  const image = Image.scratch().addLocalDir(dir, "/srv", { strategy: "copy" });
  const seen = [];
  await service.client().build(image, { onUpload: (progress) => seen.push(progress) });
  assert.equal(blobs.size, 3);
  const last = seen.at(-1);
  assert.deepEqual([last.bytes, last.bytesTotal], [300_001, 300_001]);
});

test("what cannot be uploaded", async (context) => {
  const dir = folder(context, { big: Buffer.alloc(200_000, "x"), gone: "gone" });
  const copy = { strategy: "copy" };
  const changing = await Image.scratch().addLocalFile(join(dir, "big"), "/big", copy).resolve();
  writeFileSync(join(dir, "big"), Buffer.alloc(200_000, "y"));
  const shrinking = await Image.scratch().addLocalFile(join(dir, "big"), "/big", copy).resolve();
  const growing = await Image.scratch().addLocalFile(join(dir, "gone"), "/gone", copy).resolve();
  const digests = (spec) => spec.steps.map((step) => step.digest);
  const { service, blobs } = await storing(context, digests);
  const client = service.client();
  await assert.rejects(client.build(changing), coded("file", /big: changed since.*resolve the image again/));
  truncateSync(join(dir, "big"), 10);
  await assert.rejects(client.build(shrinking), coded("file", /big: changed since/));
  writeFileSync(join(dir, "gone"), "gone and come back");
  await assert.rejects(client.build(growing), coded("file", /gone: changed since/));
  rmSync(join(dir, "gone"));
  await assert.rejects(client.build(growing), coded("file", /gone: .*no such file/i));
  // A spec alone has no files.
  await assert.rejects(client.build(growing.toJSON()), coded("missing", /needs sha256:[0-9a-f]{64}/));
  assert.equal(blobs.size, 0);

  const refusing = await storing(context, digests, ({ request, response }) => {
    request.resume();
    problem(response, 413, "too-large", "the body is too large", { hint: "the setting `limits.blob`" });
    return true;
  });
  const text = Image.scratch().addLocalFile({ text: "text" }, "/text", copy);
  await assert.rejects(refusing.service.client().build(text), coded("too-large", /limits\.blob/));
  const puts = refusing.service.asked.filter((asked) => asked.startsWith("PUT"));
  assert.equal(puts.length, 1);

  // A service that says of good bytes that they are not.
  const doubting = await storing(context, digests, ({ request, response }) => {
    request.resume();
    problem(response, 400, "digest-mismatch", "the bytes do not have the digest");
    return true;
  });
  await assert.rejects(doubting.service.client().build(text), coded("file", /changed since/));

  // One that forgets what it got.
  const forgetful = await play(context, {
    "POST /v1/builds": ({ body }) => ({ reply: "needs_blobs", digests: digests(JSON.parse(body).spec) }),
    "PUT /v1/blobs/*": ({ request, response }) => {
      request.resume();
      request.once("end", () => response.writeHead(201).end());
    },
  });
  await assert.rejects(forgetful.client().build(text), coded("protocol", /again and again/));
});

test("an upload ends when the caller gives up, and with the first failure", async (context) => {
  const dir = folder(context, Object.fromEntries(Array.from({ length: 20 }, (_, n) => [`f${n}`, `${n}`])));
  const image = Image.scratch().addLocalDir(dir, "/srv", { strategy: "copy" });
  const own = new AbortController();
  const { service } = await storing(context, treesThenFiles, ({ request }) => {
    if (service.asked.length < 5) return false;
    request.resume();
    setTimeout(() => own.abort(), 10);
    return true;
  });
  await assert.rejects(service.client().build(image, { signal: own.signal }), coded("aborted"));

  const { service: strict } = await storing(context, treesThenFiles, ({ request, response }) => {
    if (strict.asked.length < 5) return false;
    request.resume();
    problem(response, 401, "unauthorized", "not authorized");
    return true;
  });
  await assert.rejects(strict.client().build(image), coded("unauthorized"));
  assert.ok(strict.asked.length < 20, `${strict.asked.length} requests`);
});
