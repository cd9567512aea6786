// The client in a page: warms and sandboxes on the service's own node. Needs root, as the node does.

import assert from "node:assert/strict";
import { basename, join } from "node:path";
import { test } from "node:test";

import { PYTHON } from "../chalk.mjs";
import { open, service } from "./open.mjs";

const DIST = join(import.meta.dirname, "../../../wasm/dist");

/** The service's page with the package beside it, as its policy allows: from the same origin. */
async function withPackage(t) {
  const { page, noise } = await open(t);
  await page.route("**/chalkcompute/*", (route) => {
    const name = basename(new URL(route.request().url()).pathname);
    return route.fulfill({ path: join(DIST, name) });
  });
  return { page, noise };
}

test("a page builds, warms, mounts what it holds, and talks to a sandbox", { timeout: 300_000 }, async (t) => {
  const { page, noise } = await withPackage(t);
  const given = { base: PYTHON, server: service.url, token: await service.token(), mark: `${process.pid}` };
  const found = await page.evaluate(async ({ base, server, token, mark }) => {
    const { Client, Image } = await import("/chalkcompute/index.js");
    const client = new Client({ server, token });
    while (!(await client.nodes.list()).some(({ state }) => state === "ready")) {
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    const image = Image.base(base)
      .env({ MARK: mark })
      .addLocalDir({ "a.txt": new Blob(["mounted"]), "sub/run.sh": { body: new Blob(["#!/bin/sh\necho ran $MARK\n"]), executable: true } }, "/srv")
      .addLocalFile("the text itself", "/etc/text");
    const build = await (await client.build(image)).done;
    const warm = await client.warm({ images: image });
    const phases = new Set();
    const script = "/srv/sub/run.sh; cat /srv/a.txt /etc/text; echo; cat; echo oops >&2; exit 4";
    const sandbox = await client.sandboxes.run(image, {
      args: ["sh", "-c", script],
      stdin: true,
      onUpload: ({ phase }) => phases.add(phase),
    });
    const lines = sandbox.stdout.lines();
    const first = [(await lines.next()).value, (await lines.next()).value];
    await sandbox.write("line é 🦀\n");
    const second = (await lines.next()).value;
    await sandbox.closeStdin();
    const rest = [];
    for await (const line of lines) rest.push(line);
    const errors = await sandbox.stderr.text();
    const end = await sandbox.wait();
    const sleeping = await client.sandboxes.run(image, { args: ["sleep", "600"] });
    const command = await sleeping.exec(["sh", "-c", "echo $MARK"]);
    const printed = await command.stdout.text();
    const stopped = await sleeping.stop({ graceSeconds: 0 });
    await sleeping.remove();
    await sandbox.remove();
    return {
      built: build.status,
      states: warm.nodes.map(({ state, verified }) => [state, verified]),
      phases: [...phases],
      output: [...first, second, ...rest],
      errors,
      end,
      printed,
      ended: stopped.ended_by,
    };
  }, given);
  assert.deepEqual(found, {
    built: "built",
    states: [["ready", true]],
    phases: ["list", "hash", "upload"],
    output: [`ran ${process.pid}`, "mountedthe text itself", "line é 🦀"],
    errors: "oops\n",
    end: { exitCode: 4, endedBy: null },
    printed: `${process.pid}\n`,
    ended: "stopped",
  });
  assert.deepEqual(noise, [], "the console is quiet");
});
