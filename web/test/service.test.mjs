// Connected to a service that follows a script. The real one is asked by the whole-system tests.
import assert from "node:assert/strict";
import { test } from "node:test";
import { violations } from "./axe.mjs";
import { DIGEST, SEED, withBrowser } from "./browser.mjs";

const TOKEN = "t0ken";
const BUILD = { id: "b1", image_hash: SEED, recipe_hash: SEED, name: null, image: null, digest: null, created: "2026-01-01T00:00:00Z", finished: null, seconds: 0, steps: [] };

/** What the service does in the running test. */
let script;
/** Requests with their bodies. */
let asked;

function api(request, response) {
  const { pathname } = new URL(request.url, "http://localhost");
  if (!pathname.startsWith("/v1/")) return false;
  const json = (status, body) => response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
  let text = "";
  request.on("data", (piece) => (text += piece));
  request.on("end", () => {
    const body = text && JSON.parse(text);
    asked.push({ call: `${request.method} ${pathname}`, body, after: request.headers["last-event-id"] });
    if (request.headers.authorization !== `Bearer ${TOKEN}`) {
      return json(401, { type: "urn:chalk:unauthorized", title: "the token is wrong", status: 401, hint: "take the one that `chalk serve` printed" });
    }
    switch (`${request.method} ${pathname}`) {
      case "GET /v1/info":
        return json(200, { version: "9.9.9", builder: "1", registry: "localhost:1/chalk", started: "2026-01-01T00:00:00Z" });
      case "POST /v1/resolve":
        return json(200, { spec: { ...body.spec, base: { ref: body.spec.base.ref, digest: DIGEST } }, image_hash: SEED });
      case "POST /v1/plan":
        return json(200, plan(body.spec));
      case "POST /v1/builds":
        return json(202, { reply: "accepted", ...BUILD, status: "queued" });
      case "GET /v1/builds/b1/events":
        response.writeHead(200, { "content-type": "text/event-stream" });
        return script.events(response, Number(request.headers["last-event-id"] ?? 0));
      case "DELETE /v1/builds/b1":
        script.cancelled?.();
        return json(200, { ...BUILD, status: "cancelled" });
      case "GET /v1/builds/b1":
        return json(200, { ...BUILD, status: "running" });
    }
    return json(404, { type: "urn:chalk:not-found", title: "not found", status: 404 });
  });
  return true;
}

const steps = [
  { kind: "pip_install", key: `sha256:${"1".repeat(64)}`, title: "pip_install pandas>=2.0 requests", state: "cached" },
  { kind: "run", key: `sha256:${"2".repeat(64)}`, title: "RUN apt-get", state: "run" },
];

function plan() {
  return { recipe_hash: SEED, image_hash: null, base: null, platform: "linux/amd64", exists: false, steps, upload_bytes: 1_500_000, nodes_warm: [], warnings: [] };
}

/** Writes events from number `from` on. */
function write(response, events, from = 1) {
  events.forEach((event, i) => {
    const seq = from + i;
    response.write(`id: ${seq}\ndata: ${JSON.stringify({ seq, time: "2026-01-01T00:00:00Z", ...event })}\n\n`);
  });
}

const log = (text) => ({ type: "log", step: 1, stream: "stdout", text });
const finished = (status, more = {}) => ({
  type: "finished",
  build: { ...BUILD, status, seconds: 3, image: status === "built" ? `localhost:1/chalk/images:${SEED.slice(7)}` : null, ...more },
});

const browser = withBrowser(() => ({}), api);

async function connected(t, events) {
  asked = [];
  script = events;
  const page = await browser.open(t, { fragment: `#token=${TOKEN}`, quiet: false });
  await page.role("button", { name: "Connected" }).waitFor();
  page.build = page.role("region", { name: "Build", exact: true });
  return page;
}

test("a connected page shows what is cached and resolves the base", async (t) => {
  const page = await connected(t, {});
  await page.build.getByText("1 step cached in the region, 1 to run. 1.50 MB to upload.").waitFor();
  const items = (await page.output(/^Steps/)).getByRole("listitem");
  assert.match(await items.nth(0).innerText(), /cached/);
  assert.match(await items.nth(1).innerText(), /will run/);
  await page.role("button", { name: "Resolve base" }).click();
  await page.role("region", { name: "Image hash" }).waitFor();
  assert.equal(await page.role("textbox", { name: /^Digest of base/ }).inputValue(), DIGEST);
});

test("a build streams its log over a lost connection, without a line twice", async (t) => {
  const page = await connected(t, {
    events(response, after) {
      if (after === 0) {
        write(response, [{ type: "queued", ahead: 0 }, { type: "started", steps }, { type: "step_cached", step: 0, source: "local" }, { type: "step_started", step: 1 }, log("one\ntw")]);
        setTimeout(() => response.destroy(), 300);
      } else {
        write(response, [log("o\nthree\n"), { type: "step_done", step: 1, seconds: 2, layer: null, layer_bytes: 0 }, finished("built", { digest: DIGEST })], after + 1);
        response.end();
      }
    },
  });
  await page.build.getByText("to run").waitFor();
  const phases = page.page.evaluate(
    () =>
      new Promise((resolve) => {
        const seen = [];
        const status = document.querySelector(".build-status");
        new MutationObserver(() => {
          seen.push(status.dataset.phase);
          if (status.dataset.phase === "built") resolve(seen);
        }).observe(status, { childList: true, attributes: true });
      }),
  );
  await page.build.getByRole("textbox", { name: "Name (optional)" }).fill("team/app:v1");
  await page.build.getByRole("button", { name: "Build", exact: true }).click();
  await page.build.getByText("Built in 3.0 s").waitFor();
  assert.ok((await phases).includes("reconnecting"), "the lost connection was shown");
  assert.equal((await page.build.getByRole("log").innerText()).trim(), "#2 one\n#2 two\n#2 three");
  assert.deepEqual(asked.filter(({ call }) => call.includes("/events")).map(({ after }) => after ?? "0"), ["0", "5"]);
  assert.equal(asked.find(({ call }) => call === "POST /v1/builds").body.name, "team/app:v1");
});

test("the log is bounded, and holds still while it is read", async (t) => {
  let more;
  const page = await connected(t, {
    events(response) {
      write(response, [{ type: "started", steps }, { type: "step_started", step: 1 }]);
      let seq = 3;
      more = (count) => {
        write(response, [log(Array.from({ length: count }, (_, i) => `line ${seq}.${i}\n`).join(""))], seq);
        seq += 1;
      };
      for (let i = 0; i < 20; i += 1) more(1_000);
    },
  });
  await page.build.getByText("to run").waitFor();
  await page.build.getByRole("button", { name: "Build", exact: true }).click();
  await page.build.getByText("20,000 lines").waitFor();
  const box = page.build.getByRole("log");
  const lines = await box.evaluate((element) => element.textContent.split("\n").length);
  assert.ok(lines <= 5_002, `${lines} lines in the document`);
  const atEnd = () => box.evaluate((element) => element.scrollTop + element.clientHeight >= element.scrollHeight - 24);
  assert.ok(await atEnd());
  await box.evaluate((element) => (element.scrollTop = 1_000));
  await page.build.getByText("Paused").waitFor();
  const top = await box.evaluate((element) => element.innerText.slice(0, 100));
  more(500);
  await page.build.getByText("Paused · 500 new").waitFor();
  assert.equal(await box.evaluate((element) => element.scrollTop), 1_000);
  assert.equal(await box.evaluate((element) => element.innerText.slice(0, 100)), top);
  await page.build.getByRole("button", { name: "Follow" }).click();
  await box.getByText("line 23.499").waitFor();
  assert.ok(await atEnd());
  // Selected text stays selected.
  await box.evaluate((element) => getSelection().selectAllChildren(element.lastElementChild));
  const selected = await page.page.evaluate(() => String(getSelection()));
  more(400);
  await page.build.getByText("Paused · 400 new").waitFor();
  assert.equal(await page.page.evaluate(() => String(getSelection())), selected);
});

test("a build can be cancelled, and a failed one says why", async (t) => {
  let end;
  const page = await connected(t, {
    events(response) {
      write(response, [{ type: "started", steps }, { type: "step_started", step: 1 }]);
      end = (event) => {
        write(response, [event], 3);
        response.end();
      };
    },
    cancelled: () => end(finished("cancelled", { error: { type: "urn:chalk:cancelled", title: "cancelled", status: 409 } })),
  });
  await page.build.getByText("to run").waitFor();
  await page.build.getByRole("button", { name: "Build", exact: true }).click();
  await page.build.getByText("running step 2").waitFor();
  await page.build.getByRole("button", { name: "Cancel build" }).click();
  await page.build.getByText("Ended: cancelled").waitFor();
  await page.build.getByRole("button", { name: "Build", exact: true }).click();
  await page.build.getByText("running step 2").waitFor();
  end(finished("failed", { error: { type: "urn:chalk:step-failed", title: "step 2 failed", status: 500, detail: "exit code 1" } }));
  await page.build.getByText("Ended: failed").waitFor();
  await page.build.getByRole("log").getByText("step 2 failed: exit code 1").waitFor();
  assert.deepEqual(await violations(page), []);
});

test("a wrong token is said, forgotten, and can be typed again", async (t) => {
  asked = [];
  const page = await browser.open(t, { fragment: "#token=wrong", quiet: false });
  await page.role("alert").filter({ hasText: "the token is wrong" }).waitFor();
  assert.equal(await page.page.evaluate(() => sessionStorage.length), 0);
  await page.role("button", { name: "Not connected" }).click();
  const dialog = page.role("dialog", { name: "Service" });
  assert.deepEqual(await violations(page), []);
  await dialog.getByLabel("Token").fill(TOKEN);
  await dialog.getByRole("button", { name: "Connect", exact: true }).click();
  await page.role("button", { name: "Connected" }).waitFor();
  await page.page.reload();
  await page.role("button", { name: "Connected" }).click();
  await page.role("button", { name: "Disconnect and forget the token" }).click();
  await page.page.reload();
  await page.hash("Recipe hash", SEED);
  await page.role("button", { name: "Connect", exact: true }).waitFor();
});
