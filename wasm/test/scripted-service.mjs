// An HTTP server that plays a service by a script, on a port of its own.

import { createServer } from "node:http";
import { once } from "node:events";

import { Client } from "chalkcompute";

export const TOKEN = "t".repeat(43);

/**
 * Starts a server for the time of a test.
 *
 * @param {import("node:test").TestContext} context
 * @param {Record<string, (call: Call) => unknown>} routes - By `METHOD /path`, without the query; `*` is
 *   any word. What a handler returns is sent as JSON; `undefined` means that it answered itself.
 */
export async function play(context, routes) {
  const service = new ScriptedService(routes);
  await service.start();
  context.after(() => service.stop());
  return service;
}

/**
 * @typedef {object} Call
 * @property {import("node:http").IncomingMessage} request
 * @property {import("node:http").ServerResponse} response
 * @property {string} body
 * @property {URLSearchParams} query
 * @property {string[]} words - What the `*` of the route stand for
 * @property {number} time - How often this route was asked before
 */

class ScriptedService {
  /** `METHOD /path?query` of every request, in order. */
  asked = [];
  #routes;
  #server;
  #port = 0;
  #times = new Map();

  constructor(routes) {
    this.#routes = routes;
  }

  get url() {
    return `http://127.0.0.1:${this.#port}`;
  }

  client(options = {}) {
    return new Client({ server: this.url, token: TOKEN, ...options });
  }

  /** Listens, again on the same port after a stop. */
  async start() {
    this.#server = createServer((request, response) => this.#answer(request, response));
    this.#server.listen(this.#port, "127.0.0.1");
    await once(this.#server, "listening");
    this.#port = this.#server.address().port;
  }

  /** Cuts all connections. */
  async stop() {
    const server = this.#server;
    this.#server = undefined;
    if (!server) return;
    server.close();
    server.closeAllConnections();
    await once(server, "close");
  }

  async #answer(request, response) {
    const { pathname, searchParams: query, search } = new URL(request.url, this.url);
    this.asked.push(`${request.method} ${pathname}${search}`);
    const [route, words] = this.#find(`${request.method} ${pathname}`) ?? [];
    if (request.headers.authorization !== `Bearer ${TOKEN}`) {
      return problem(response, 401, "unauthorized", "not authorized");
    }
    if (!route) return problem(response, 404, "not-found", "no such call");
    const time = this.#times.get(route) ?? 0;
    this.#times.set(route, time + 1);
    const call = { request, response, query, words, time };
    // Uploads are read by those who want to.
    if (request.method !== "PUT") call.body = await read(request);
    try {
      const document = await this.#routes[route](call);
      if (document !== undefined) json(response, document);
    } catch (error) {
      problem(response, 500, "internal", "the script failed", { detail: String(error) });
    }
  }

  #find(asked) {
    for (const route of Object.keys(this.#routes)) {
      const pattern = route.split("*").map(RegExp.escape ?? escape);
      const found = new RegExp(`^${pattern.join("([^/]*)")}$`).exec(asked);
      if (found) return [route, found.slice(1).map(decodeURIComponent)];
    }
  }
}

function escape(text) {
  return text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
}

/** All of a request's body. */
export async function read(request) {
  const pieces = [];
  for await (const piece of request) pieces.push(piece);
  return Buffer.concat(pieces).toString();
}

export function json(response, document, status = 200) {
  response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(document));
}

export function problem(response, status, type, title, more = {}) {
  const document = { type: `urn:chalk:${type}`, title, status, ...more };
  response.writeHead(status, { "content-type": "application/problem+json", ...more.headers });
  response.end(JSON.stringify(document));
}

/** Begins a stream of events. */
export function begin(response) {
  response.writeHead(200, { "content-type": "text/event-stream" });
  response.write("retry: 1000\n\n");
}

export function frame(event) {
  return `id: ${event.seq}\ndata: ${JSON.stringify(event)}\n\n`;
}

/** A build as the service describes it. */
export function build(status = "running", more = {}) {
  return {
    id: "0001",
    status,
    image_hash: `sha256:${"1".repeat(64)}`,
    recipe_hash: `sha256:${"2".repeat(64)}`,
    name: null,
    image: null,
    digest: null,
    created: "2026-01-01T00:00:00Z",
    finished: null,
    seconds: 0,
    steps: [],
    ...more,
  };
}

/** Events of a build with `lines` lines of output: `started`, the lines, `finished`. */
export function events(lines) {
  const time = "2026-01-01T00:00:00Z";
  const kinds = [{ type: "started", steps: [] }];
  for (let line = 0; line < lines; line += 1) {
    kinds.push({ type: "log", step: line % 2, stream: "stdout", text: `line ${line} é 🦀\n` });
  }
  kinds.push({ type: "finished", build: build("built") });
  return kinds.map((kind, index) => ({ seq: index + 1, time, ...kind }));
}

/** What `Last-Event-ID` says. */
export function after(call) {
  return Number(call.request.headers["last-event-id"]);
}

/** All that an iteration gives. */
export async function all(iterable) {
  const items = [];
  for await (const item of iterable) items.push(item);
  return items;
}
