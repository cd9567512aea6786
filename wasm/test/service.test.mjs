// The client against a real service.

import assert from "node:assert/strict";
import { once } from "node:events";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { inspect } from "node:util";

import { ChalkError, Client, Image, ServiceError } from "chalkcompute";

import { PYTHON, RealService, missing } from "./real-service.mjs";
import { all } from "./scripted-service.mjs";

/** @type {RealService} */
let service;
const base = Image.base(PYTHON);
let count = 0;
/** A word that no other step has, so that none of its results is cached. */
const unique = () => `${process.pid}-${Date.now()}-${count++}`;

before(async () => {
  if (!missing) service = await RealService.start();
});
after(() => service?.remove());

/** Events to the end; checks that they are numbered without gaps. */
async function whole(run) {
  const events = await all(run);
  events.forEach(({ seq }, index) => assert.equal(seq, index + 1, inspect(events)));
  assert.equal(events.at(-1).type, "finished");
  return events;
}

/** What a step printed. */
function output(events, step) {
  return events.filter((e) => e.type === "log" && e.step === step).map((e) => e.text).join("");
}

/** How a build ends, looked up from time to time: to follow it would be to wait for it. */
async function ending(client, build) {
  for (;;) {
    const { status } = (await client.builds()).find(({ id }) => id === build);
    if (status !== "queued" && status !== "running") return status;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

test("a build, the same again, and what is known of both", { skip: missing }, async () => {
  const client = service.client();
  const name = `team/app-${unique()}:v1`;
  const mark = unique();
  const image = base.runCommands(`echo one ${mark}`, `echo two ${mark} >&2`).env({ A: "b" });
  const plan = await client.plan(image);
  assert.deepEqual(plan.steps.map(({ state }) => state), ["run", "run"]);
  assert.equal(plan.exists, false);

  const run = await client.build(image, { name });
  const events = await whole(run);
  assert.equal(output(events, 0), `one ${mark}\n`);
  assert.equal(output(events, 1), `two ${mark}\n`);
  const build = await run.done;
  assert.deepEqual([build.status, build.error], ["built", undefined], inspect(build));
  const { image_hash } = await client.resolve(image);
  assert.equal(build.image_hash, image_hash);
  assert.deepEqual(events.at(-1).build, build);
  assert.deepEqual(await whole(client.follow(run.id)), events);

  const again = await (await client.build(image, { name })).done;
  assert.deepEqual([again.status, again.image, again.digest], ["reused", build.image, build.digest]);
  const known = await client.plan(image);
  assert.deepEqual([known.exists, known.steps.map(({ state }) => state)], [true, ["cached", "cached"]]);

  assert.equal((await all(client.logs(run.id))).join(""), `one ${mark}\ntwo ${mark}\n`);
  assert.equal((await all(client.logs(run.id, { step: 1, follow: true }))).join(""), `two ${mark}\n`);
  assert.ok((await client.builds({ name })).some(({ id }) => id === run.id));
  assert.deepEqual((await client.images({ name })).map((found) => found.image_hash), [image_hash]);
  const detail = await client.image(name);
  assert.equal(detail.image_hash, image_hash);
  assert.equal((await client.image(image_hash.slice("sha256:".length, 30))).digest, detail.digest);

  assert.equal((await client.diff(name, image)).equal, true);
  const changed = image.runCommands("echo three");
  const diff = await client.diff(image_hash, changed);
  assert.deepEqual([diff.equal, diff.first_step], [false, 2]);
  const why = await client.why(changed, { name });
  assert.equal(why.against.image_hash, image_hash);
  assert.deepEqual(why.reruns.map(({ step }) => step), [2]);
  const printed = await service.chalk("compute", "image", "diff", name, image_hash, "--json");
  assert.equal(JSON.parse(printed).equal, true);
});

test("a step that fails", { skip: missing }, async () => {
  const run = await service.client().build(base.runCommands(`echo before ${unique()}; exit 7`));
  const events = await whole(run);
  const failed = events.find(({ type }) => type === "step_failed");
  assert.deepEqual([failed.step, failed.exit_code], [0, 7]);
  assert.match(output(events, 0), /before/);
  const build = await run.done;
  assert.deepEqual([build.status, build.error.type], ["failed", "urn:chalk:step-failed"]);
  // Who only waits learns the same.
  assert.deepEqual(await service.client().follow(run.id).done, build);
});

test("a build that is cancelled, and one that is left", { skip: missing }, async () => {
  const client = service.client();
  const slow = () => base.runCommands(`echo begun ${unique()}; sleep 600`);
  const begun = async (run) => {
    for await (const event of run) if (event.type === "log") return;
  };
  const cancelled = await client.build(slow());
  await begun(cancelled);
  await cancelled.cancel();
  const build = await cancelled.done;
  assert.deepEqual([build.status, build.error.type], ["cancelled", "urn:chalk:cancelled"]);

  const own = new AbortController();
  const left = await client.build(slow(), { signal: own.signal, cancelOnDisconnect: true });
  await begun(left);
  const waiting = left.done;
  own.abort();
  await assert.rejects(waiting, (error) => error.code === "aborted");
  assert.equal(await ending(client, left.id), "cancelled");

  // Two clients share a build; it ends when the last one leaves.
  const image = slow();
  const [one, two] = [new AbortController(), new AbortController()];
  const options = (own) => ({ signal: own.signal, cancelOnDisconnect: true });
  const first = await client.build(image, options(one));
  const second = await client.build(image, options(two));
  assert.equal(first.id, second.id);
  await begun(second);
  const others = second.done;
  one.abort();
  assert.equal((await client.builds({ limit: 1 }))[0].status, "running");
  two.abort();
  await assert.rejects(others, (error) => error.code === "aborted");
  assert.equal(await ending(client, first.id), "cancelled");
});

for (const [signal, status] of [["SIGKILL", "failed"], ["SIGTERM", "cancelled"]]) {
  test(`events go on after a service that ended by ${signal}`, { skip: missing }, async () => {
    const client = service.client();
    const image = base.runCommands(`for i in $(seq 50); do echo line $i ${unique()}; done; sleep 600`);
    const run = await client.build(image);
    const waiting = client.follow(run.id).done;
    let restarted;
    const seen = [];
    for await (const event of run) {
      seen.push(event);
      if (event.type === "log" && !restarted) {
        restarted = service.end(signal).then(() => service.launch());
      }
    }
    await restarted;
    seen.forEach(({ seq }, index) => assert.equal(seq, index + 1));
    const { build } = seen.at(-1);
    assert.equal(build.status, status, inspect(build));
    assert.equal((await waiting).status, status);
    assert.deepEqual(await whole(client.follow(run.id)), seen);
    // The same client goes on with the service.
    const next = await client.build(base.runCommands(`echo after ${unique()}`));
    assert.equal((await next.done).status, "built");
  });
}

test("a long log over connections that keep breaking", { skip: missing }, async (context) => {
  // Cuts every connection after some more bytes than the one before.
  let cuts = 0;
  const proxy = createServer((near) => {
    const { hostname, port } = new URL(service.url);
    const far = connect(Number(port), hostname);
    let left = 3_000 * (cuts + 1);
    const cut = () => [near, far].forEach((socket) => socket.destroy());
    for (const socket of [near, far]) socket.on("error", cut).on("close", cut);
    near.pipe(far);
    far.on("data", (bytes) => {
      near.write(bytes.subarray(0, left));
      left -= bytes.length;
      if (left > 0) return;
      cuts += 1;
      near.end(cut);
    });
  });
  proxy.listen(0, "127.0.0.1");
  await once(proxy, "listening");
  context.after(() => proxy.close());
  const server = `http://127.0.0.1:${proxy.address().port}`;
  const client = new Client({ server, token: service.token });
  const command = `for i in $(seq 4000); do echo $i some words é; done; echo ${unique()}`;
  const run = await client.build(base.runCommands(command));
  const events = await whole(run);
  assert.ok(cuts > 5, `${cuts} cuts`);
  const lines = output(events, 0).split("\n").slice(0, -2);
  assert.deepEqual(lines, Array.from({ length: 4000 }, (_, index) => `${index + 1} some words é`));
  assert.equal((await run.done).status, "built");
});

test("a folder goes up and is seen by steps", { skip: missing }, async (context) => {
  const dir = mkdtempSync(join(tmpdir(), "chalk-folder-"));
  context.after(() => rmSync(dir, { recursive: true, force: true }));
  mkdirSync(join(dir, "sub"));
  const mark = unique();
  for (let number = 0; number < 200; number += 1) writeFileSync(join(dir, "sub", `f${number}`), `${mark} ${number}`);
  writeFileSync(join(dir, "run.sh"), `#!/bin/sh\necho ran ${mark}\n`);
  chmodSync(join(dir, "run.sh"), 0o755);
  writeFileSync(join(dir, "big"), Buffer.alloc(20_000_000, mark));
  writeFileSync(join(dir, ".gitignore"), "left-out\n");
  writeFileSync(join(dir, "left-out"), "no");
  const client = service.client();
  const image = base
    .addLocalDir(dir, "/srv", { strategy: "copy" })
    .runCommands("/srv/run.sh; ls /srv/sub | wc -l; wc -c < /srv/big; ls /srv");
  const plan = await client.plan(image);
  assert.ok(plan.upload_bytes > 20_000_000, `${plan.upload_bytes}`);
  const seen = [];
  const run = await client.build(image, { onUpload: (progress) => seen.push(progress) });
  const events = await whole(run);
  assert.equal(output(events, 1), `ran ${mark}\n200\n20000000\nbig\nrun.sh\nsub\n`);
  const last = seen.at(-1);
  assert.deepEqual([last.files, last.bytes], [last.filesTotal, last.bytesTotal]);
  // A second build of the same files uploads nothing.
  const none = [];
  const other = await client.build(image.runCommands("true"), { onUpload: (progress) => none.push(progress) });
  assert.equal((await other.done).status, "built");
  assert.deepEqual(none, []);
  assert.equal((await client.plan(image)).upload_bytes, 0);
});

test("secrets reach steps and nothing else", { skip: missing }, async () => {
  const command = `echo ${unique()} >&2; (cat /run/secrets/TOKEN 2>/dev/null || printf %s "$TOKEN") | wc -c`;
  const image = base.runCommands(command, { secrets: ["TOKEN"] });
  const run = await service.client().build(image, { secrets: { TOKEN: "s3cret" } });
  const events = await whole(run);
  assert.equal((await run.done).status, "built", inspect(events, { depth: 9 }));
  assert.equal(events.find(({ type, stream }) => type === "log" && stream === "stdout").text, "6\n");
  assert.ok(!JSON.stringify(events).includes("s3cret"));
});

test("errors of a real service", { skip: missing }, async () => {
  const client = service.client();
  const code = (expect) => (error) => {
    assert.ok(error instanceof ChalkError, inspect(error));
    assert.equal(error.code, expect, inspect(error));
    return true;
  };
  const stranger = new Client({ server: service.url, token: "x".repeat(43) });
  await assert.rejects(stranger.build(base), (error) => error instanceof ServiceError && error.status === 401);
  await assert.rejects(all(stranger.follow("x")), code("unauthorized"));
  await assert.rejects(client.image("nosuch/image:v0"), code("not-found"));
  await assert.rejects(all(client.follow("nosuch")), code("not-found"));
  await assert.rejects(all(client.logs("nosuch")), code("not-found"));
  await assert.rejects(client.builds({ name: "UPPER CASE" }), code("bad-request"));
  await assert.rejects(client.build(base, { compression: "rar" }), code("bad-request"));
  await assert.rejects(client.why(base, { name: "never/built:v0" }), code("not-found"));

  // A file that changes between hashing and upload.
  const dir = mkdtempSync(join(tmpdir(), "chalk-changed-"));
  writeFileSync(join(dir, "a"), `before ${unique()}`);
  const image = await base.addLocalFile(join(dir, "a"), "/a", { strategy: "copy" }).resolve();
  writeFileSync(join(dir, "a"), "after");
  await assert.rejects(client.build(image), (error) => code("file")(error) && /a: changed/.test(error.message));
  rmSync(dir, { recursive: true, force: true });

  await service.end("SIGTERM");
  await assert.rejects(client.info(), code("unreachable"));
  await assert.rejects(client.build(base), code("unreachable"));
  await service.launch();
  assert.ok((await client.info()).version);
});
