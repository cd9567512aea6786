// Warms and sandboxes against a real service with a node of its own. Needs root, as the node does.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { inspect, promisify } from "node:util";

import { Client, Image } from "chalkcompute";

import { PYTHON, RealService, missing } from "./real-service.mjs";
import { all } from "./scripted-service.mjs";

/** @type {RealService} */
let service;
/** Hash of the image that most sandboxes run. */
let app;
const base = Image.base(PYTHON);
const python = (code) => ["python3", "-c", code];
/** Longest that a test may take on a busy machine: a sandbox that hangs must not hang the suite. */
const options = { skip: missing, timeout: 120_000 };

before(async () => {
  if (missing) return;
  service = await RealService.start("--node");
  const client = service.client();
  while (!(await client.nodes.list()).some(({ state }) => state === "ready")) await pause(50);
  const build = await (await client.build(base.env({ GREETING: "hello" }).workdir("/srv"), { name: "team/app:v1" })).done;
  assert.equal(build.status, "built", inspect(build));
  app = build.image_hash;
});
after(() => service?.remove());

function folder(context, files) {
  const dir = mkdtempSync(join(tmpdir(), "chalk-sandbox-"));
  context.after(() => rmSync(dir, { recursive: true, force: true }));
  for (const [name, contents] of Object.entries(files)) {
    mkdirSync(join(dir, name, ".."), { recursive: true });
    writeFileSync(join(dir, name), contents);
  }
  return dir;
}

const coded = (code) => (error) => {
  assert.equal(error.code, code, inspect(error));
  return true;
};

/** What a command prints, and how it ends. */
async function printed(image, args, more = {}) {
  const sandbox = await service.client().sandboxes.run(image, { args, ...more });
  const [out, err, end] = await Promise.all([sandbox.stdout.text(), sandbox.stderr.text(), sandbox.wait()]);
  await sandbox.remove();
  return { out, err, ...end };
}

test("the example of the README", options, async (context) => {
  const readme = readFileSync(new URL("../README.md", import.meta.url), "utf8");
  const [, section] = readme.split("### Warming and sandboxes");
  const [, code] = /```js\n(.*?)```/s.exec(section);
  const dir = folder(context, {
    "program.mjs": code.replace("http://127.0.0.1:7474", service.url),
    "app.py": "import sys; sys.path.insert(0, 'src'); import words; print(words.WORDS, sys.stdin.read().strip())\n",
    "src/words.py": "WORDS = 'it said'\n",
  });
  mkdirSync(join(dir, "node_modules"));
  symlinkSync(join(import.meta.dirname, ".."), join(dir, "node_modules/chalkcompute"));
  const env = { ...process.env, CHALK_TOKEN: service.token };
  const { stdout, stderr } = await promisify(execFile)(process.execPath, ["program.mjs"], { cwd: dir, env });
  assert.match(stdout, /^\S+ ready \d+ true [\d.]+ \nit said a line\n0 null\n$/);
  assert.match(stderr, /^target\n(.*\n)*finished\n$/);
});

test("a warm gives receipts, and costs nothing again", options, async () => {
  const client = service.client();
  const [node] = await client.nodes.list();
  const image = base.runCommands(`echo ${randomBytes(8).toString("hex")} > /mark`);
  await assert.rejects(client.warm({ images: image }), coded("not-found"));
  await (await client.build(image)).done;
  const events = [];
  const warm = await client.warm({ images: image }, { onEvent: (event) => events.push(event) });
  assert.equal(warm.status, "ready", inspect(warm, { depth: 9 }));
  const { state, verified, error, region } = warm.nodes[0];
  assert.deepEqual([warm.nodes.length, state, verified, error, region], [1, "ready", true, undefined, node.region]);
  events.forEach(({ seq }, index) => assert.ok(index === 0 || seq > events[index - 1].seq, inspect(events)));
  assert.equal(events.at(-1).type, "finished");
  // Whoever comes late is told the newest of each target; when the warm is only on record, its end.
  const late = await all(client.warms.events(warm.id));
  assert.deepEqual(late, events.slice(-late.length));
  assert.deepEqual(late.map(({ type }) => type), ["target", "finished"].slice(-late.length));
  assert.deepEqual(await all(client.warms.events(warm.id, { after: late.at(-1).seq })), []);

  const again = await client.warm({ images: warm.images[0], nodes: [node.name], pin: true });
  assert.deepEqual([again.status, again.nodes[0].bytes_fetched], ["ready", 0], inspect(again, { depth: 9 }));
  assert.ok((await client.warms.list()).some(({ id }) => id === warm.id));
  assert.deepEqual(await client.warms.get(warm.id), warm);
  await assert.rejects(client.warm({ images: app, nodes: ["nosuch"] }), (error) => ["no-node", "not-found"].includes(error.code));

  const cache = await client.nodes.cache(node.name);
  const held = cache.images.find(({ image_hash }) => image_hash === warm.images[0]);
  assert.ok(held?.pins.length > 0, inspect(cache, { depth: 9 }));
  const dry = await client.nodes.collect(node.name, { dryRun: true });
  assert.equal(dry.dry_run, true);
  assert.ok(dry.kept.some(({ why }) => why !== ""), inspect(dry, { depth: 9 }));
  const gone = await client.nodes.removeFromCache(node.name, warm.images[0]);
  assert.ok(gone.freed_bytes > 0, inspect(gone));
});

test("config, environment, exit codes and both streams", options, async () => {
  const found = await printed("team/app:v1", ["sh", "-c", "echo $GREETING $MORE in $(pwd); echo oops >&2; exit 7"], { env: { MORE: "you" } });
  assert.deepEqual(found, { out: "hello you in /srv\n", err: "oops\n", exitCode: 7, endedBy: null });
  const killed = await printed(app, python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"));
  assert.equal(killed.exitCode, 137);
  const late = await printed(app, ["sleep", "600"], { timeoutSeconds: 0.5 });
  assert.equal(late.endedBy, "timed_out");
  const { sandboxes } = service.client();
  await assert.rejects(sandboxes.run("nosuch/image:v0"), (error) => error.code !== "internal");
  const none = await sandboxes.run(app, { args: ["/no/such/program"] });
  await assert.rejects(none.wait(), (error) => error.status === 400 && /no such file/.test(error.message));
  assert.equal((await none.inspect()).state, "failed");
});

test("mounted files keep bits and links, and an edit is seen by the next sandbox", options, async (context) => {
  const dir = folder(context, { "src/run.sh": "#!/bin/sh\ncat /srv/src/data\n", "src/data": "first", "src/left.log": "", ".env": "x", "src/.gitignore": "*.log\n" });
  chmodSync(join(dir, "src/run.sh"), 0o755);
  symlinkSync("run.sh", join(dir, "src/link"));
  const image = base
    .env({ GREETING: "hello" })
    .workdir("/srv")
    .addLocalDir(join(dir, "src"), "/srv/src")
    .addLocalFile(join(dir, ".env"), "/etc/mounted/");
  const seen = [];
  const onUpload = (progress) => seen.push(progress);
  const script = "/srv/src/link; ls -A /srv/src /etc/mounted; touch /srv/src/new || echo read-only; touch /tmp/w/x && echo writable";
  const run = () => printed(image, ["sh", "-c", script], { mounts: [{ src: join(dir, "src"), dest: "/tmp/w", writable: true }], onUpload });
  const { out } = await run();
  const listed = "/etc/mounted:\n.env\n\n/srv/src:\n.gitignore\ndata\nlink\nrun.sh\n";
  assert.equal(out, `first${listed}read-only\nwritable\n`);
  assert.ok(seen.some(({ phase }) => phase === "upload"));
  const before = (await service.client().resolve(image)).image_hash;
  writeFileSync(join(dir, "src/data"), "second");
  assert.match((await run()).out, /^second/);
  assert.equal((await service.client().resolve(image)).image_hash, before);
});

test("input, terminal, signals and further commands", options, async () => {
  const { sandboxes } = service.client();
  const cat = await sandboxes.run(app, { args: ["cat"], stdin: true });
  const bytes = randomBytes(3_000_000);
  const reading = all(cat.stdout);
  await cat.write(bytes.subarray(0, 1_000_000));
  await cat.write(bytes.subarray(1_000_000));

  const ls = await cat.exec(["sh", "-c", "echo $A in $(pwd); exit 3"], { env: { A: "b" }, workdir: "/tmp" });
  assert.equal(await ls.stdout.text(), "b in /tmp\n");
  assert.deepEqual(await ls.wait(), { exitCode: 3, endedBy: null });
  assert.deepEqual(await cat.attach(ls.process).wait(), { exitCode: 3, endedBy: null });

  await cat.closeStdin();
  assert.ok(Buffer.concat(await reading).equals(bytes));
  assert.deepEqual(await cat.wait(), { exitCode: 0, endedBy: null });
  await assert.rejects(cat.exec(["true"]), coded("not-running"));
  await cat.remove();
  await assert.rejects(cat.inspect(), coded("not-found"));

  const terminal = await sandboxes.run(app, { args: ["sh"], tty: { rows: 11, cols: 22 } });
  const shown = terminal.output[Symbol.asyncIterator]();
  let text = "";
  const until = async (words) => {
    while (!words.test(text)) {
      const { done, value } = await shown.next();
      assert.ok(!done, text);
      assert.equal(value.stream, "stdout");
      text += Buffer.from(value.data).toString();
    }
  };
  await terminal.write("stty size; tty\n");
  await until(/11 22[^]*\/dev\/pts/);
  await terminal.resize({ rows: 33, cols: 44 });
  await terminal.write("stty size\n");
  await until(/33 44/);
  await terminal.write("exit 5\n");
  assert.equal((await terminal.wait()).exitCode, 5);

  const trap = "trap 'echo got; exit 9' USR1; echo ready; while :; do sleep 0.05; done";
  const waiting = await sandboxes.run(app, { args: ["sh", "-c", trap] });
  const lines = waiting.stdout.lines();
  assert.equal((await lines.next()).value, "ready");
  await waiting.signal("USR1");
  assert.deepEqual([(await lines.next()).value, (await waiting.wait()).exitCode], ["got", 9]);

  const stopped = await sandboxes.run(app, { args: ["sleep", "600"] });
  assert.ok((await sandboxes.list()).some(({ id }) => id === stopped.id));
  await assert.rejects(stopped.remove(), (error) => error.status === 409);
  const end = await stopped.stop({ graceSeconds: 0.2 });
  assert.deepEqual([end.state, end.ended_by], ["exited", "stopped"]);
  assert.equal((await stopped.wait()).endedBy, "stopped");
});

test("a lot of output over connections that keep breaking", options, async (context) => {
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
  const shaky = new Client({ server: `http://127.0.0.1:${proxy.address().port}`, token: service.token });
  const code = "import sys, time\nfor i in range(4000):\n  print(i, 'words é', flush=i % 97 == 0)\n  if i % 500 == 0: time.sleep(0.05)";
  const { id } = await service.client().sandboxes.run(app, { args: python(code) });
  const sandbox = await shaky.sandboxes.attach(id);
  const lines = await all(sandbox.stdout.lines());
  assert.ok(cuts > 5, `${cuts} cuts`);
  assert.equal(sandbox.stdout.dropped, 0);
  assert.deepEqual(lines, Array.from({ length: 4000 }, (_, index) => `${index} words é`));
  assert.equal((await sandbox.wait()).exitCode, 0);
});

test("a sandbox that nobody follows any more is stopped when it was asked for", options, async () => {
  const { sandboxes } = service.client();
  const own = new AbortController();
  const sandbox = await sandboxes.run(app, { args: ["sleep", "600"], stopOnDisconnect: true, signal: own.signal });
  const waiting = sandbox.wait();
  await pause(200);
  own.abort();
  await assert.rejects(waiting, coded("aborted"));
  let info;
  do {
    await pause(50);
    info = await sandboxes.get(sandbox.id);
  } while (info.state === "starting" || info.state === "running");
  assert.deepEqual([info.state, info.ended_by], ["exited", "disconnected"]);
});

test("a node that is drained takes nothing new", options, async () => {
  const client = service.client();
  const [{ name }] = await client.nodes.list();
  assert.equal((await client.nodes.drain(name)).state, "draining");
  await assert.rejects(client.sandboxes.run(app, { args: ["true"] }), coded("no-node"));
  assert.equal((await client.nodes.undrain(name)).state, "ready");
  assert.equal((await printed(app, ["true"])).exitCode, 0);
});
