// Nodes, their caches, join tokens, regions and the list of images to keep ready: what goes over the wire.

import assert from "node:assert/strict";
import { test } from "node:test";
import { inspect } from "node:util";

import { ServiceError } from "chalkcompute";

import { TOKEN, play, problem } from "./scripted-service.mjs";

const gone = ({ response }) => void response.writeHead(204).end();

test("what is asked of nodes", async (context) => {
  const asked = [];
  const answer = ({ request, body, words }) => {
    asked.push(body);
    return { method: request.method, words };
  };
  const service = await play(context, {
    "GET /v1/nodes": () => [],
    "GET /v1/nodes/*": answer,
    "POST /v1/nodes/*/drain": answer,
    "POST /v1/nodes/*/undrain": answer,
    "DELETE /v1/nodes/*": gone,
    "GET /v1/nodes/*/cache": answer,
    "DELETE /v1/nodes/*/cache/*": answer,
    "POST /v1/nodes/*/cache/gc": answer,
    "POST /v1/nodes/*/cache/*/unpin": gone,
    "GET /v1/regions": () => [],
  });
  const { nodes } = service.client();
  assert.deepEqual(await nodes.list(), []);
  assert.deepEqual(await nodes.get("n/1"), { method: "GET", words: ["n/1"] });
  await nodes.drain("n1");
  await nodes.undrain("n1");
  assert.equal(await nodes.remove("n1"), undefined);
  await nodes.cache("n1");
  assert.deepEqual(await nodes.removeFromCache("n1", "team/app:v1"), { method: "DELETE", words: ["n1", "team/app:v1"] });
  assert.equal(await nodes.unpin("n1", "team/app:v1"), undefined);
  asked.length = 0;
  await nodes.collect("n1");
  await nodes.collect("n1", { dryRun: true, targetBytes: 5 });
  assert.deepEqual(asked.map((body) => JSON.parse(body)), [{ dry_run: false }, { dry_run: true, target_bytes: 5 }]);
  assert.deepEqual(await service.client().regions(), []);
  assert.deepEqual(service.asked, [
    "GET /v1/nodes",
    "GET /v1/nodes/n%2F1",
    "POST /v1/nodes/n1/drain",
    "POST /v1/nodes/n1/undrain",
    "DELETE /v1/nodes/n1",
    "GET /v1/nodes/n1/cache",
    "DELETE /v1/nodes/n1/cache/team%2Fapp%3Av1",
    "POST /v1/nodes/n1/cache/team%2Fapp%3Av1/unpin",
    "POST /v1/nodes/n1/cache/gc",
    "POST /v1/nodes/n1/cache/gc",
    "GET /v1/regions",
  ]);
  assert.ok(!inspect(service.client(), { depth: 9, showHidden: true }).includes(TOKEN));
});

test("join tokens and images to keep ready", async (context) => {
  const bodies = [];
  const keep = ({ body }) => {
    bodies.push(JSON.parse(body));
    return { id: "j1", token: "secret" };
  };
  const service = await play(context, {
    "POST /v1/join-tokens": keep,
    "GET /v1/join-tokens": () => [{ id: "j1" }],
    "DELETE /v1/join-tokens/*": gone,
    "GET /v1/prewarm": () => ({ images: ["python:3.12"] }),
    "PUT /v1/prewarm": async ({ request }) => {
      const pieces = [];
      for await (const piece of request) pieces.push(piece);
      return JSON.parse(Buffer.concat(pieces));
    },
  });
  const client = service.client();
  assert.equal((await client.joinTokens.create()).token, "secret");
  await client.joinTokens.create({ region: "eu", ttlSeconds: 60, uses: 2 });
  assert.deepEqual(bodies, [{}, { region: "eu", ttl_seconds: 60, uses: 2 }]);
  assert.deepEqual(await client.joinTokens.list(), [{ id: "j1" }]);
  assert.equal(await client.joinTokens.remove("j1"), undefined);
  assert.deepEqual(await client.prewarm(), { images: ["python:3.12"] });
  assert.deepEqual(await client.setPrewarm(["a", "b"]), { images: ["a", "b"] });
});

test("errors and giving up", async (context) => {
  const service = await play(context, {
    "GET /v1/nodes/*": ({ response }) => problem(response, 404, "not-found", "no such node"),
    "POST /v1/nodes/*/cache/gc": ({ response }) => problem(response, 503, "node-lost", "the node is not connected"),
  });
  const { nodes, joinTokens } = service.client();
  await assert.rejects(nodes.get("n1"), (error) => error instanceof ServiceError && error.code === "not-found");
  await assert.rejects(nodes.collect("n1"), (error) => error.code === "node-lost" && error.status === 503);
  const before = service.asked.length;
  const signal = AbortSignal.abort();
  const calls = [
    nodes.list({ signal }),
    nodes.remove("n1", { signal }),
    nodes.collect("n1", { signal }),
    joinTokens.create({ signal }),
    joinTokens.remove("j1", { signal }),
    service.client().setPrewarm([], { signal }),
  ];
  for (const call of calls) await assert.rejects(call, (error) => error.name === "AbortError");
  assert.equal(service.asked.length, before);
});
