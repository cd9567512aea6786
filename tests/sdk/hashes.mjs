// The hashes of the declarations of `core/examples/declared_hashes.rs`, by the npm package.
//
// `node hashes.mjs PACKAGE REFERENCE@DIGEST`

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, reference] = process.argv.slice(2);
const { exports } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
const { Image } = await import(pathToFileURL(join(folder, exports["."].node.import.default)));

const base = Image.base(reference);
const app = { text: "print('app')\n" };
const project = new URL("../../examples/uv-project/", import.meta.url);
const declared = {
  page: base
    .pipInstall(["requests", "pandas>=2.0"])
    .runCommands("apt-get update && apt-get install -y git curl")
    .workdir("/app")
    .env({ PROJECT_ROOT: "/app" }),
  file: base
    .addLocalFile(app, "/app/app.py", { strategy: "copy" })
    .addLocalFile(app, "/app/run", { strategy: "copy", mode: 0o755 }),
  instructions: base
    .dockerfileCommands(["EXPOSE 8080", "RUN useradd -m worker", "USER worker"])
    .entrypoint("/bin/echo")
    .cmd("hello"),
  project: base.uvPipInstall("idna==3.7").uvSync(project, { extras: ["shell"], workdir: "/srv" }),
};
const hashes = {};
for (const [name, image] of Object.entries(declared)) hashes[name] = await image.hash();
console.log(JSON.stringify(hashes));
