// Builds that are started on the page.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import { hashes } from "../chalk.mjs";
import { folder } from "../cleanup.mjs";
import { builds, connect, drop, files, service } from "./open.mjs";

const EXAMPLE = join(import.meta.dirname, "../../../examples/quickstart/image.toml");

/** Longest that the quickstart example may take: it asks PyPI and Debian's archive. */
const LONG = { timeout: 600_000 };

const images = async () => JSON.parse(await service.chalk("compute", "image", "ls", "--json"));

test("the example builds, and its image is there", async (t) => {
  const page = await connect(t);
  const panel = builds(page);
  await panel.getByText("0 steps cached in the region, 2 to run.").waitFor();
  await panel.getByRole("textbox", { name: "Name (optional)" }).fill("team/quickstart:v1");
  await panel.getByRole("button", { name: "Build", exact: true }).click();
  const log = panel.getByRole("log");
  await panel.getByText(/^Built in /).waitFor(LONG);
  const said = await log.innerText();
  assert.match(said, /^#1 .*(pandas|requests)/m);
  assert.match(said, /^#2 .*git/m);
  const marks = await (await page.output(/^Steps/)).getByRole("listitem").allInnerTexts();
  assert.equal(marks.length, 2);
  for (const mark of marks) assert.match(mark, /cached|ran/);

  const reference = await panel.getByRole("code").first().innerText();
  const image = (await images()).find(({ names }) => names.includes("team/quickstart:v1"));
  assert.equal(image?.image_hash, (await hashes(service.state, EXAMPLE)).image_hash);
  const credentials = `chalk:${await service.token()}`;
  const words = ["inspect", "--tls-verify=false", "--creds", credentials, `docker://${reference}`];
  const { Digest } = JSON.parse(execFileSync("skopeo", words, { encoding: "utf8" }));
  assert.equal(Digest, image.digest);

  await panel.getByText("The image is there: a build would run nothing.").waitFor();
  await panel.getByRole("button", { name: "Build", exact: true }).click();
  await panel.getByText("Reused: the image was there").waitFor(LONG);
});

test("a dropped folder goes up, and a step sees what was not ignored", async (t) => {
  const dir = folder("project");
  mkdirSync(join(dir, "src"));
  writeFileSync(join(dir, "src/seen.txt"), `seen ${process.pid}\n`);
  writeFileSync(join(dir, "src/left.log"), "left\n");
  writeFileSync(join(dir, "src/.gitignore"), "*.log\n");
  const page = await connect(t);
  await drop(page, dir);
  await files(page).getByText(/: 3 files/).waitFor();
  await page.write("image.toml", `[image]\ndebian_slim = "3.12"\n\n[[step]]\nadd_local_dir = { src = "src", dest = "/srv", strategy = "copy" }\n\n[[step]]\nrun_commands = ["ls -A /srv; cat /srv/*"]\n`);
  const panel = builds(page);
  await panel.getByText(/2 to run\. .* to upload\./).waitFor();
  await panel.getByRole("button", { name: "Build", exact: true }).click();
  await panel.getByText(/^Built in /).waitFor(LONG);
  assert.equal((await panel.getByRole("log").innerText()).trim(), `#2 .gitignore\n#2 seen.txt\n#2 seen ${process.pid}`);
});

test("a step that fails, and one that is cancelled while its log streams", async (t) => {
  const page = await connect(t);
  const panel = builds(page);
  const declare = (command) => page.write("image.toml", `[image]\ndebian_slim = "3.12"\n[[step]]\nrun_commands = ["${command}"]\n`);
  const build = async () => {
    await panel.getByText("1 to run.").waitFor();
    await panel.getByRole("button", { name: "Build", exact: true }).click();
  };
  await declare(`echo before ${process.pid}; exit 7`);
  await build();
  await panel.getByText("Ended: failed").waitFor(LONG);
  const log = panel.getByRole("log");
  assert.match(await log.innerText(), new RegExp(`^#1 before ${process.pid}$[^]*exit code 7`, "m"));
  await declare(`echo begun ${process.pid}; sleep 600`);
  await build();
  await log.getByText(`#1 begun ${process.pid}`).waitFor(LONG);
  await panel.getByRole("button", { name: "Cancel build" }).click();
  await panel.getByText("Ended: cancelled").waitFor(LONG);
});

test("a secret reaches its step, and neither log nor address", async (t) => {
  const page = await connect(t);
  const panel = builds(page);
  await page.write("image.toml", `[image]\ndebian_slim = "3.12"\n[[step]]\nrun_commands = ["wc -c < /run/secrets/TOKEN; echo ${process.pid}"]\nsecrets = ["TOKEN"]\n`);
  await panel.getByLabel("Secret TOKEN").fill("s3cr3t-value");
  await panel.getByText("1 to run.").waitFor();
  await panel.getByRole("button", { name: "Build", exact: true }).click();
  await panel.getByText(/^Built in /).waitFor(LONG);
  const log = await panel.getByRole("log").innerText();
  assert.match(log, /^#1 12$/m);
  assert.doesNotMatch(log + page.page.url(), /s3cr3t/);
});
