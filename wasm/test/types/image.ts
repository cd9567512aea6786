// Types of images, as a program in Node sees them. Compiled, never run.

import {
  ChalkError,
  type Diff,
  type FileTree,
  Image,
  type Mount,
  type Plan,
  type Progress,
  ResolvedImage,
  type Spec,
  type Step,
  type Upload,
  type Warning,
  diff,
} from "chalkcompute";

const image: Image = Image.debianSlim("3.12")
  .pipInstall(["requests", "pandas>=2.0"])
  .pipInstall("a", "b", { env: { A: "1" }, secrets: ["token"], force: true })
  .pipInstallFromRequirements("requirements.txt", { force: true })
  .uvPipInstall("c")
  .uvPipInstallFromRequirements(new URL("file:///requirements.txt"))
  .uvSync(".")
  .uvSync({ "pyproject.toml": "", "uv.lock": "" }, { extras: ["a"], workdir: "/p", force: true })
  .aptInstall("git")
  .runCommands("one", "two")
  .runCommands(["one"] as const, {})
  .dockerfileCommands(["COPY a /"], { context: ".", env: {} })
  .addLocalFile("app.py", "/app/", { strategy: "copy", mode: 0o755 })
  .addLocalFile({ text: "x" }, "/x", { strategy: "volume", mode: "755" })
  .addLocalFile(new Blob([]), "/y")
  .addLocalFile(new Uint8Array(), "/z")
  .addLocalFile({ body: new Uint8Array(), executable: true }, "/run")
  .addLocalDir("src", "/src", { strategy: "mount", exclude: ["*.log"] })
  .addLocalDir({ a: "text", b: new Blob([]), c: { body: new Uint8Array() } }, "/src")
  .addLocalDir(new Map([["a", "text"]]), "/src")
  .workdir("/app")
  .env({ A: "1" })
  .runtimeEnv({ B: "2" })
  .user("app")
  .label("a", "b")
  .entrypoint(["/bin/sh"])
  .cmd("-c", "true")
  .platform("linux/arm64")
  .name("app:1");

Image.debianSlim();
Image.base("node:22");
Image.scratch();
Image.fromFile("image.toml");
Image.fromDeclaration("Dockerfile", "FROM scratch", { files: { a: "b" } });
Image.fromTOML("", { file: "image.toml", files: "." });
Image.fromDockerfile("Dockerfile", { context: ".", args: { V: "1" }, target: "x" });
Image.fromDockerfile({ text: "FROM scratch" });
Image.fromJSON(image.toJSON());
Image.fromJSON("{}");

const tree: FileTree = {
  list: async () => [{ name: "a", kind: "file" }],
  file: async () => undefined,
};
image.addLocalDir(tree, "/x");

const resolved: ResolvedImage = await image.resolve({
  signal: AbortSignal.timeout(1000),
  onProgress: ({ phase, files, filesTotal, bytes, bytesTotal, path }: Progress) => {
    phase satisfies "list" | "hash" | "upload";
    (files + filesTotal + bytes + bytesTotal) satisfies number;
    path satisfies string | undefined;
  },
});
resolved.recipeHash satisfies string;
resolved.imageHash satisfies string | null;
resolved.pin("sha256:…").hash({ base: { alpine: "sha256:…" } }) satisfies string;
resolved.warnings satisfies Warning[];
resolved.uploads satisfies readonly Upload[];
const spec: Spec = resolved.spec;
spec.schema satisfies "chalk.image/v1";
(await image.hash({ base: "sha256:…" })) satisfies string;
(await image.plan()) satisfies Plan;
(await image.stepKeys()) satisfies string[];
(await diff(image, spec)) satisfies Diff;
image.mounts satisfies Mount[];
for (const step of image.steps satisfies Step[]) {
  if (step.kind === "run") step.command satisfies string;
  if (step.kind === "add_file") step.digest satisfies string;
  // @ts-expect-error only some kinds have packages
  step.packages;
}

try {
  image.workdir("x");
} catch (error) {
  if (error instanceof ChalkError) {
    error.code satisfies string;
    error.line satisfies number | undefined;
    error.errors satisfies ChalkError[];
  }
}

// @ts-expect-error a number is no package
image.pipInstall(3);
// @ts-expect-error nor is a list of numbers
image.pipInstall([3]);
// @ts-expect-error there is no such option
image.runCommands("a", { forse: true });
// @ts-expect-error values are texts
image.env({ PORT: 8080 });
// @ts-expect-error there is no such strategy
image.addLocalFile("a", "/a", { strategy: "link" });
// @ts-expect-error a destination is needed
image.addLocalFile("a");
// @ts-expect-error one file has nothing to exclude
image.addLocalFile("a", "/a", { exclude: ["b"] });
// @ts-expect-error a directory has no mode
image.addLocalDir("a", "/a", { mode: 0o755 });
// @ts-expect-error an image is not made by new
new Image();
// @ts-expect-error nor is what comes of it
new ResolvedImage();
// @ts-expect-error hashes are promised
image.hash().startsWith("sha256:");
// @ts-expect-error fields cannot be set
resolved.recipeHash = "";
// @ts-expect-error no such method
image.pip_install("a");
// @ts-expect-error a version is a text
Image.debianSlim(3.12);
