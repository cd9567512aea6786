// Sandboxes against a scripted server: output, input, ends, and what happens when connections break.

import assert from "node:assert/strict";
import { test } from "node:test";
import { inspect } from "node:util";

import { ChalkError, Image, Sandbox, SandboxProcess, ServiceError } from "chalkcompute";

import { TOKEN, after, all, begin, frame, play, problem } from "./scripted-service.mjs";

const MAIN = "/v1/sandboxes/s1/processes/main";
const OUTPUT = `GET ${MAIN}/output`;

function info(state = "starting", more = {}) {
  const own = { id: "s1", state, node: "n1", region: "eu", image: "app" };
  return { ...own, args: [], tty: false, warm: true, created: "2026-01-01T00:00:00Z", ...more };
}

/** A route that starts the sandbox, and keeps what was asked. */
function starting(asked = []) {
  return ({ body }) => {
    asked.push(JSON.parse(body));
    return { reply: "accepted", ...info() };
  };
}

const exited = (code = 0, more = {}) => ({ type: "exited", code, ...more });
const output = (stream, data) => ({ type: "output", stream, data: Buffer.from(data).toString("base64") });
const numbered = (kinds) => kinds.map((kind, index) => ({ seq: index + 1, ...kind }));

/** A route that gives those events, as a node does: the end whatever number was asked for. */
function printing(events, cut = () => false) {
  return (call) => {
    assert.equal(call.query.get("follow"), "true");
    begin(call.response);
    const wanted = events.filter(({ seq, type }) => seq > after(call) || type === "exited" || type === "failed");
    const text = wanted.map(frame).join("");
    if (!cut(call, text)) call.response.end(text);
  };
}

function coded(code, words = /./) {
  return (error) => {
    assert.ok(error instanceof ChalkError, inspect(error));
    assert.equal(error.code, code, inspect(error));
    assert.match(error.message, words);
    assert.ok(!inspect(error, { depth: 9 }).includes(TOKEN), "the token is in the error");
    return true;
  };
}

test("what is asked for", async (context) => {
  const asked = [];
  const service = await play(context, { "POST /v1/sandboxes": starting(asked) });
  const client = service.client();
  const sandbox = await client.sandboxes.run("team/app:v1");
  assert.ok(sandbox instanceof Sandbox && sandbox instanceof SandboxProcess);
  assert.deepEqual([sandbox.id, sandbox.sandbox, sandbox.process], ["s1", "s1", "main"]);
  assert.deepEqual(sandbox.info, info());
  assert.ok(!inspect(sandbox, { depth: 9, showHidden: true }).includes(TOKEN));
  const own = { image: "team/app:v1", mounts: [], limits: {}, read_only: false, stdin: false, stop_on_disconnect: false };
  assert.deepEqual(asked.pop(), own);

  await client.sandboxes.run("team/app:v1", {
    args: ["a", "b"],
    entrypoint: [],
    env: { A: "b" },
    workdir: "/w",
    user: "1000:1000",
    cpus: 0.5,
    memory: 1e9,
    pids: 7,
    disk: 5,
    timeoutSeconds: 1.5,
    network: "none",
    gpus: 2,
    devices: ["vendor/class=name"],
    tty: true,
    readOnly: true,
    hostname: "h",
    node: "n1",
    region: "eu",
    labels: { a: "b" },
    stopOnDisconnect: true,
  });
  assert.deepEqual(asked.pop(), {
    image: "team/app:v1",
    args: ["a", "b"],
    entrypoint: [],
    env: { A: "b" },
    workdir: "/w",
    user: "1000:1000",
    mounts: [],
    limits: { cpus: 0.5, memory: 1e9, pids: 7, disk: 5, timeout_seconds: 1.5 },
    network: "none",
    gpus: "2",
    devices: ["vendor/class=name"],
    tty: { rows: 24, cols: 80 },
    stdin: true,
    read_only: true,
    hostname: "h",
    node: "n1",
    region: "eu",
    labels: { a: "b" },
    stop_on_disconnect: true,
  });
  const image = Image.scratch().workdir("/");
  await client.sandboxes.run(image, { gpus: "all", stdin: true, tty: { rows: 1, cols: 2 } });
  const { gpus, stdin, tty, image: name } = asked.pop();
  assert.deepEqual([gpus, stdin, tty, name], ["all", true, { rows: 1, cols: 2 }, await image.hash()]);
});

test("output costs nothing and comes once over connections that break", async (context) => {
  const binary = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
  const expect = numbered([
    ...Array.from({ length: 60 }, (_, n) => output(n % 3 ? "stdout" : "stderr", `line ${n} é 🦀\r\n`)),
    output("stdout", binary),
    exited(),
  ]);
  const text = (stream) =>
    Buffer.concat(expect.filter((e) => e.stream === stream).map(({ data }) => Buffer.from(data, "base64")));
  const asked = [];
  const service = await play(context, {
    "POST /v1/sandboxes": starting(),
    // Every answer is cut in another way, in the midst of an event too; some repeat what was sent.
    [OUTPUT]: printing(expect, (call, rest) => {
      asked.push(after(call));
      const sent = expect.filter(({ seq }) => seq <= after(call)).slice(-3);
      const text = call.time % 3 === 2 ? sent.map(frame).join("") + rest : rest;
      const bytes = Buffer.from(text).subarray(0, 97 + 53 * (call.time % 30));
      if (bytes.length === Buffer.byteLength(text)) return false;
      call.response.write(bytes, () => (call.time % 2 ? call.response.end() : call.response.destroy()));
      return true;
    }),
  });
  const sandbox = await service.client().sandboxes.run("app");
  const items = await all(sandbox.output);
  assert.deepEqual(items.map(({ seq }) => seq), expect.slice(0, -1).map(({ seq }) => seq));
  assert.ok(asked.length > 4, `${asked}`);
  assert.deepEqual(asked, asked.toSorted((a, b) => a - b));
  assert.deepEqual(Buffer.concat(await all(sandbox.stdout)), text("stdout"));
  assert.deepEqual(Buffer.concat(await all(sandbox.stderr)), text("stderr"));
  assert.equal(await sandbox.stderr.text(), text("stderr").toString());
  const lines = await all(sandbox.stderr.lines());
  assert.deepEqual(lines, Array.from({ length: 20 }, (_, n) => `line ${3 * n} é 🦀`));
  assert.equal(sandbox.stdout.dropped, 0);
  // Two that read at a time do not disturb each other.
  const [one, two] = await Promise.all([all(sandbox.stdout), all(sandbox.stdout)]);
  assert.deepEqual(Buffer.concat(one), text("stdout"));
  assert.deepEqual(Buffer.concat(two), text("stdout"));
  // Whoever has seen the end knows it.
  const before = service.asked.length;
  assert.deepEqual(await sandbox.wait(), { exitCode: 0, endedBy: null });
  assert.equal(service.asked.length, before);
});

test("letters and lines that are cut in two", async (context) => {
  const bytes = Buffer.from("é🦀\r\n\nlast");
  const expect = numbered([...Array.from(bytes, (_, at) => output("stdout", bytes.subarray(at, at + 1))), exited()]);
  const service = await play(context, { "POST /v1/sandboxes": starting(), [OUTPUT]: printing(expect) });
  const sandbox = await service.client().sandboxes.run("app");
  assert.equal(await sandbox.stdout.text(), "é🦀\r\n\nlast");
  assert.deepEqual(await all(sandbox.stdout.lines()), ["é🦀", "", "last"]);
  assert.equal(await sandbox.stderr.text(), "");
  assert.deepEqual(await all(sandbox.stderr.lines()), []);
});

test("dropped output is told where it is missing", async (context) => {
  const expect = [
    { seq: 1, ...output("stdout", "a") },
    { seq: 900, type: "dropped", bytes: 12345 },
    { seq: 901, ...output("stdout", "z") },
    { seq: 902, ...exited(137, { ended_by: "out_of_memory" }) },
  ];
  const service = await play(context, {
    "POST /v1/sandboxes": starting(),
    [OUTPUT]: printing(expect),
    "DELETE /v1/sandboxes/s1": ({ response }) => void response.writeHead(204).end(),
    "GET /v1/sandboxes/*": ({ words }) => info("running", { id: words[0] }),
    // What could not be kept at all has no number of its own, and is told in every answer.
    "GET /v1/sandboxes/full/processes/main/output": (call) => {
      begin(call.response);
      const lost = (seq) => ({ seq, type: "dropped", bytes: 5 });
      const kept = [expect[0], lost(1), { seq: 2, ...output("stdout", "b") }, lost(2), { seq: 3, ...exited() }];
      const rest = kept.filter(({ seq, type }) => seq > after(call) || (type === "dropped" && seq === after(call)));
      const text = rest.map(frame).join("");
      if (call.time > 4) return void call.response.end(text);
      call.response.write(text.slice(0, 80 + 70 * call.time), () => call.response.destroy());
    },
    "GET /v1/sandboxes/gap/processes/main/output": printing([expect[0], { seq: 3, ...output("stdout", "c") }]),
  });
  const { sandboxes } = service.client();
  const sandbox = await sandboxes.run("app");
  const items = await all(sandbox.output);
  assert.deepEqual(items.map(({ type, seq }) => [type, seq]), [["output", 1], ["dropped", 900], ["output", 901]]);
  assert.equal(items[1].bytes, 12345);
  assert.equal(await sandbox.stdout.text(), "az");
  assert.deepEqual([sandbox.stdout.dropped, sandbox.stderr.dropped], [12345, 0]);
  assert.deepEqual(await sandbox.wait(), { exitCode: 137, endedBy: "out_of_memory" });
  // The node has told the end; the service may still believe that it runs.
  await sandbox.remove();
  assert.equal(service.asked.at(-1), "DELETE /v1/sandboxes/s1?force=true");

  const full = await sandboxes.attach("full");
  const kinds = (await all(full.output)).map(({ type, seq }) => [type, seq]);
  assert.deepEqual(kinds, [["output", 1], ["dropped", 1], ["output", 2], ["dropped", 2]]);
  // A gap of which nothing is said would be a loss unseen.
  await assert.rejects(all((await sandboxes.attach("gap")).output), coded("protocol", /event 3 came after event 1/));
});

test("the end can be awaited without the output", async (context) => {
  const asked = [];
  const expect = numbered([output("stdout", "a"), exited(3, { ended_by: "stopped" })]);
  const service = await play(context, {
    "POST /v1/sandboxes": starting(),
    [OUTPUT]: printing(expect, (call) => {
      asked.push(after(call));
      if (call.time > 0) return false;
      call.response.destroy();
      return true;
    }),
  });
  const sandbox = await service.client().sandboxes.run("app");
  assert.deepEqual(asked, []);
  const both = await Promise.all([sandbox.wait(), sandbox.wait()]);
  assert.deepEqual(both, [{ exitCode: 3, endedBy: "stopped" }, { exitCode: 3, endedBy: "stopped" }]);
  assert.ok(asked.length >= 3 && asked.every((number) => number > 1e15), `${asked}`);
});

test("an end that is not told is looked up", async (context) => {
  const process = "/v1/sandboxes/s1/processes/p1/output";
  const expect = numbered([output("stdout", "a"), output("stdout", "b"), exited(4)]);
  const silent = (call) => {
    begin(call.response);
    call.response.end(expect.filter(({ seq }) => seq > after(call)).map(frame).join(""));
  };
  const states = [info("running"), info("exited", { exit_code: 5, ended_by: "timed_out" })];
  const service = await play(context, {
    "GET /v1/sandboxes/s1": ({ time }) => states[Math.max(0, time - 1)],
    [OUTPUT]: silent,
    [`GET ${process}`]: silent,
  });
  const sandbox = await service.client().sandboxes.attach("s1");
  assert.deepEqual(await sandbox.wait(), { exitCode: 5, endedBy: "timed_out" });
  assert.deepEqual(await sandbox.attach("p1").wait(), { exitCode: 4, endedBy: null });
  // Only what nobody has seen is asked for again.
  const seen = sandbox.attach("p1", { after: 1 });
  for await (const { seq } of seen.output) if (seq === 2) break;
  assert.deepEqual(await seen.wait(), { exitCode: 4, endedBy: null });
});

test("what could not be started, or was lost", async (context) => {
  const error = { type: "urn:chalk:sandbox-refused", title: "no such user", status: 400, detail: "nobody2", hint: "name another" };
  const service = await play(context, {
    "GET /v1/sandboxes/*": ({ words }) => info(words[0] === "s2" ? "lost" : "failed", { id: words[0], error: words[0] === "s2" ? undefined : error }),
    "GET /v1/sandboxes/s1/processes/main/output": printing([{ seq: 1, type: "failed", error }]),
    "GET /v1/sandboxes/*/processes/main/output": ({ response }) => {
      begin(response);
      response.end();
    },
  });
  const { sandboxes } = service.client();
  const refused = (thrown) => thrown instanceof ServiceError && coded("sandbox-refused", /no such user: nobody2; name another/)(thrown);
  for (const read of [(s) => s.wait(), (s) => all(s.output), (s) => s.stdout.text(), (s) => s.wait()]) {
    await assert.rejects(read(await sandboxes.attach("s1")), refused);
  }
  await assert.rejects((await sandboxes.attach("s3")).wait(), refused);
  await assert.rejects((await sandboxes.attach("s2")).wait(), coded("node-lost", /n1 ended under it/));
});

test("input waits until it is taken, and keeps its order", async (context) => {
  const taken = [];
  const open = deferred();
  let now = 0;
  const service = await play(context, {
    "POST /v1/sandboxes": starting(),
    [`POST ${MAIN}/input`]: async ({ body, query, response, request }) => {
      now += 1;
      assert.equal(now, 1, "two at a time");
      assert.equal(request.headers["content-type"], "application/octet-stream");
      taken.push(query.get("close") === "true" ? "closed" : body);
      await open.promise;
      now -= 1;
      response.writeHead(204).end();
    },
  });
  const sandbox = await service.client().sandboxes.run("app", { stdin: true });
  let done = 0;
  const count = () => (done += 1);
  const big = "x".repeat(600_000);
  const writes = [sandbox.write("é\n").then(count), sandbox.write(Buffer.from("b")).then(count), sandbox.write(big).then(count)];
  writes.push(sandbox.write("").then(count), sandbox.write(new Uint8Array([99]).buffer).then(count), sandbox.closeStdin().then(count));
  await assert.rejects(sandbox.write("late"), coded("conflict", /closed/));
  await assert.rejects(sandbox.closeStdin(), coded("conflict"));
  await until(() => taken.length === 1);
  await new Promise((resolve) => setTimeout(resolve, 30));
  assert.deepEqual([taken, done], [["é\n"], 0]);
  open.resolve();
  await Promise.all(writes);
  assert.equal(done, 6);
  assert.deepEqual(taken.map(({ length }) => length), [2, 1, 262_144, 262_144, 75_712, 1, 6]);
  assert.equal(taken.join(""), `é\nb${big}cclosed`);
});

test("input is never sent twice, and nothing follows a gap", async (context) => {
  const tries = [];
  const service = await play(context, {
    "POST /v1/sandboxes": starting(),
    [`POST ${MAIN}/input`]: ({ body, response }) => {
      tries.push(body);
      if (body === "cut") return void response.destroy();
      if (body === "ended") return problem(response, 409, "not-running", "the process has ended");
      response.writeHead(204).end();
    },
  });
  const { sandboxes } = service.client();
  const first = await sandboxes.run("app", { stdin: true });
  await first.write("good");
  const [cut, next] = [first.write("cut"), first.write("next")];
  await assert.rejects(cut, coded("unreachable"));
  await assert.rejects(next, coded("unreachable"));
  await assert.rejects(first.closeStdin(), coded("unreachable"));
  assert.deepEqual(tries, ["good", "cut"]);
  const second = await sandboxes.run("app", { stdin: true });
  await assert.rejects(second.write("ended"), coded("not-running", /has ended/));

  // One that waits can be given up.
  const third = await play(context, { "POST /v1/sandboxes": starting(), [`POST ${MAIN}/input`]: () => undefined });
  const stuck = await third.client().sandboxes.run("app", { stdin: true });
  await assert.rejects(stuck.write("a", { signal: AbortSignal.timeout(50) }), coded("aborted", /ran out/));
});

test("commands in a sandbox, and other calls", async (context) => {
  const bodies = [];
  const keep = (answer) => ({ body, response }) => {
    bodies.push(body === "" ? undefined : JSON.parse(body));
    if (answer === undefined) response.writeHead(204).end();
    return answer;
  };
  const service = await play(context, {
    "POST /v1/sandboxes": starting(),
    "POST /v1/sandboxes/s1/exec": keep({ sandbox: "s1", process: "p1" }),
    "GET /v1/sandboxes/s1/processes/p1/output": printing(numbered([output("stderr", "no"), exited(2)])),
    "POST /v1/sandboxes/s1/processes/*/resize": keep(),
    "POST /v1/sandboxes/s1/processes/*/signal": keep(),
    "POST /v1/sandboxes/s1/stop": keep(info("exited", { exit_code: 143, ended_by: "stopped" })),
    "DELETE /v1/sandboxes/s1": keep(),
    "GET /v1/sandboxes": () => [info("running")],
    "GET /v1/sandboxes/s1": () => info("running"),
  });
  const client = service.client();
  const sandbox = await client.sandboxes.run("app");
  const process = await sandbox.exec(["ls", "/"], { env: { A: "b" }, workdir: "/w", user: "u", tty: true });
  assert.ok(process instanceof SandboxProcess && !(process instanceof Sandbox));
  assert.deepEqual(bodies.pop(), {
    args: ["ls", "/"],
    env: { A: "b" },
    workdir: "/w",
    user: "u",
    tty: { rows: 24, cols: 80 },
    stdin: true,
  });
  await sandbox.exec(["true"]);
  assert.deepEqual(bodies.pop(), { args: ["true"], stdin: false });
  assert.equal(await process.stderr.text(), "no");
  assert.deepEqual(await process.wait(), { exitCode: 2, endedBy: null });
  await process.resize({ rows: 5, cols: 6 });
  await process.signal("TERM");
  await sandbox.signal(9);
  assert.deepEqual(bodies.splice(0), [{ rows: 5, cols: 6 }, { signal: "TERM" }, { signal: "9" }]);
  assert.equal((await sandbox.stop({ graceSeconds: 0.5 })).ended_by, "stopped");
  assert.equal((await client.sandboxes.stop("s1")).exit_code, 143);
  assert.deepEqual(bodies.splice(0), [{ grace_seconds: 0.5 }, {}]);
  assert.equal(await sandbox.remove(), undefined);
  await client.sandboxes.remove("s1", { force: true });
  assert.deepEqual(await sandbox.inspect(), info("running"));
  await client.sandboxes.list();
  await client.sandboxes.list({ all: true, node: "n1", image: "app" });
  assert.deepEqual(service.asked.slice(-8), [
    "POST /v1/sandboxes/s1/processes/main/signal",
    "POST /v1/sandboxes/s1/stop",
    "POST /v1/sandboxes/s1/stop",
    "DELETE /v1/sandboxes/s1",
    "DELETE /v1/sandboxes/s1?force=true",
    "GET /v1/sandboxes/s1",
    "GET /v1/sandboxes",
    "GET /v1/sandboxes?all=true&node=n1&image=app",
  ]);
});

test("errors of a start", async (context) => {
  const service = await play(context, {
    "POST /v1/sandboxes": ({ body, response }) => {
      switch (JSON.parse(body).image) {
        case "cut":
          return void response.destroy();
        case "odd":
          return { reply: "surprise" };
        case "none":
          return problem(response, 409, "no-node", "no node fits", { hint: "ask for another region" });
        default:
          return { reply: "needs_blobs", digests: [`sha256:${"0".repeat(64)}`] };
      }
    },
  });
  const { sandboxes } = service.client();
  await assert.rejects(sandboxes.run("none"), coded("no-node", /another region/));
  await assert.rejects(sandboxes.run("odd"), coded("protocol"));
  await assert.rejects(sandboxes.run("greedy"), coded("missing", /not declared here/));
  const before = service.asked.length;
  // It may have been started: it is not started twice.
  await assert.rejects(sandboxes.run("cut"), coded("unreachable"));
  assert.equal(service.asked.length, before + 1);
  await assert.rejects(sandboxes.run(undefined), coded("wrong-type"));
  await assert.rejects(sandboxes.run("app", { signal: AbortSignal.abort() }), coded("aborted"));
});

test("giving up ends reading and waiting, and their requests", async (context) => {
  const closed = [];
  const service = await play(context, {
    "POST /v1/sandboxes": starting(),
    [OUTPUT]: ({ response }) => {
      const gone = deferred();
      closed.push(gone.promise);
      response.on("close", gone.resolve);
      begin(response);
      response.write(frame({ seq: 1, ...output("stdout", "a") }));
    },
  });
  const own = new AbortController();
  const sandbox = await service.client().sandboxes.run("app", { signal: own.signal });
  const reading = sandbox.stdout[Symbol.asyncIterator]();
  assert.equal(String((await reading.next()).value), "97");
  const [next, waiting] = [reading.next(), sandbox.wait()];
  await until(() => closed.length === 2);
  own.abort();
  await assert.rejects(next, coded("aborted"));
  await assert.rejects(waiting, coded("aborted"));
  await Promise.all(closed);

  // Who stops reading ends the request, and a wait has a signal of its own.
  const other = await service.client().sandboxes.run("app");
  for await (const bytes of other.stdout) {
    assert.equal(bytes.length, 1);
    break;
  }
  await closed[2];
  await assert.rejects(other.wait({ signal: AbortSignal.timeout(50) }), coded("aborted"));
  await closed[3];
});

test("a service that restarts, falls silent or has lost the node", async (context) => {
  const expect = numbered([output("stdout", "a"), output("stdout", "b"), exited()]);
  const service = await play(context, {
    "GET /v1/sandboxes/*": ({ words }) => info("running", { id: words[0] }),
    "GET /v1/sandboxes/restart/processes/main/output": (call) => {
      begin(call.response);
      if (call.time === 0) return void call.response.write(frame(expect[0]));
      call.response.end(expect.slice(after(call)).map(frame).join(""));
    },
    "GET /v1/sandboxes/lost/processes/main/output": ({ response }) => problem(response, 503, "node-lost", "the node is away"),
    "GET /v1/sandboxes/odd/processes/main/output": ({ response }) => {
      begin(response);
      response.end(frame({ seq: 1, type: "output", stream: "stdout", data: "?" }));
    },
  });
  const open = (id, options) => service.client(options).sandboxes.attach(id);
  // A connection on which nothing comes is given up for another.
  const silent = await open("restart", { patience: 300 });
  assert.equal(await silent.stdout.text(), "ab");
  const lost = await open("lost", { patience: 300 });
  await assert.rejects(lost.stdout.text(), coded("node-lost"));
  await assert.rejects(lost.wait(), coded("node-lost"));
  const tries = service.asked.filter((asked) => asked.includes("/lost/processes/"));
  assert.ok(tries.length > 3, `${tries.length} tries`);
  await assert.rejects(all((await open("odd")).output), coded("protocol", /no base64/));
});

async function until(condition) {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 2));
}

function deferred() {
  let resolve;
  const promise = new Promise((done) => {
    resolve = done;
  });
  return { promise, resolve };
}
