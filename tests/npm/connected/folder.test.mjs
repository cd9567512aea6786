// Folders of the disk, dropped on the page: their hashes are those of the command.

import assert from "node:assert/strict";
import { chmodSync, mkdirSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";

import { hashes } from "../chalk.mjs";
import { folder } from "../cleanup.mjs";
import { drop, files, open, service } from "./open.mjs";

const COPY = `[image]
debian_slim = "3.12"

[[step]]
add_local_dir = { src = ".", dest = "/app", strategy = "copy", exclude = ["*.tmp"] }

[[step]]
pip_install_from_requirements = "requirements.txt"
`;

/** Makes a project; a path that ends with `/` is an empty folder. */
function project(contents) {
  const dir = folder("project");
  for (const [path, text] of Object.entries(contents)) {
    const at = join(dir, path);
    mkdirSync(path.endsWith("/") ? at : dirname(at), { recursive: true });
    if (!path.endsWith("/")) writeFileSync(at, text);
  }
  return dir;
}

const PROJECT = {
  "image.toml": COPY,
  "app.py": "print('hi')\n",
  "requirements.txt": "requests\n-r more/dev.txt\n",
  "more/dev.txt": "pytest>=8\n",
  ".gitignore": "*.log\n/build/\n__pycache__\n!kept.log\nfoo[0-9].txt\n",
  "noise.log": "ignored\n",
  "kept.log": "kept\n",
  "deep/er/noise.log": "ignored\n",
  "build/out.bin": "ignored\n",
  "deep/build/in.bin": "kept\n",
  "src/.gitignore": "*.gen.py\n!/keep.gen.py\n",
  "src/a.gen.py": "ignored\n",
  "src/keep.gen.py": "kept\n",
  "src/.chalkignore": "secret.txt\n!a.gen.py\n",
  "src/secret.txt": "ignored\n",
  "src/__pycache__/x.pyc": "ignored\n",
  "scratch.tmp": "excluded\n",
  "foo1.txt": "ignored\n",
  "foox.txt": "kept\n",
  "grüße 😀.txt": "names beyond ASCII\n",
  "e\u0301.txt": "NFD\n",
  "é.txt": "NFC\n",
  "empty/": "",
  ".git/HEAD": "ref: refs/heads/main\n",
  "sub/.git/config": "",
};

test("a dropped folder with ignore files has the hash of the command", async (t) => {
  const dir = project(PROJECT);
  const page = await open(t);
  await drop(page, dir);
  const count = Object.keys(PROJECT).filter((path) => !path.endsWith("/")).length;
  await files(page).getByText(`: ${count} files`).waitFor();
  await page.write("image.toml", COPY);
  const printed = () => hashes(service.state, join(dir, "image.toml"), "--offline");
  const before = await printed();
  await page.hash("Recipe hash", before.recipe_hash);
  // What a browser cannot tell is said by hand.
  chmodSync(join(dir, "app.py"), 0o755);
  const executable = await printed();
  assert.notEqual(executable.recipe_hash, before.recipe_hash);
  await page.role("searchbox").fill("app.py");
  await page.role("checkbox", { name: "app.py is executable" }).check();
  await page.hash("Recipe hash", executable.recipe_hash);
  // What is ignored does not count, what is not does.
  chmodSync(join(dir, "app.py"), 0o644);
  writeFileSync(join(dir, "noise.log"), "other\n");
  assert.equal((await printed()).recipe_hash, before.recipe_hash);
  await page.role("button", { name: "Read folder again" }).click();
  await page.hash("Recipe hash", before.recipe_hash);
  writeFileSync(join(dir, "kept.log"), "other\n");
  const changed = await printed();
  assert.notEqual(changed.recipe_hash, before.recipe_hash);
  await page.role("button", { name: "Read folder again" }).click();
  await page.hash("Recipe hash", changed.recipe_hash);
});

test("a dropped build context has the hash of the command", async (t) => {
  const dockerfile = "FROM python:3.12-slim-bookworm AS build\nCOPY --chmod=755 src/ /src/\nCOPY app.py more /app/\nFROM scratch\nCOPY --from=build /src /s\nADD [\"grüße 😀.txt\", \"/g\"]\n";
  const dir = project({ ...PROJECT, Dockerfile: dockerfile, ".dockerignore": "src/*.gen.py\n!src/keep.gen.py\n**/*.log\n" });
  const page = await open(t);
  await drop(page, dir);
  await files(page).getByText(/files, /).waitFor();
  await page.write("Dockerfile", dockerfile);
  const { recipe_hash } = await hashes(service.state, join(dir, "Dockerfile"), "--offline");
  await page.hash("Recipe hash", recipe_hash);
});

test("a file that vanishes before it is read is named, and the rest can be read again", async (t) => {
  const dir = project({ "image.toml": COPY, "requirements.txt": "requests\n", "a.txt": "a\n", "b.txt": "b\n" });
  const page = await open(t);
  await drop(page, dir);
  await files(page).getByText(/: 4 files/).waitFor();
  rmSync(join(dir, "a.txt"));
  await page.write("image.toml", COPY);
  await page.problem("a.txt").waitFor();
  await page.card.getByText("No hash").waitFor();
  await page.role("button", { name: "Read folder again" }).click();
  const { recipe_hash } = await hashes(service.state, join(dir, "image.toml"), "--offline");
  await page.hash("Recipe hash", recipe_hash);
});

test("a file that is cut short while it is read is named", async (t) => {
  const dir = project({ "big.bin": "" });
  // Holes take no space on the disk.
  truncateSync(join(dir, "big.bin"), 2_000_000_000);
  const page = await open(t);
  await drop(page, dir);
  await files(page).getByText(/: 1 file/).waitFor();
  await page.write("image.toml", '[image]\nbase = "scratch"\n[[step]]\nadd_local_file = { src = "big.bin", dest = "/b", strategy = "copy" }\n');
  await files(page).getByText(/reading, [1-9]/).waitFor();
  truncateSync(join(dir, "big.bin"), 1_000);
  await page.problem("big.bin").waitFor();
  await page.card.getByText("No hash").waitFor();
});
