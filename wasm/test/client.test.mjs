// The client against a scripted server: what goes over the wire, and what happens when it breaks.

import assert from "node:assert/strict";
import { test } from "node:test";
import { inspect } from "node:util";

import { ChalkError, Client, Image, ServiceError } from "chalkcompute";

import { TOKEN, after, all, begin, build, events, frame, json, play, problem } from "./scripted-service.mjs";

const EVENTS = "GET /v1/builds/0001/events";

/** Whether an error is one of ours with that code. */
function coded(code, words = /./) {
  return (error) => {
    assert.ok(error instanceof ChalkError, inspect(error));
    assert.equal(error.code, code, inspect(error));
    assert.match(error.message, words);
    assert.ok(!inspect(error, { depth: 9 }).includes(TOKEN), "the token is in the error");
    return true;
  };
}

test("addresses and tokens", () => {
  const token = TOKEN;
  const check = (server, expect) => assert.equal(new Client({ server, token }).server, expect);
  check("http://127.0.0.1:7474", "http://127.0.0.1:7474");
  check("https://chalk.example/", "https://chalk.example");
  check("https://chalk.example/prefix//", "https://chalk.example/prefix");
  check("http://[::1]:7474/#token=x", "http://[::1]:7474");
  for (const server of ["", "127.0.0.1:7474", "chalk.example", "ftp://a", "http://u:p@a", undefined]) {
    assert.throws(() => new Client({ server, token }), coded("value", /server.*http:\/\/HOST:PORT/));
  }
  const server = "http://127.0.0.1:1";
  for (const wrong of ["", "a b", `${token}\n`, "é", undefined]) {
    assert.throws(() => new Client({ server, token: wrong }), coded("value", /token/));
  }
  assert.throws(() => new Client({ server, token, patience: Number.NaN }), coded("value", /patience/));
  assert.ok(!inspect(new Client({ server, token }), { depth: 9, showHidden: true }).includes(token));
});

test("what is asked", async (context) => {
  const service = await play(context, {
    "GET /v1/info": () => ({ version: "1" }),
    "GET /v1/builds": () => [],
    "GET /v1/images": () => [],
    "GET /v1/images/*": ({ words }) => ({ words }),
  });
  const client = service.client();
  assert.deepEqual(await client.info(), { version: "1" });
  await client.builds();
  await client.builds({ limit: 3, name: "team/app:v1", hash: "abc" });
  await client.images();
  await client.images({ name: "a b" });
  assert.deepEqual(await client.image("team/app:v1"), { words: ["team/app:v1"] });
  assert.deepEqual(await client.image("../info"), { words: ["../info"] });
  assert.deepEqual(service.asked, [
    "GET /v1/info",
    "GET /v1/builds",
    "GET /v1/builds?limit=3&name=team%2Fapp%3Av1&hash=abc",
    "GET /v1/images",
    "GET /v1/images?name=a+b",
    "GET /v1/images/team%2Fapp%3Av1",
    "GET /v1/images/..%2Finfo",
  ]);
});

test("problems become errors", async (context) => {
  const more = { detail: "several images fit `ab`", hint: "give more digits" };
  const elsewhere = await play(context, { "GET /v1/info": () => assert.fail("the token went elsewhere") });
  const service = await play(context, {
    "GET /v1/images/ambiguous": ({ response }) => problem(response, 409, "ambiguous", "several images fit", more),
    "GET /v1/images/proxy": ({ response }) => void response.writeHead(502).end("<h1>Bad gateway</h1>"),
    "GET /v1/images/text": ({ response }) => void response.end("welcome"),
    "GET /v1/images/null": ({ response }) => json(response, null, 500),
    "GET /v1/images/cut": ({ response }) => {
      response.writeHead(200, { "content-length": 100 }).write("{");
      setTimeout(() => response.destroy(), 20);
    },
    "GET /v1/info": ({ response }) => void response.writeHead(307, { location: `${elsewhere.url}/v1/info` }).end(),
  });
  const client = service.client();
  const check = async (id, code, words) => assert.rejects(client.image(id), coded(code, words));
  await assert.rejects(client.image("ambiguous"), (error) => {
    assert.ok(error instanceof ServiceError);
    assert.deepEqual([error.status, error.title], [409, "several images fit"]);
    assert.equal(error.message, "several images fit: several images fit `ab`; give more digits");
    return coded("ambiguous")(error);
  });
  await check("none", "not-found", /no such call/);
  await check("proxy", "unavailable", /answered 502.*Bad gateway/);
  await check("null", "internal", /answered 500/);
  await check("text", "protocol", /does not answer as a chalk service/);
  await check("cut", "unreachable", /cannot reach the service/);
  await assert.rejects(client.info(), coded("unreachable", /redirect/));
  const stranger = new Client({ server: service.url, token: "x".repeat(43) });
  await assert.rejects(stranger.info(), coded("unauthorized", /not authorized/));
  await service.stop();
  await assert.rejects(client.info(), coded("unreachable", /ECONNREFUSED.*chalk serve/));
});

test("a service that restarted is asked over a new connection", async (context) => {
  const service = await play(context, { "GET /v1/info": () => ({ version: "1" }) });
  const client = service.client();
  await client.info();
  await service.stop();
  await service.start();
  assert.deepEqual(await client.info(), { version: "1" });
});

test("a fetch of the caller's own is used", async () => {
  const seen = [];
  const fetch = async (input, init) => {
    seen.push([input, init.method, init.headers.authorization]);
    return Response.json({ version: "mine" });
  };
  const client = new Client({ server: "http://nowhere.example", token: TOKEN, fetch });
  assert.deepEqual(await client.info(), { version: "mine" });
  assert.deepEqual(seen, [["http://nowhere.example/v1/info", "GET", `Bearer ${TOKEN}`]]);
});

test("events come whole whatever the pieces", async (context) => {
  const expect = events(3);
  const bytes = Buffer.from(`: hello\n\n${expect.map(frame).join("")}`);
  const windows = Buffer.from(bytes.toString().replaceAll("\n", "\r\n"));
  let sent = bytes;
  let size = 1;
  const fetch = async () =>
    new Response(
      new ReadableStream({
        start(controller) {
          for (let at = 0; at < sent.length; at += size) controller.enqueue(sent.subarray(at, at + size));
          controller.close();
        },
      }),
    );
  const client = new Client({ server: "http://a.example", token: TOKEN, fetch });
  for (sent of [bytes, windows]) {
    for (size = 1; size <= 64; size += 1) {
      assert.deepEqual(await all(client.follow("0001")), expect, `pieces of ${size}`);
    }
  }
});

test("a dropped connection costs no event and gives none twice", async (context) => {
  const expect = events(40);
  const asked = [];
  const service = await play(context, {
    [EVENTS]: (call) => {
      const { response, time } = call;
      asked.push(after(call));
      begin(response);
      // Every answer is cut in another way, in the midst of an event too; some repeat what was sent.
      const from = time % 3 === 2 ? Math.max(0, after(call) - 4) : after(call);
      const text = expect.slice(from).map(frame).join("");
      if (time >= 20) return void response.end(text);
      response.write(text.slice(0, 97 + 31 * time), () => (time % 2 ? response.end() : response.destroy()));
    },
    "GET /v1/builds/0001": () => build("built"),
  });
  assert.deepEqual(await all(service.client().follow("0001")), expect);
  assert.ok(asked.length > 5, `${asked}`);
  assert.equal(asked[0], 0);
  assert.deepEqual(asked, asked.toSorted((a, b) => a - b));
  // From where the caller got to.
  assert.deepEqual(await all(service.client().follow("0001", { after: 30 })), expect.slice(30));
  assert.deepEqual(await all(service.client().follow("0001", { after: expect.length })), []);
});

test("a service that restarts is waited for", async (context) => {
  const expect = events(4);
  const service = await play(context, {
    [EVENTS]: async (call) => {
      const { response, time } = call;
      if (time === 1) return problem(response, 503, "unavailable", "the service stops");
      begin(response);
      if (time === 0) {
        response.write(expect.slice(0, 2).map(frame).join(""));
        return;
      }
      response.end(expect.slice(after(call)).map(frame).join(""));
    },
  });
  const got = [];
  for await (const event of service.client().follow("0001")) {
    got.push(event);
    if (event.seq === 2) {
      await service.stop();
      setTimeout(() => service.start(), 500);
    }
  }
  assert.deepEqual(got, expect);
});

test("following ends when it cannot go on", async (context) => {
  const expect = events(2);
  const answers = {
    unknown: ({ response }) => problem(response, 404, "not-found", "no such build"),
    stranger: ({ response }) => problem(response, 401, "unauthorized", "not authorized"),
    broken: ({ response }) => problem(response, 500, "internal", "a fault of the service"),
    gap: ({ response }) => {
      begin(response);
      response.end(frame(expect[0]) + frame(expect[2]));
    },
    garbage: ({ response }) => {
      begin(response);
      response.end("data: {\n\n");
    },
    empty: ({ response }) => {
      begin(response);
      response.end();
    },
    stopping: ({ response }) => problem(response, 503, "unavailable", "the service stops"),
  };
  const service = await play(context, {
    "GET /v1/builds/*/events": (call) => answers[call.words[0]](call),
    "GET /v1/builds/*": () => build("running"),
  });
  const client = service.client({ patience: 400 });
  const check = (id, code, words) => assert.rejects(all(client.follow(id)), coded(code, words));
  await check("unknown", "not-found");
  await check("stranger", "unauthorized");
  await check("broken", "internal");
  await check("gap", "protocol", /event 3 came after event 1/);
  await check("garbage", "protocol", /no JSON/);
  await check("empty", "unreachable", /ended before the build/);
  await check("stopping", "unavailable");
  const times = (id) => service.asked.filter((asked) => asked.includes(id)).length;
  assert.equal(times("unknown"), 1);
  assert.equal(times("gap"), 1);
  assert.ok(times("empty") > 1 && times("stopping") > 1);
  await service.stop();
  await check("unknown", "unreachable", /ECONNREFUSED/);
});

test("a connection that fell silent is given up for another", async (context) => {
  const expect = events(2);
  const service = await play(context, {
    [EVENTS]: (call) => {
      begin(call.response);
      if (call.time === 0) return void call.response.write(frame(expect[0]));
      call.response.end(expect.slice(after(call)).map(frame).join(""));
    },
  });
  const client = service.client({ patience: 300 });
  assert.deepEqual(await all(client.follow("0001")), expect);
});

test("who stops reading ends the request", async (context) => {
  const closed = deferred();
  const service = await play(context, {
    [EVENTS]: ({ response }) => {
      response.on("close", closed.resolve);
      begin(response);
      response.write(frame(events(1)[0]));
    },
  });
  for await (const event of service.client().follow("0001")) {
    assert.equal(event.seq, 1);
    break;
  }
  await closed.promise;
});

test("the end of a build can be awaited without its events", async (context) => {
  const seen = [];
  const service = await play(context, {
    [EVENTS]: (call) => {
      seen.push(after(call));
      begin(call.response);
      if (call.time === 0) return void call.response.destroy();
      const rest = events(2).slice(after(call));
      call.response.end(rest.map(frame).join(""));
    },
    "GET /v1/builds/0001": ({ time }) => build(time === 0 ? "running" : "failed"),
  });
  const run = service.client().follow("0001");
  assert.deepEqual(seen, []);
  assert.equal((await run.done).status, "failed");
  assert.equal(run.done, run.done);
  assert.ok(seen.length === 3 && seen.every((number) => number > 1e15), `${seen}`);
  // Who has seen the last event knows it.
  const other = service.client().follow("0001");
  const last = (await all(other)).at(-1);
  const before = service.asked.length;
  assert.equal(await other.done, last.build);
  assert.equal(service.asked.length, before);
});

test("a build", async (context) => {
  const expect = events(1);
  let request;
  const service = await play(context, {
    "POST /v1/builds": ({ body, time }) => {
      request = JSON.parse(body);
      const reply = ["accepted", "reused"][time] ?? "surprise";
      return { reply, ...build(reply === "reused" ? "reused" : "queued") };
    },
    [EVENTS]: ({ response }) => {
      begin(response);
      response.end(expect.map(frame).join(""));
    },
    "DELETE /v1/builds/0001": () => build("cancelled"),
  });
  const client = service.client();
  const image = Image.base("busybox").runCommands("true");
  const run = await client.build(image, {
    name: "team/app:v1",
    force: true,
    secrets: { TOKEN: "s3cret" },
    compression: "gzip",
    cancelOnDisconnect: true,
  });
  assert.deepEqual(request, {
    spec: (await image.resolve()).toJSON(),
    name: "team/app:v1",
    force: true,
    secrets: { TOKEN: "s3cret" },
    compression: "gzip",
    cancel_on_disconnect: true,
  });
  assert.equal(run.id, "0001");
  assert.ok(!inspect(run, { depth: 9, showHidden: true }).includes(TOKEN));
  assert.deepEqual(await all(run), expect);
  assert.equal((await run.done).status, "built");
  assert.equal((await run.cancel()).status, "cancelled");

  const before = service.asked.length;
  const reused = await client.build(image);
  assert.deepEqual(Object.keys(request).toSorted(), ["cancel_on_disconnect", "force", "spec"]);
  assert.deepEqual(await reused.done, build("reused"));
  const [only, ...none] = await all(reused);
  assert.deepEqual(only, { seq: 1, time: "2026-01-01T00:00:00Z", type: "finished", build: build("reused") });
  assert.deepEqual(none, []);
  assert.equal(service.asked.length, before + 1);
  await assert.rejects(client.build(image), coded("protocol", /something unknown/));
});

test("giving up", async (context) => {
  const left = deferred();
  const closed = deferred();
  const service = await play(context, {
    "GET /v1/info": () => undefined,
    "POST /v1/builds": () => ({ reply: "accepted", ...build("queued") }),
    [EVENTS]: ({ response }) => {
      response.on("close", closed.resolve);
      begin(response);
      response.write(frame(events(1)[0]));
    },
    "DELETE /v1/builds/0001": ({ query, response }) => {
      left.resolve(query.get("leave"));
      json(response, build("cancelled"));
    },
  });
  const client = service.client();
  const image = Image.base("busybox");
  const gone = AbortSignal.abort();
  for (const call of [
    client.info({ signal: gone }),
    client.plan(image, { signal: gone }),
    client.build(image, { signal: gone }),
    client.diff("a", "b", { signal: gone }),
    client.why(image, { signal: gone }),
    all(client.follow("0001", { signal: gone })),
    all(client.logs("0001", { signal: gone })),
    client.follow("0001", { signal: gone }).done,
  ]) {
    await assert.rejects(call, (error) => coded("aborted")(error) && error.name === "AbortError");
  }
  assert.deepEqual(service.asked, []);

  // A service that does not answer.
  await assert.rejects(client.info({ signal: AbortSignal.timeout(100) }), coded("aborted", /ran out/));

  // In the midst of the events.
  const own = new AbortController();
  const run = await client.build(image, { signal: own.signal, cancelOnDisconnect: true });
  const events_ = run[Symbol.asyncIterator]();
  assert.equal((await events_.next()).value.seq, 1);
  const waiting = events_.next();
  own.abort();
  await assert.rejects(waiting, coded("aborted"));
  assert.equal((await events_.next()).done, true);
  await closed.promise;
  assert.equal(await left.promise, "true");
  await assert.rejects(run.done, coded("aborted"));

  // While waiting for a service that is away.
  await service.stop();
  const patient = new AbortController();
  const followed = all(client.follow("0001", { signal: patient.signal }));
  setTimeout(() => patient.abort(), 150);
  await assert.rejects(followed, coded("aborted"));
});

test("logs", async (context) => {
  const expect = events(4);
  const texts = (step) =>
    expect.filter((event) => event.type === "log" && (step === undefined || event.step === step)).map(({ text }) => text);
  const service = await play(context, {
    "GET /v1/builds/0001/logs": ({ response, query }) => {
      response.end(`step ${query.get("step")} é\n`);
    },
    [EVENTS]: (call) => {
      begin(call.response);
      const rest = expect.slice(after(call)).map(frame);
      if (call.time === 0) call.response.write(rest.slice(0, 3).join(""), () => call.response.destroy());
      else call.response.end(rest.join(""));
    },
  });
  const client = service.client();
  assert.equal((await all(client.logs("0001"))).join(""), "step null é\n");
  assert.equal((await all(client.logs("0001", { step: 0 }))).join(""), "step 0 é\n");
  assert.deepEqual(await all(client.logs("0001", { follow: true })), texts());
  assert.deepEqual(await all(client.logs("0001", { follow: true, step: 1 })), texts(1));
});

test("differences from what is on the service", async (context) => {
  const digest = `sha256:${"a".repeat(64)}`;
  const spec = async (image) => JSON.parse(JSON.stringify((await image.resolve()).toJSON()));
  const tagged = Image.base("busybox").runCommands("echo 1");
  const pinned = Image.base(`busybox@${digest}`);
  const old = await spec(pinned.runCommands("echo 1"));
  let pinnable = true;
  const service = await play(context, {
    "GET /v1/images/*": () => ({ spec: old }),
    "POST /v1/resolve": async ({ body, response }) => {
      const asked = JSON.parse(body).spec;
      if (!pinnable) return problem(response, 404, "base-not-found", "no such base");
      assert.equal(asked.base.digest, undefined);
      return { spec: { ...asked, base: { ...asked.base, digest } }, image_hash: digest };
    },
    "GET /v1/builds": ({ query }) => {
      if (query.get("name") === "none") return [build("failed")];
      return [build("cancelled", { id: "3" }), build("built", { id: "2", name: query.get("name") }), build("built")];
    },
  });
  const client = service.client();
  assert.equal((await client.diff("aaaaaaaa", "team/app:v1")).equal, true);
  assert.equal((await client.diff("aaaaaaaa", tagged)).equal, true);
  assert.equal((await client.diff(tagged, "aaaaaaaa")).equal, true);
  const changed = await client.diff("aaaaaaaa", pinned.runCommands("echo 2"));
  assert.deepEqual(changed.changes, [{ path: "steps[0].command", before: "echo 1", after: "echo 2" }]);
  assert.deepEqual([changed.first_step, changed.reruns.length], [0, 1]);
  // Two declarations are compared as they are.
  const before = service.asked.length;
  assert.equal((await client.diff(tagged, tagged)).equal, true);
  assert.equal(service.asked.length, before);
  pinnable = false;
  const unpinned = await client.diff("aaaaaaaa", tagged);
  assert.ok(unpinned.changes.every(({ path }) => path.startsWith("base")), inspect(unpinned));

  pinnable = true;
  const why = await client.why(tagged.runCommands("echo 3"), { name: "team/app:v1" });
  assert.deepEqual(why.against, { build: "2", name: "team/app:v1", image_hash: build().image_hash });
  assert.deepEqual([why.equal, why.first_step], [false, 1]);
  assert.ok(service.asked.includes("GET /v1/builds?limit=100&name=team%2Fapp%3Av1"));
  await client.why(tagged.name("own/name:v2"));
  assert.ok(service.asked.includes("GET /v1/builds?limit=100&name=own%2Fname%3Av2"));
  assert.equal((await client.why(pinned.runCommands("echo 1"))).equal, true);
  assert.ok(service.asked.includes("GET /v1/builds?limit=100"));
  await assert.rejects(client.why(tagged, { name: "none" }), coded("not-found", /no finished build of none/));
  pinnable = false;
  await assert.rejects(client.why(tagged), coded("base-not-found"));
});

function deferred() {
  let resolve;
  const promise = new Promise((done) => {
    resolve = done;
  });
  return { promise, resolve };
}
