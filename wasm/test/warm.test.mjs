// Warms against a scripted server.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Image } from "chalkcompute";

import { after, all, begin, frame, play, problem } from "./scripted-service.mjs";

const time = "2026-01-01T00:00:00Z";
const hash = `sha256:${"1".repeat(64)}`;
const EVENTS = "GET /v1/warms/w1/events";

function target(node, state, more = {}) {
  const counts = { done: 10, total: 10, bytes_fetched: 10, bytes_present: 5, verified: state === "ready", seconds: 1.5 };
  return { node, region: "eu", image_hash: hash, state, ...counts, retries_left: 0, ...more };
}

const error = { type: "urn:chalk:disk-full", title: "the disk is full", status: 507 };
const nodes = [target("n1", "ready"), target("n2", "failed", { error })];

function warm(status = "running", more = {}) {
  return { id: "w1", status, images: [hash], created: time, nodes: [], ...more };
}

/** Events of a warm that some nodes do and one does not. */
function events() {
  const pulling = (done) => ({ type: "pulling", node: "n1", image_hash: hash, done, total: 10, layers: [] });
  const kinds = [
    { type: "copying", image_hash: hash, region: "eu", done: 1, total: 2 },
    ...Array.from({ length: 20 }, (_, done) => pulling(done)),
    ...nodes.map((target) => ({ type: "target", target })),
    { type: "finished", warm: warm("partly", { nodes }) },
  ];
  return kinds.map((kind, index) => ({ seq: index + 1, time, ...kind }));
}

test("a warm gives a receipt for each node, over connections that break", async (context) => {
  const expect = events();
  let request;
  const service = await play(context, {
    "POST /v1/warms": ({ body }) => {
      request = JSON.parse(body);
      return warm();
    },
    [EVENTS]: (call) => {
      begin(call.response);
      const text = expect.slice(after(call)).map(frame).join("");
      if (call.time > 6) return void call.response.end(text);
      call.response.write(text.slice(0, 300 + 101 * call.time), () => call.response.destroy());
    },
    "GET /v1/warms/w1": () => warm("partly", { nodes }),
  });
  const client = service.client();
  const seen = [];
  const onEvent = (event) => seen.push(event);
  const done = await client.warm({ images: "team/app:v1" }, { onEvent });
  assert.deepEqual(seen, expect);
  assert.deepEqual([done.status, done.nodes], ["partly", nodes]);
  assert.deepEqual(request, { images: ["team/app:v1"], all: false, pin: false });

  const asked = service.asked.length;
  const begun = await client.warm(
    { images: ["a", "b"], nodes: ["n1"], labels: { gpu: "a100" }, region: "eu", pin: true, timeoutSeconds: 9 },
    { wait: false },
  );
  assert.equal(begun.status, "running");
  assert.equal(service.asked.length, asked + 1);
  assert.deepEqual(request, {
    images: ["a", "b"],
    nodes: ["n1"],
    labels: { gpu: "a100" },
    region: "eu",
    all: false,
    pin: true,
    timeout_seconds: 9,
  });
  await client.warm({ images: [], all: true }, { wait: false });
  assert.deepEqual(request, { images: [], all: true, pin: false });
  assert.deepEqual(await all(client.warms.events("w1", { after: 3 })), expect.slice(3));
});

test("images are named by their hashes, pinned by the service where need be", async (context) => {
  let request;
  const service = await play(context, {
    "POST /v1/warms": ({ body }) => {
      request = JSON.parse(body);
      return warm();
    },
    "POST /v1/resolve": ({ body }) => ({ spec: JSON.parse(body).spec, image_hash: hash }),
  });
  const client = service.client();
  const images = (given) => client.warm({ images: given }, { wait: false }).then(() => request.images);
  const pinned = Image.scratch().workdir("/");
  const own = await pinned.hash();
  assert.deepEqual(await images(pinned), [own]);
  assert.deepEqual(await images([await pinned.resolve(), pinned.toJSON(), "12345678"]), [own, own, "12345678"]);
  assert.ok(!service.asked.includes("POST /v1/resolve"));
  assert.deepEqual(await images([Image.base("busybox"), pinned]), [hash, own]);
  await assert.rejects(client.warm({ images: [7] }), (error) => error.code === "wrong-type");
});

test("a warm that goes on behind an end", async (context) => {
  // The first try failed, a second one is on its way: there is an end in the midst.
  const expect = [
    { type: "target", target: nodes[1] },
    { type: "finished", warm: warm("failed") },
    { type: "target", target: target("n2", "pulling") },
    { type: "target", target: target("n2", "ready") },
    { type: "finished", warm: warm("ready") },
  ].map((kind, index) => ({ seq: index + 1, time, ...kind }));
  const service = await play(context, {
    [EVENTS]: (call) => {
      begin(call.response);
      const rest = expect.slice(after(call)).map(frame);
      // Breaks off right behind the first end.
      if (call.time === 0) call.response.write(rest.slice(0, 2).join(""), () => call.response.destroy());
      else call.response.end(rest.join(""));
    },
    "GET /v1/warms/w1": ({ time }) => warm(time === 0 ? "running" : "ready"),
  });
  const { warms } = service.client();
  assert.deepEqual(await all(warms.events("w1")), expect);
  assert.equal((await warms.wait("w1")).status, "ready");
});

test("who comes late is told the newest, and who comes last nothing", async (context) => {
  // Of each target only the newest event is kept.
  const expect = [
    { seq: 7, time, type: "target", target: nodes[0] },
    { seq: 19, time, type: "target", target: nodes[1] },
    { seq: 21, time, type: "finished", warm: warm("partly", { nodes }) },
  ];
  const service = await play(context, {
    [EVENTS]: (call) => {
      begin(call.response);
      // Some is told again.
      const rest = expect.filter(({ seq }) => seq > after(call) - (call.time > 0 ? 5 : 0));
      const text = rest.map(frame).join("");
      if (call.time === 0) call.response.write(text.slice(0, -20), () => call.response.destroy());
      else call.response.end(after(call) >= 21 ? "" : text);
    },
    "GET /v1/warms/w1": () => warm("partly", { nodes }),
  });
  const { warms } = service.client();
  assert.deepEqual(await all(warms.events("w1")), expect);
  assert.deepEqual(await all(warms.events("w1", { after: 21 })), []);
  assert.deepEqual((await warms.wait("w1")).nodes, nodes);
});

test("further calls", async (context) => {
  const service = await play(context, {
    "GET /v1/warms": () => [],
    "GET /v1/warms/*": ({ words }) => warm("ready", { id: words[0] }),
    "DELETE /v1/warms/*": () => warm("cancelled"),
    "POST /v1/warms/*/retry": () => warm("running"),
  });
  const { warms } = service.client();
  await warms.list();
  await warms.list({ limit: 3, image: "abcdef12" });
  assert.equal((await warms.get("w/1")).id, "w/1");
  assert.equal((await warms.cancel("w1")).status, "cancelled");
  assert.equal((await warms.retry("w1")).status, "running");
  assert.deepEqual(service.asked, [
    "GET /v1/warms",
    "GET /v1/warms?limit=3&image=abcdef12",
    "GET /v1/warms/w%2F1",
    "DELETE /v1/warms/w1",
    "POST /v1/warms/w1/retry",
  ]);
});

test("giving up leaves the warm alone", async (context) => {
  const service = await play(context, {
    "POST /v1/warms": () => warm(),
    [EVENTS]: ({ response }) => {
      begin(response);
      response.write(frame(events()[0]));
    },
    "GET /v1/warms/none/events": ({ response }) => problem(response, 404, "not-found", "no such warm"),
  });
  const client = service.client({ patience: 300 });
  const own = new AbortController();
  const waiting = client.warm({ images: "a" }, { signal: own.signal, onEvent: () => own.abort() });
  await assert.rejects(waiting, (error) => error.name === "AbortError");
  assert.deepEqual(service.asked, ["POST /v1/warms", "GET /v1/warms/w1/events"]);
  await assert.rejects(all(client.warms.events("none")), (error) => error.code === "not-found");
  await assert.rejects(client.warm({ images: "a" }, { signal: AbortSignal.abort() }), (error) => error.code === "aborted");
});
