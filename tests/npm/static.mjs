// Serves a folder as a plain host of files does, under a strict policy.

import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";

/** What the README says that a page needs. */
export const POLICY = "default-src 'none'; connect-src 'self'; img-src data:; script-src 'self' 'wasm-unsafe-eval'";

const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript",
  ".json": "application/json",
  ".mjs": "text/javascript",
  ".wasm": "application/wasm",
};

/** Starts a server on a free port and gives its address; `policy(path)` may name another policy. */
export async function serve(dir, policy = () => POLICY) {
  const server = createServer(async (request, response) => {
    const path = normalize(decodeURIComponent(new URL(request.url, "http://localhost").pathname));
    const type = TYPES[extname(path)];
    try {
      if (!type) throw new Error(`no type for ${path}`);
      const body = await readFile(join(dir, path));
      response.writeHead(200, { "content-type": type, "content-security-policy": policy(path) }).end(body);
    } catch {
      response.writeHead(404).end();
    }
  });
  server.listen(0, "127.0.0.1").unref();
  await once(server, "listening");
  return `http://127.0.0.1:${server.address().port}`;
}
