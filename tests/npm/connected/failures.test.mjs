// The service refuses, goes away, and comes back.

import assert from "node:assert/strict";
import { test } from "node:test";

import { PYTHON, hashes } from "../chalk.mjs";
import { builds, connect, open, service } from "./open.mjs";

test("a wrong token is refused, forgotten, and a right one is taken", async (t) => {
  const page = await open(t, `#token=${"x".repeat(43)}`);
  await page.role("alert").filter({ hasText: "Not connected" }).waitFor();
  assert.equal(await page.page.evaluate(() => sessionStorage.length), 0);
  assert.doesNotMatch(page.page.url(), /token/);
  // The hash needs no service.
  await page.role("region", { name: "Recipe hash" }).waitFor();
  await page.role("button", { name: "Not connected" }).click();
  const dialog = page.role("dialog", { name: "Service" });
  await dialog.getByLabel("Token").fill(await service.token());
  await dialog.getByRole("button", { name: "Connect", exact: true }).click();
  await page.role("button", { name: "Connected" }).waitFor();
});

test("a page without a token computes, and asks the service nothing", async (t) => {
  const page = await open(t);
  const asked = [];
  page.page.on("request", (request) => asked.push(new URL(request.url()).pathname));
  await page.write("image.toml", '[image]\nbase = "scratch"\n');
  await page.card.getByText("no base").waitFor();
  assert.deepEqual(asked.filter((path) => path.startsWith("/v1/")), []);
});

test("a service that stops while a page is connected", async (t) => {
  const page = await connect(t);
  await service.end("SIGTERM");
  t.after(() => service.launch());
  // Typing goes on having hashes; what needs the service says that it is gone.
  await page.write("image.toml", `[image]\nbase = "${PYTHON}"\n[[step]]\nrun_commands = ["true"]\n`);
  await page.role("region", { name: "Recipe hash" }).waitFor();
  await page.role("alert").filter({ hasText: /No plan/ }).waitFor();
  await page.role("button", { name: "Resolve base" }).click();
  await page.role("alert").filter({ hasText: /Base not resolved/ }).waitFor();
  await builds(page).getByRole("button", { name: "Build", exact: true }).click();
  await builds(page).getByText(/^cannot reach the service at /).waitFor();
  await page.role("region", { name: "Recipe hash" }).waitFor();
});

test("the page goes on with a service that came back", async (t) => {
  const page = await connect(t);
  await service.end("SIGTERM");
  await service.launch();
  await page.role("button", { name: "Resolve base" }).click();
  const { image_hash } = await hashes(service.state, new URL("../../../examples/quickstart/image.toml", import.meta.url).pathname);
  await page.hash("Image hash", image_hash);
});

test("a build whose service is killed ends on the page once the service is back", async (t) => {
  const page = await connect(t);
  const panel = builds(page);
  await page.write("image.toml", `[image]\ndebian_slim = "3.12"\n[[step]]\nrun_commands = ["echo begun ${process.pid}-killed; sleep 600"]\n`);
  await panel.getByText("1 to run.").waitFor();
  await panel.getByRole("button", { name: "Build", exact: true }).click();
  const log = panel.getByRole("log");
  await log.getByText(`#1 begun ${process.pid}-killed`).waitFor({ timeout: 120_000 });
  await service.end("SIGKILL");
  await panel.getByText("the connection was lost").waitFor();
  await service.launch();
  await panel.getByText("Ended: failed").waitFor({ timeout: 120_000 });
  assert.equal((await log.innerText()).match(/begun/g).length, 1, "no line twice");
});
