// The project folder: dropped, chosen, hashed as in Node, cancelled.
import assert from "node:assert/strict";
import { chmod, mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { Image } from "chalkcompute";
import { withBrowser } from "./browser.mjs";

const browser = withBrowser();
const COPY_ALL = '[image]\nbase = "alpine:3.20"\n\n[[step]]\nadd_local_dir = { src = ".", dest = "/app", strategy = "copy" }\n';

async function folder(t, files) {
  const dir = await mkdtemp(join(tmpdir(), "chalk-page-"));
  t.after(() => rm(dir, { recursive: true }));
  for (const [path, text] of Object.entries(files)) {
    await mkdir(join(dir, path, ".."), { recursive: true });
    await writeFile(join(dir, path), text);
  }
  return dir;
}

const PROJECT = {
  "app.py": "print('hi')\n",
  "requirements.txt": "requests\n-r more/dev.txt\n",
  "more/dev.txt": "pytest>=8\n",
  ".gitignore": "*.log\n/build/\n",
  "noise.log": "ignored\n",
  "build/out.bin": "ignored\n",
  "src/.chalkignore": "secret.txt\n",
  "src/secret.txt": "ignored\n",
  "src/main.py": "import app\n",
  ".git/HEAD": "ref: refs/heads/main\n",
  Dockerfile: "FROM alpine:3.20\nCOPY app.py /app/\n",
  ".dockerignore": "*\n!app.py\n",
};

/** Chooses a folder through the file input, as the button does where there is no picker. */
const choose = (page, dir) => page.page.locator("#pick-folder").setInputFiles(dir);

test("a folder with ignore files hashes as it does in Node", async (t) => {
  const dir = await folder(t, PROJECT);
  const page = await browser.open(t);
  await choose(page, dir);
  await page.role("region", { name: "Project files" }).getByText(/12 files/).waitFor();
  await page.write("image.toml", COPY_ALL);
  await page.hash("Recipe hash", await Image.base("alpine:3.20").addLocalDir(dir, "/app", { strategy: "copy" }).hash());
  await page.write(
    "JavaScript",
    `import { Image } from "chalkcompute";\nexport default Image.debianSlim()\n  .pipInstallFromRequirements("requirements.txt")\n  .addLocalFile("./app.py", "/srv/", { strategy: "copy" })\n  .addLocalDir("src", "/src", { strategy: "copy" });\n`,
  );
  await page.hash(
    "Recipe hash",
    await Image.debianSlim()
      .pipInstallFromRequirements(join(dir, "requirements.txt"))
      .addLocalFile(join(dir, "app.py"), "/srv/", { strategy: "copy" })
      .addLocalDir(join(dir, "src"), "/src", { strategy: "copy" })
      .hash(),
  );
  const toml = await (await page.output("image.toml")).locator("pre").innerText();
  assert.match(toml, /"\.\/app\.py"|"app\.py"/);
  await page.role("button", { name: "Open Dockerfile in the editor" }).click();
  await page.hash("Recipe hash", await Image.fromDockerfile(join(dir, "Dockerfile")).hash());
});

test("a dropped folder hashes the same, empty directories and executable files included", async (t) => {
  const page = await browser.open(t);
  await page.write("image.toml", COPY_ALL);
  await page.problem("no project folder was dropped").waitFor();
  // Scripts cannot make a drop with directories, so the entries of one are put in its place.
  await page.page.evaluate((files) => {
    const file = (name, text) => ({ isFile: true, isDirectory: false, name, file: (ok) => ok(new File([text], name)) });
    const dir = (name, children) => ({
      isFile: false,
      isDirectory: true,
      name,
      createReader: () => ({ readEntries: (ok) => ok(children.splice(0, 2)) }),
    });
    const tree = dir("project", [
      ...Object.entries(files).map(([name, text]) => file(name, text)),
      dir("empty", []),
      dir("lib", [file("a.py", "a\n"), file("b.py", "b\n"), file("c.py", "c\n")]),
    ]);
    const event = new Event("drop", { bubbles: true, cancelable: true });
    event.dataTransfer = { types: ["Files"], items: [{ kind: "file", webkitGetAsEntry: () => tree }], files: [] };
    document.body.dispatchEvent(event);
  }, { "run.sh": "#!/bin/sh\n", "b.txt": "b" });
  await page.role("region", { name: "Project files" }).getByText(/project: 5 files/).waitFor();
  const before = await page.shownHash();
  await page.role("checkbox", { name: "run.sh is executable" }).check();
  const dir = await folder(t, { "run.sh": "#!/bin/sh\n", "b.txt": "b", "lib/a.py": "a\n", "lib/b.py": "b\n", "lib/c.py": "c\n" });
  await mkdir(join(dir, "empty"));
  const image = Image.base("alpine:3.20").addLocalDir(dir, "/app", { strategy: "copy" });
  assert.equal(before, await image.hash());
  await chmod(join(dir, "run.sh"), 0o755);
  await page.hash("Recipe hash", await image.hash());
});

test("loose files show size and digest, and can be removed", async (t) => {
  const page = await browser.open(t);
  await page.page.locator("#pick-files").setInputFiles([
    { name: "hello.txt", mimeType: "text/plain", buffer: Buffer.from("hello\n") },
    { name: "empty", mimeType: "", buffer: Buffer.alloc(0) },
  ]);
  const region = page.role("region", { name: "Project files" });
  const row = region.getByRole("listitem").filter({ hasText: "hello.txt" });
  assert.match(await row.innerText(), /6 B/);
  await row.getByTitle("sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03").waitFor();
  await region.getByTitle("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855").waitFor();
  await region.getByRole("button", { name: "Remove hello.txt" }).click();
  await row.waitFor({ state: "detached" });
  await page.write("image.toml", '[image]\nbase = "scratch"\n[[step]]\nadd_local_file = { src = "hello.txt", dest = "/h", strategy = "copy" }\n');
  await page.problem("hello.txt").waitFor();
});

test("a file that vanishes while the page is open is told, and is read again when it is back", async (t) => {
  const dir = await folder(t, { "a.txt": "a\n", "requirements.txt": "flask\n" });
  const page = await browser.open(t, { quiet: false });
  await choose(page, dir);
  await page.role("region", { name: "Project files" }).getByText(/2 files/).waitFor();
  await rm(join(dir, "a.txt"));
  await rm(join(dir, "requirements.txt"));
  await page.write("image.toml", '[image]\nbase = "scratch"\n[[step]]\nadd_local_file = { src = "a.txt", dest = "/a", strategy = "copy" }\n');
  await page.problem("cannot be read any more").waitFor();
  await page.write("image.toml", '[image]\nbase = "scratch"\n[[step]]\npip_install_from_requirements = "requirements.txt"\n');
  await page.problem("cannot be read any more").waitFor();
  await page.role("button", { name: "Read stopped files" }).waitFor();
});

test("10,000 files work", async (t) => {
  const files = {};
  for (let i = 0; i < 10_000; i += 1) files[`d${i % 100}/f${i}.txt`] = `file ${i}\n`;
  const dir = await folder(t, files);
  const page = await browser.open(t);
  await choose(page, dir);
  const region = page.role("region", { name: "Project files" });
  await region.getByText(/10,000 files/).waitFor({ timeout: 20_000 });
  const began = performance.now();
  await page.write("image.toml", COPY_ALL);
  await page.card.getByText(/Reading files: [\d,]+ of 10,000/).waitFor();
  await page.hash("Recipe hash", await Image.base("alpine:3.20").addLocalDir(dir, "/app", { strategy: "copy" }).hash());
  t.diagnostic(`hashed in ${((performance.now() - began) / 1000).toFixed(1)} s`);
  assert.ok((await region.getByRole("listitem").count()) < 60, "only visible rows are in the document");
  await region.getByRole("searchbox").fill("f9999.txt");
  await region.getByRole("listitem").filter({ hasText: "d99/f9999.txt" }).waitFor();
  const again = performance.now();
  await page.write("image.toml", COPY_ALL.replace("/app", "/other"));
  await page.hash("Recipe hash", await Image.base("alpine:3.20").addLocalDir(dir, "/other", { strategy: "copy" }).hash());
  t.diagnostic(`hashed again after an edit in ${((performance.now() - again) / 1000).toFixed(1)} s`);
});

test("a file of 1 GB shows progress and can be cancelled", async (t) => {
  const page = await browser.open(t);
  // A Blob of parts takes no memory for what they repeat.
  await page.page.evaluate(() => {
    const part = new Blob([new Uint8Array(16 * 1024 * 1024).fill(7)]);
    const file = new File(Array(64).fill(part), "big.bin");
    const transfer = new DataTransfer();
    transfer.items.add(file);
    document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
  });
  const region = page.role("region", { name: "Project files" });
  await region.getByText(/reading, [1-9]/).waitFor({ timeout: 30_000 });
  await region.getByRole("progressbar").waitFor();
  await page.write("image.toml", '[image]\nbase = "scratch"\n');
  await page.card.getByText("no base").waitFor();
  await region.getByRole("button", { name: "Cancel reading" }).click();
  await region.getByText("cancelled").waitFor();
  await page.write("image.toml", '[image]\nbase = "scratch"\n[[step]]\nadd_local_file = { src = "big.bin", dest = "/b", strategy = "copy" }\n');
  await page.problem("cancelled").waitFor();
});
