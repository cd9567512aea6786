// The builder: every method, immutability, branches, what comes out.

import assert from "node:assert/strict";
import { test } from "node:test";

import { ChalkError, Image, ResolvedImage, diff } from "chalkcompute";

const DIGEST = `sha256:${"ab".repeat(32)}`;
const SEED = "sha256:913a151e52559d4b4ceb6d49c82bc207b3add19de3891688a60fe74d9c54deed";

const seed = () =>
  Image.debianSlim("3.12")
    .pipInstall(["requests", "pandas>=2.0"])
    .runCommands("apt-get update && apt-get install -y git curl")
    .workdir("/app")
    .env({ PROJECT_ROOT: "/app" });

test("the example of the page", async () => {
  const image = seed();
  assert.equal(await image.hash(), SEED);
  assert.equal((await image.resolve()).recipeHash, SEED);
  assert.equal((await image.resolve()).imageHash, null);
  const pinned = await image.hash({ base: DIGEST });
  assert.notEqual(pinned, SEED);
  assert.equal(pinned, await image.hash({ base: { "python:3.12-slim-bookworm": DIGEST } }));
  const base = `python:3.12-slim-bookworm@${DIGEST}`;
  const { steps, workdir, env } = image.spec;
  const same = Image.fromJSON({ schema: "chalk.image/v1", base: { ref: base }, steps, workdir, env });
  assert.equal(await same.hash(), pinned);
});

test("every method", () => {
  const check = (image, part) => {
    const { schema, platform, base, ...rest } = image.spec;
    assert.deepEqual(platform === "linux/amd64" ? rest : { platform, ...rest }, part);
  };
  const scratch = Image.scratch();
  const step = (kind, fields) => ({ steps: [{ kind, ...fields }] });
  check(scratch, {});
  check(scratch.pipInstall("b", "A"), step("pip_install", { packages: ["a", "b"] }));
  check(scratch.pipInstall("b"), step("pip_install", { packages: ["b"] }));
  check(scratch.pipInstall(["b"], {}), step("pip_install", { packages: ["b"] }));
  check(scratch.uvPipInstall(["a"]), step("uv_pip_install", { packages: ["a"] }));
  check(scratch.aptInstall("git", "curl=1"), step("apt_install", { packages: ["curl=1", "git"] }));
  check(
    scratch.pipInstall("a", "b", { env: { X: "1" }, secrets: ["t", "s"], force: true }),
    step("pip_install", { packages: ["a", "b"], env: { X: "1" }, secrets: ["s", "t"], force: true }),
  );
  const two = { steps: ["a", "b"].map((command) => ({ kind: "run", command })) };
  check(scratch.runCommands("a", "b"), two);
  check(scratch.runCommands(["a", "b"]), two);
  check(scratch.runCommands("a").runCommands(["b"], undefined), two);
  check(scratch.dockerfileCommands("expose 80"), step("dockerfile", { text: "EXPOSE 80" }));
  check(scratch.workdir("/a/").workdir("/b//c"), { workdir: "/b/c" });
  check(scratch.env({ A: "1", B: "1" }).env({ B: "2" }), { env: { A: "1", B: "2" } });
  check(scratch.runtimeEnv({ A: "" }), { runtime_env: { A: "" } });
  check(scratch.user("nobody"), { user: "nobody" });
  check(scratch.label("a.b", "c"), { labels: { "a.b": "c" } });
  check(scratch.entrypoint(["/bin/sh", "-c"]), { entrypoint: ["/bin/sh", "-c"] });
  check(scratch.entrypoint("/bin/sh"), { entrypoint: ["/bin/sh"] });
  check(scratch.cmd("a", "b c"), { cmd: ["a", "b c"] });
  check(scratch.platform("linux/aarch64"), { platform: "linux/arm64" });
  check(scratch.name("me/app:1"), { name: "me/app:1" });
  assert.equal(scratch.spec.base, "scratch");
  assert.deepEqual(Image.debianSlim().spec, Image.debianSlim("3.12").spec);
  assert.deepEqual(Image.base("scratch").spec, scratch.spec);
  assert.deepEqual(Image.base(`alpine:3@${DIGEST}`).spec.base, {
    ref: "docker.io/library/alpine:3",
    digest: DIGEST,
  });
});

test("mounts are read by nobody and count in no hash", async () => {
  const image = Image.scratch()
    .runCommands("a")
    .addLocalFile("nowhere/x", "/x")
    .addLocalDir("nowhere", "/d", { strategy: "volume", exclude: ["*.log"] });
  assert.deepEqual(image.mounts, [
    { src: "nowhere/x", dest: "/x", after: 1 },
    { src: "nowhere", dest: "/d", dir: true, exclude: ["*.log"], after: 1 },
  ]);
  assert.equal(await image.hash(), await Image.scratch().runCommands("a").hash());
  const { warnings } = await image.runCommands("cat /d/x").resolve();
  assert.match(warnings[0].message, /\/d/);
  assert.match(warnings[0].path, /steps\[1\]/);
});

test("a call leaves its receiver as it was", async () => {
  const base = Image.scratch().runCommands("a");
  const before = await base.hash();
  const left = base.runCommands("left");
  const right = base.env({ A: "1" }).runCommands("right");
  assert.throws(() => base.workdir("relative"));
  assert.equal(await base.hash(), before);
  assert.equal(base.steps.length, 1);
  assert.deepEqual(left.steps.map((step) => step.command), ["a", "left"]);
  assert.deepEqual(right.steps.map((step) => step.command), ["a", "right"]);
  assert.equal(left.spec.env, undefined);
  // What was passed in, and what was handed out, can be changed without harm.
  const packages = ["a"];
  const env = { A: "1" };
  const image = Image.scratch().pipInstall(packages, { env });
  packages.push("b");
  env.A = "2";
  assert.deepEqual(image.steps, [{ kind: "pip_install", packages: ["a"], env: { A: "1" } }]);
  assert.throws(() => image.steps.push({}), TypeError);
  assert.throws(() => (image.spec.steps[0].packages[0] = "x"), TypeError);
});

test("a chain of thousands of calls", async () => {
  let image = Image.scratch();
  for (let i = 0; i < 5000; i += 1) image = image.runCommands(`echo ${i}`);
  assert.equal(image.steps.length, 5000);
  assert.equal((await image.stepKeys()).length, 5000);
});

test("step keys, plan, Dockerfile", async () => {
  const image = seed();
  const keys = await image.stepKeys();
  assert.equal(keys.length, 2);
  assert.notDeepEqual(await image.stepKeys({ base: DIGEST }), keys);
  const plan = await image.plan();
  assert.equal(plan.recipe_hash, SEED);
  assert.equal(plan.image_hash, null);
  assert.deepEqual(plan.base, { ref: "docker.io/library/python:3.12-slim-bookworm", digest: null });
  assert.deepEqual(plan.steps.map(({ kind, key }) => [kind, key]), [
    ["pip_install", keys[0]],
    ["run", keys[1]],
  ]);
  assert.equal(plan.upload_bytes, 0);
  assert.equal((await image.plan({ base: DIGEST })).image_hash, await image.hash({ base: DIGEST }));
  const dockerfile = await image.toDockerfile();
  assert.match(dockerfile, /^FROM .*python:3\.12-slim-bookworm/m);
  assert.match(dockerfile, /apt-get install -y git curl/);
});

test("pinning", async () => {
  const resolved = await Image.fromDockerfile({ text: "FROM a AS one\nFROM b\nCOPY --from=one /x /x\n" }).resolve();
  const check = (base, code, message) =>
    assert.throws(() => resolved.pin(base), (error) => {
      assert.ok(error instanceof ChalkError);
      assert.equal(error.code, code, error.message);
      assert.match(error.message, message);
      return true;
    });
  check("latest", "digest", /sha256:/);
  check({ c: DIGEST }, "reference", /does not use .*c/);
  check(3, "wrong-type", /pin: expected a text, found the number 3/);
  assert.equal(resolved.pin(DIGEST).imageHash, null);
  const both = resolved.pin({ a: DIGEST, b: DIGEST });
  assert.match(both.imageHash, /^sha256:/);
  assert.equal(resolved.imageHash, null);
  await assert.rejects(Image.scratch().hash({ base: DIGEST }), { code: "conflict" });
});

test("differences", async () => {
  const [a, b] = [seed(), seed().env({ PROJECT_ROOT: "/srv" })];
  const same = await diff(a, await a.resolve());
  assert.deepEqual(same, { equal: true, first_step: null, changes: [], reruns: [] });
  const { equal, changes, first_step, reruns } = await diff(a.toJSON(), b);
  assert.deepEqual([equal, first_step, reruns.length], [false, 0, 2]);
  assert.deepEqual(changes, [{ path: "env.PROJECT_ROOT", before: "/app", after: "/srv" }]);
});

test("round trips", async () => {
  const image = seed()
    .dockerfileCommands("ENV A=1")
    .aptInstall("git", { secrets: ["token"] })
    .runtimeEnv({ B: "2" })
    .entrypoint("/bin/sh", "-c")
    .cmd("true")
    .label("a", "b")
    .user("app")
    .platform("linux/arm64")
    .name("app:1")
    .addLocalFile("x", "/x");
  assert.deepEqual(Image.fromTOML(image.toTOML()).spec, image.spec);
  assert.deepEqual(Image.fromJSON(image.toJSON()).spec, image.spec);
  assert.deepEqual(Image.fromJSON(JSON.stringify(image)).spec, image.spec);
  const resolved = await image.resolve();
  assert.deepEqual(JSON.parse(JSON.stringify(resolved)), resolved.spec);
  const again = Image.fromDeclaration("Dockerfile", await seed().toDockerfile());
  assert.match(await again.hash(), /^sha256:/);
  // What was read from a file goes on as any other image.
  const longer = Image.fromJSON(seed().toJSON()).runCommands("true");
  assert.equal(await longer.hash(), await seed().runCommands("true").hash());
  assert.equal(await Image.fromTOML(seed().toTOML()).runCommands("true").hash(), await longer.hash());
});

test("nothing is made by new", async () => {
  for (const make of [() => new Image(), () => new ResolvedImage({}, {})]) {
    assert.throws(make, { name: "ChalkError", code: "wrong-type" });
  }
  assert.ok((await Image.scratch().resolve()) instanceof ResolvedImage);
});
