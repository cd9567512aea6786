// The package in headless Chromium, from a server on loopback.

import { createServer } from "node:http";
import { readFileSync } from "node:fs";
import { join, normalize } from "node:path";

import { chromium } from "playwright-core";

const TYPES = { ".js": "text/javascript", ".wasm": "application/wasm", ".html": "text/html" };

/** Measures in the browser at `path`, with the built package in `dist`. */
export async function inChromium(path, dist) {
  const server = createServer((request, response) => {
    const name = normalize(new URL(request.url, "http://x").pathname);
    if (name === "/") {
      response.setHeader("content-type", "text/html");
      response.end("<!doctype html><title>bench</title>");
      return;
    }
    try {
      const bytes = readFileSync(join(dist, name));
      response.setHeader("content-type", TYPES[/\.\w+$/.exec(name)?.[0]] ?? "text/plain");
      response.end(bytes);
    } catch {
      response.statusCode = 404;
      response.end();
    }
  });
  await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
  const browser = await chromium.launch({
    executablePath: path,
    args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"],
  });
  try {
    const starts = [];
    for (let i = 0; i < 6; i += 1) {
      const page = await browser.newPage();
      await page.goto(`http://127.0.0.1:${server.address().port}/`);
      starts.push(await page.evaluate(start));
      await page.close();
    }
    const page = await browser.newPage();
    await page.goto(`http://127.0.0.1:${server.address().port}/`);
    const speeds = await page.evaluate(bigBlob);
    starts.sort((a, b) => a - b);
    return { version: browser.version(), start: starts[2], ...speeds };
  } finally {
    await browser.close();
    server.close();
  }
}

/** In the page: milliseconds from the import of the package to its first hash. */
async function start() {
  const begun = performance.now();
  const { Image } = await import("/index.js");
  await Image.debianSlim("3.12").pipInstall("requests").hash();
  return performance.now() - begun;
}

/** In the page: MiB per second of our way and of bare WebCrypto, for a Blob of 256 MiB. */
async function bigBlob() {
  const { Image } = await import("/index.js");
  const MIB = 1024 * 1024;
  const piece = new Uint8Array(MIB).map((_, i) => i * 7);
  const blob = new Blob(Array.from({ length: 256 }, () => piece));
  const speed = async (run) => {
    const times = [];
    for (let i = 0; i < 6; i += 1) {
      const begun = performance.now();
      await run();
      if (i > 0) times.push(performance.now() - begun);
    }
    return 256 / (times.sort((a, b) => a - b)[2] / 1000);
  };
  const image = Image.scratch().addLocalFile(blob, "/big", { strategy: "copy" });
  const ours = await speed(() => image.hash());
  const peer = await speed(async () => crypto.subtle.digest("SHA-256", await blob.arrayBuffer()));
  return { ours, peer };
}
