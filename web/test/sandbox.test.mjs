// Code of users runs without network, without the page, and not for ever.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { test } from "node:test";
import { SEED, withBrowser } from "./browser.mjs";

const browser = withBrowser();
const RECORD = 'import { Image } from "chalkcompute";\n';

test("code cannot reach anything", async (t) => {
  const asked = [];
  const outside = createServer((request, response) => {
    asked.push(request.url);
    response.writeHead(200, { "access-control-allow-origin": "*", "content-type": "text/javascript" }).end("export {}");
  });
  await new Promise((resolve) => outside.listen(0, "127.0.0.1", resolve));
  t.after(() => outside.close());
  const { port } = outside.address();
  const url = `http://127.0.0.1:${port}`;
  const page = await browser.open(t, { quiet: false });
  await page.hash("Recipe hash", SEED);
  const attempts = {
    fetch: `await fetch("${url}/fetch")`,
    XMLHttpRequest: `const r = new XMLHttpRequest(); r.open("GET", "${url}/xhr", false); r.send()`,
    WebSocket: `await new Promise((ok, no) => { const s = new WebSocket("ws://127.0.0.1:${port}/ws"); s.onopen = ok; s.onerror = () => no(new Error("no socket")); })`,
    EventSource: `new EventSource("${url}/es")`,
    importScripts: `importScripts("${url}/is.js")`,
    "dynamic import": `await import("${url}/import.js")`,
    "import of data": `await import("data:text/javascript,export default 1")`,
    "static import": `import "${url}/static.js"`,
    "a worker of its own": `new Worker("${url}/worker.js")`,
    "the page": `postMessage("x")`,
    storage: `await new Promise((ok, no) => { const r = indexedDB.open("x"); r.onsuccess = ok; r.onerror = no; })`,
    document: `document.title`,
    eval: `eval("1")`,
  };
  for (const [name, code] of Object.entries(attempts)) {
    await page.write("JavaScript", `${code};\n${RECORD.replace("import ", "// ")}`);
    await page.problem(/Error/).waitFor().catch(() => assert.fail(`${name} was not refused`));
    await page.write("JavaScript", `${RECORD}Image.scratch();\n`);
    await page.card.getByText("no base").waitFor();
  }
  assert.deepEqual(asked, []);
});

test("the policy alone refuses what the recorder takes away", async (t) => {
  const page = await browser.open(t, { quiet: false });
  await page.hash("Recipe hash", SEED);
  const frame = page.page.frames().find((one) => one.url().endsWith("/sandbox.html"));
  const outcomes = await frame.evaluate(async (url) => {
    const refused = async (name, attempt) => {
      try {
        await attempt();
        return `${name}: allowed`;
      } catch {
        return `${name}: refused`;
      }
    };
    const code = `onmessage = async () => {
      const refused = ${refused};
      const results = [];
      results.push(await refused("worker fetch", () => fetch("${url}")));
      results.push(await refused("worker import", () => import("${url}x.js")));
      results.push(await refused("worker importScripts", () => importScripts("${url}x.js")));
      results.push(await refused("worker socket", () => new Promise((ok, no) => { const s = new WebSocket("${url}".replace("http", "ws")); s.onopen = ok; s.onerror = no; })));
      results.push(await refused("worker eval", () => eval("1")));
      postMessage(results);
    }`;
    const worker = new Worker(URL.createObjectURL(new Blob([code])));
    const inWorker = await new Promise((resolve) => {
      worker.onmessage = (event) => resolve(event.data);
      worker.postMessage(1);
    });
    return [
      await refused("fetch", () => fetch(url)),
      await refused("image", () => new Promise((ok, no) => Object.assign(new Image(), { onload: ok, onerror: no, src: `${url}x.png` }))),
      await refused("page", () => parent.document.title),
      await refused("storage", () => localStorage.length),
      ...inWorker,
    ];
  }, browser.server.url);
  assert.deepEqual(outcomes.filter((outcome) => !outcome.endsWith("refused")), []);
  assert.equal(outcomes.length, 9);
});

test("code that does not end, hoards or floods is stopped, and the page stays quick", async (t) => {
  const page = await browser.open(t, { quiet: false });
  await page.hash("Recipe hash", SEED);
  const codes = {
    "an endless loop": "for (;;);",
    "a loop of promises": "const f = () => Promise.resolve().then(f); await f();",
    "a huge allocation": "const a = []; for (;;) a.push(new Uint8Array(1e8).fill(1));",
    "many objects": 'const a = []; for (;;) a.push("x".repeat(1000) + Math.random(), { a: [1, 2, 3] });',
    "many imports": 'for (;;) import("https://127.0.0.1:1/" + Math.random()).catch(() => {});',
    "many errors": "const f = () => { setTimeout(f); throw 1; }; setInterval(f); await new Promise(() => {});",
    "many messages": 'const { port1, port2 } = new MessageChannel(); port1.onmessage = () => {}; for (;;) port2.postMessage("x".repeat(1e4));',
    "an end without an answer": "await new Promise(() => {});",
  };
  for (const [name, code] of Object.entries(codes)) {
    await page.write("JavaScript", `${RECORD}Image.scratch();\n`);
    await page.card.getByText("no base").waitFor();
    await page.page.evaluate(() => {
      let last = performance.now();
      globalThis.worst = 0;
      clearInterval(globalThis.beat);
      globalThis.beat = setInterval(() => {
        const now = performance.now();
        globalThis.worst = Math.max(globalThis.worst, now - last);
        last = now;
      }, 5);
    });
    await page.write("JavaScript", `${code}\n`);
    const stopped = page.problem(/was ended|sandbox ended|Error/);
    await stopped.waitFor({ timeout: 8_000 }).catch(() => assert.fail(`${name} was not stopped`));
    const worst = await page.page.evaluate(() => globalThis.worst);
    t.diagnostic(`${name}: longest pause of the page ${worst.toFixed(0)} ms`);
    assert.ok(worst < 1_000, `${name} held the page for ${worst} ms`);
  }
  await page.write("JavaScript", `${RECORD}Image.scratch();\n`);
  await page.card.getByText("no base").waitFor();
});

test("what code asks of an image ends it there; its console is shown", async (t) => {
  const page = await browser.open(t);
  await page.write(
    "JavaScript",
    `${RECORD}const image = Image.base("alpine:3.20").runCommands("true");\nconsole.log("made", { a: 1 });\nconsole.log(await image.hash());\nimage.cmd("never");\n`,
  );
  await page.problem("up to `hash`").filter({ hasText: "line 4" }).waitFor();
  await page.page.getByText("Console output").click();
  await page.page.getByText('made {"a":1}').waitFor();
  await page.role("tab", { name: "Steps 1" }).waitFor();
});

test("the image shown is the default export, else `image`, else the last one made", async (t) => {
  const page = await browser.open(t);
  const cases = [
    ['const a = Image.base("one");\nexport const image = Image.base("two");\nImage.base("three");\nexport default a;\n', "one"],
    ['export const image = Image.base("two");\nImage.base("three");\n', "two"],
    ['Image.base("one");\nImage.base("three");\n', "three"],
  ];
  for (const [code, base] of cases) {
    await page.write("JavaScript", RECORD + code);
    await page.role("textbox", { name: new RegExp(`library/${base}:latest$`) }).waitFor();
  }
});

test("words of the package inside commands are hashed as they are", async (t) => {
  const page = await browser.open(t);
  const command = 'node -e \'import { Image } from "chalkcompute"\'';
  await page.write("JavaScript", `${RECORD}export default Image.base("node:22").runCommands(${JSON.stringify(command)});\n`);
  await page.role("textbox", { name: /library\/node:22$/ }).waitFor();
  const fromCode = await page.shownHash();
  await page.write("image.toml", `[image]\nbase = "node:22"\n[[step]]\nrun_commands = ['''${command}''']\n`);
  await page.hash("Recipe hash", fromCode);
});
