/**
 * Declaring an image by chained calls.
 */

import { Call, isPlainObject } from "./arguments.js";
import { type Chain, type ResolvedHandle, engine } from "./engine.js";
import { ChalkError, fromEngine } from "./error.js";
import { type LocalDir, type LocalFile, givenDir, givenFile } from "./files/given.js";
import { homeSources, place, readDeclaration, rootedIn } from "./files/place.js";
import { Sources } from "./files/sources.js";
import { resolveNow, resolveWith } from "./files/supply.js";
import type { ReadOptions } from "./files/tree.js";
import type { Diff, Mount, Plan, Spec, Step } from "./generated/wire.js";
import {
  type AddDirOptions,
  type AddFileOptions,
  type DeclarationOptions,
  type DockerfileOptions,
  type HashOptions,
  type InstructionOptions,
  STEP_OPTIONS,
  type StepOptions,
  type UvSyncOptions,
  modeDigits,
  onlyTexts,
  stepOptions,
  strategy,
} from "./options.js";
import { platform } from "./platform.js";
import { ResolvedImage, handleOf, madeFrom, pinnedHandle } from "./resolved.js";

/** The constructor, which callers do not see. */
let made: (chain: Chain, sources: Sources) => Image;

/**
 * A declared container image. It never changes: every method gives a new image, and images that come
 * from one another share what they have in common, so a call costs the same however long the chain is.
 *
 * A wrong argument is told at the call, by a {@link ChalkError}. What local files hold is read by the
 * methods that give a promise.
 *
 * @example
 * ```ts
 * import { Image } from "chalkcompute";
 *
 * const image = Image.debianSlim("3.12")
 *   .pipInstall(["requests", "pandas>=2.0"])
 *   .runCommands("apt-get update && apt-get install -y git curl")
 *   .workdir("/app")
 *   .env({ PROJECT_ROOT: "/app" });
 *
 * console.log(await image.hash());
 * // sha256:913a151e52559d4b4ceb6d49c82bc207b3add19de3891688a60fe74d9c54deed
 * ```
 */
export class Image {
  readonly #chain: Chain;
  readonly #sources: Sources;
  #resolved: ResolvedImage | undefined;
  /** No file has to be read, so that what was resolved once holds for good. */
  #needsNoFiles = false;
  /** The hash of an image without files, once it is known. */
  #hash: string | undefined;

  private constructor(chain: Chain, sources: Sources) {
    if (!(chain instanceof engine().Chain)) {
      throw new ChalkError({
        code: "wrong-type",
        reason: "an Image is not made by `new`",
        hint: "begin with Image.debianSlim(), Image.base(…) or Image.fromDockerfile(…)",
      });
    }
    this.#chain = chain;
    this.#sources = sources;
  }

  // Where an image starts.

  /**
   * `python:<version>-slim-bookworm`.
   *
   * @param version - Version of Python, such as `3.12`, which it is unless set
   */
  static debianSlim(version?: string): Image {
    return begin("debianSlim", (call) =>
      started({ debian_slim: version === undefined ? true : call.text(version) }),
    );
  }

  /**
   * Any image of an OCI registry, by tag or digest: `node:22-slim`, `ghcr.io/org/image:tag`,
   * `alpine@sha256:…`. `scratch` is the empty base.
   */
  static base(reference: string): Image {
    return begin("base", (call) => started({ base: call.text(reference) }));
  }

  /** The empty base. */
  static scratch(): Image {
    return begin("scratch", () => started({ base: "scratch" }));
  }

  /**
   * A whole Dockerfile, multi-stage included. It counts by what it means, together with the files that
   * its `COPY` and `ADD` select after `.dockerignore`.
   *
   * @example
   * ```ts
   * Image.fromDockerfile("docker/Dockerfile", { context: ".", target: "final" });
   * Image.fromDockerfile({ text: "FROM alpine\nRUN apk add git\n" });
   * ```
   */
  static fromDockerfile(file: LocalFile, options?: DockerfileOptions): Image {
    return beginIn("fromDockerfile", homeSources(), (call, home) => {
      const given = call.options(options, ["context", "args", "target"]);
      const checked: Record<string, unknown> = {};
      if (given.args !== undefined) checked["args"] = call.textMap(given.args, ".args");
      if (given.target !== undefined) checked["target"] = call.text(given.target, ".target");
      let sources = home;
      if (given.context !== undefined) {
        const context = place(givenDir(given.context, call, ".context"), sources, "context");
        [sources, checked["context"]] = context;
      }
      let path: string;
      [sources, path] = place(givenFile(file, call, ""), sources, "Dockerfile");
      return [started({ dockerfile: { ...checked, path } }), sources];
    });
  }

  /** Reads an `image.toml`. */
  static fromTOML(text: string, options?: DeclarationOptions): Image {
    return declaration("fromTOML", "image.toml", text, options);
  }

  /** Reads a spec, as {@link Image.toJSON} or any other SDK prints it. */
  static fromJSON(spec: Spec | string): Image {
    return begin("fromJSON", (call) => {
      if (typeof spec !== "string" && !isPlainObject(spec)) {
        throw call.wrongType("", "a spec or its JSON", spec);
      }
      // Half surrogates are written as escapes, which the engine refuses.
      const text = typeof spec === "string" ? call.text(spec) : JSON.stringify(spec);
      return engine().Chain.read("spec.json", new TextEncoder().encode(text));
    });
  }

  /**
   * Reads a declaration from the disk: `image.toml`, a Dockerfile or spec JSON, told by the name as
   * the `chalk` command does. Paths in it are relative to it. Only in Node.
   */
  static fromFile(path: string | URL): Image {
    const call = new Call(1, "fromFile");
    return guarded(Image.fromFile, () => {
      const { disk } = platform();
      if (!disk) {
        throw call.error("file", "", "a browser has no disk", "read the file and use fromDeclaration");
      }
      const written = path instanceof URL ? disk.absolute(path) : call.text(path);
      const { dir, name, bytes } = readDeclaration(disk, written, call);
      const shown = path instanceof URL ? name : written;
      return made(engine().Chain.read(shown, bytes), Sources.at(disk.tree(dir)));
    });
  }

  /**
   * Reads a declaration, its kind being told by the name of the file, or else by how it begins.
   *
   * @param file - Name such as `image.toml`, `Dockerfile` or `spec.json`
   */
  static fromDeclaration(
    file: string,
    text: string,
    options?: Omit<DeclarationOptions, "file">,
  ): Image {
    return declaration("fromDeclaration", file, text, options);
  }

  // Build steps.

  /**
   * Installs Python packages, given as requirement specifiers or pip options.
   *
   * @example
   * ```ts
   * image.pipInstall(["requests", "pandas>=2.0"]);
   * image.pipInstall("numpy", "torch", { env: { PIP_INDEX_URL: "https://pypi.example/simple" } });
   * ```
   */
  pipInstall(packages: string | readonly string[], options?: StepOptions): Image;
  pipInstall(...packagesAndOptions: (string | StepOptions)[]): Image;
  pipInstall(...given: unknown[]): Image {
    return this.#install("pipInstall", "pip_install", given);
  }

  /** Installs what a requirements file lists, with the files that it names by `-r`. Its lines count, not its path. */
  pipInstallFromRequirements(file: LocalFile, options?: StepOptions): Image {
    return this.#requirements("pipInstallFromRequirements", "pip_install_from_requirements", file, options);
  }

  /** Installs Python packages by uv, whatever the service would choose. */
  uvPipInstall(packages: string | readonly string[], options?: StepOptions): Image;
  uvPipInstall(...packagesAndOptions: (string | StepOptions)[]): Image;
  uvPipInstall(...given: unknown[]): Image {
    return this.#install("uvPipInstall", "uv_pip_install", given);
  }

  /** Installs what a requirements file lists, by uv. */
  uvPipInstallFromRequirements(file: LocalFile, options?: StepOptions): Image {
    return this.#requirements("uvPipInstallFromRequirements", "uv_pip_install_from_requirements", file, options);
  }

  /**
   * Installs what the lockfile of a project lists, by uv (`uv sync --frozen`), into an environment that
   * all that follows runs in. The project itself is not installed: add its sources by
   * {@link Image.addLocalDir}.
   *
   * @param project - Directory with `pyproject.toml` and `uv.lock`
   *
   * @example
   * ```ts
   * image.uvSync(".", { extras: ["cli"] }).addLocalDir("src", "/app/src");
   * ```
   */
  uvSync(project: LocalDir, options?: UvSyncOptions): Image {
    return this.#pushIn("uvSync", (call, chain, sources) => {
      const given = givenDir(project, call, "");
      const { extras, workdir, ...rest } = call.options(options, [...STEP_OPTIONS, "extras", "workdir"]);
      const checked: Record<string, unknown> = {};
      if (extras !== undefined) checked["extras"] = call.texts(extras, ".extras");
      if (workdir !== undefined) checked["workdir"] = call.text(workdir, ".workdir");
      const step = stepOptions(call, rest);
      const [found, path] = place(given, sources, "project");
      return [called(chain, { uv_sync: { project: path, ...checked }, ...step }), found];
    });
  }

  /** Installs Debian packages, `name` or `name=version` each. */
  aptInstall(packages: string | readonly string[], options?: StepOptions): Image;
  aptInstall(...packagesAndOptions: (string | StepOptions)[]): Image;
  aptInstall(...given: unknown[]): Image {
    return this.#install("aptInstall", "apt_install", given);
  }

  /** Runs shell commands, each a step of its own. */
  runCommands(commands: string | readonly string[], options?: StepOptions): Image;
  runCommands(...commandsAndOptions: (string | StepOptions)[]): Image;
  runCommands(...given: unknown[]): Image {
    return this.#push("runCommands", (call, chain) => {
      const [commands, options] = call.textsAndOptions(given);
      return called(chain, { run_commands: commands, ...stepOptions(call, options) });
    });
  }

  /**
   * Carries out Dockerfile instructions, each a step of its own. `COPY` and `ADD` of local files need
   * a context.
   */
  dockerfileCommands(instructions: string | readonly string[], options?: InstructionOptions): Image;
  dockerfileCommands(...instructionsAndOptions: (string | InstructionOptions)[]): Image;
  dockerfileCommands(...given: unknown[]): Image {
    return this.#pushIn("dockerfileCommands", (call, chain, sources) => {
      const [instructions, options] = call.textsAndOptions(given);
      const { context, ...rest } = call.options(options, [...STEP_OPTIONS, "context"]);
      const checked = stepOptions(call, rest);
      if (context === undefined) {
        return [called(chain, { dockerfile_commands: instructions, ...checked }), sources];
      }
      const [found, path] = place(givenDir(context, call, ".context"), sources, "context");
      return [called(chain, { dockerfile_commands: instructions, context: path, ...checked }), found];
    });
  }

  /**
   * Puts a local file at the absolute path `dest`, or below it by its own name when `dest` ends with a
   * slash.
   *
   * @example
   * ```ts
   * image.addLocalFile("app.py", "/app/", { strategy: "copy" });
   * image.addLocalFile({ text: "debug = true\n" }, "/etc/app.toml", { strategy: "copy" });
   * ```
   */
  addLocalFile(src: LocalFile, dest: string, options?: AddFileOptions): Image {
    return this.#pushIn("addLocalFile", (call, chain, sources) => {
      const given = givenFile(src, call, ".src");
      const at = call.text(dest, ".dest");
      const { mode, ...rest } = call.options(options, ["strategy", "mode"]);
      if ("tree" in given && given.name === "" && at.endsWith("/")) {
        throw call.error(
          "path",
          ".dest",
          `the contents have no name of their own to take below \`${at}\``,
          "write the whole path of the file",
        );
      }
      const checked: Record<string, unknown> = { strategy: strategy(call, rest.strategy) };
      if (mode !== undefined) checked["mode"] = modeDigits(call, mode);
      const [found, path] = place(given, sources, "file");
      return [called(chain, { add_local_file: { src: path, dest: at, ...checked } }), found];
    });
  }

  /**
   * Puts the contents of a local directory into the directory `dest`. What `.gitignore` and
   * `.chalkignore` name at any level is left out, and `.git` always.
   */
  addLocalDir(src: LocalDir, dest: string, options?: AddDirOptions): Image {
    return this.#pushIn("addLocalDir", (call, chain, sources) => {
      const given = givenDir(src, call, ".src");
      const at = call.text(dest, ".dest");
      const { exclude, ...rest } = call.options(options, ["strategy", "exclude"]);
      const checked: Record<string, unknown> = { strategy: strategy(call, rest.strategy) };
      if (exclude !== undefined) checked["exclude"] = call.texts(exclude, ".exclude");
      const [found, path] = place(given, sources, "files");
      return [called(chain, { add_local_dir: { src: path, dest: at, ...checked } }), found];
    });
  }

  // Facts of the whole image, wherever they stand in the chain; later calls win.

  /** Working directory of every step and of the image. */
  workdir(path: string): Image {
    return this.#push("workdir", (call, chain) => called(chain, { workdir: call.text(path) }));
  }

  /** Environment that every step and the image see. */
  env(env: Readonly<Record<string, string>>): Image {
    return this.#push("env", (call, chain) => called(chain, { env: call.textMap(env) }));
  }

  /** Environment of the image that no step sees, so that changing it rebuilds nothing. */
  runtimeEnv(env: Readonly<Record<string, string>>): Image {
    return this.#push("runtimeEnv", (call, chain) => called(chain, { runtime_env: call.textMap(env) }));
  }

  /** User of every step and of the image, `user[:group]`. */
  user(user: string): Image {
    return this.#push("user", (call, chain) => called(chain, { user: call.text(user) }));
  }

  /** A label of the image. */
  label(name: string, value: string): Image {
    return this.#push("label", (call, chain) =>
      called(chain, { labels: { [call.text(name, ".name")]: call.text(value, ".value") } }),
    );
  }

  /** Entrypoint of the image. */
  entrypoint(args: string | readonly string[]): Image;
  entrypoint(...args: string[]): Image;
  entrypoint(...given: unknown[]): Image {
    return this.#push("entrypoint", (call, chain) => called(chain, { entrypoint: onlyTexts(call, given) }));
  }

  /** Command of the image. */
  cmd(args: string | readonly string[]): Image;
  cmd(...args: string[]): Image;
  cmd(...given: unknown[]): Image {
    return this.#push("cmd", (call, chain) => called(chain, { cmd: onlyTexts(call, given) }));
  }

  /** Platform of the image, `linux/amd64` unless set, wherever the hash is computed. */
  platform(platform: string): Image {
    return this.#push("platform", (call, chain) => called(chain, { platform: call.text(platform) }));
  }

  /** Name to file the image under, `repository[:tag]`. Does not count in the hash. */
  name(name: string): Image {
    return this.#push("name", (call, chain) => called(chain, { name: call.text(name) }));
  }

  // What the declaration comes to.

  /**
   * Reads the local files and gives the complete spec. Contents are read every time.
   *
   * @throws {@link ChalkError} `file` and others, naming the call
   */
  async resolve(options: ReadOptions = {}): Promise<ResolvedImage> {
    if (this.#resolved && this.#needsNoFiles) return this.#resolved;
    this.#resolved = madeFrom(await this.#resolveHandle(options), this.#sources);
    return this.#resolved;
  }

  /**
   * The image hash if every base is pinned, by the declaration or by `base`; else the recipe hash.
   * Equal to what `chalk compute image hash` prints for the same declaration.
   */
  async hash(options: HashOptions = {}): Promise<string> {
    const { base, ...rest } = options;
    const plain = Object.keys(rest).length === 0 && (base === undefined || typeof base === "string");
    if (plain && base === undefined && this.#hash !== undefined) return this.#hash;
    if (plain && !this.#resolved) {
      // Without files there is nothing to wait for, and nothing but the hash is worth keeping.
      const hash = guarded(Image.prototype.hash, () => this.#chain.hash(base));
      if (hash !== undefined && base === undefined) this.#hash = hash;
      if (hash !== undefined) return hash;
    }
    return this.#once(options, (handle) => handle.hash());
  }

  /** Keys of the cached layers: those of a Dockerfile base's instructions, then those of the steps. */
  async stepKeys(options: HashOptions = {}): Promise<string[]> {
    return this.#once(options, (handle) => handle.stepKeys());
  }

  /** What a build would do, as far as it can be known without a service. */
  async plan(options: HashOptions = {}): Promise<Plan> {
    return this.#once(options, (handle) => handle.plan());
  }

  /** An equivalent Dockerfile. */
  async toDockerfile(options: HashOptions = {}): Promise<string> {
    return this.#once(options, (handle) => handle.dockerfile());
  }

  /**
   * Resolves the image for one answer. The engine's memory is given back at once: a program that asks
   * for hash after hash may not let the garbage collector have its turn between them.
   */
  async #once<T>({ base, ...options }: HashOptions, use: (handle: ResolvedHandle) => T): Promise<T> {
    const kept = this.#needsNoFiles ? this.#resolved : undefined;
    const handle = kept ? handleOf(kept) : await this.#resolveHandle(options);
    try {
      if (base === undefined) return use(handle);
      const pinned = pinnedHandle(handle, base);
      try {
        return use(pinned);
      } finally {
        if (pinned !== handle) pinned.free();
      }
    } catch (thrown) {
      throw fromEngine(thrown);
    } finally {
      if (!kept) handle.free();
    }
  }

  async #resolveHandle(options: ReadOptions): Promise<ResolvedHandle> {
    const { signal, onProgress } = new Call(1, "resolve").options(options, ["signal", "onProgress"]);
    const { handle, anyRead } = await resolveWith(this.#chain, this.#sources, {
      signal: signal as ReadOptions["signal"],
      onProgress: onProgress as ReadOptions["onProgress"],
    });
    this.#needsNoFiles = !anyRead;
    return handle;
  }

  /** The declaration as an `image.toml`. Files count by their paths; objects by made-up ones. */
  toTOML(): string {
    return guarded(Image.prototype.toTOML, () => this.#chain.toToml());
  }

  /**
   * The spec, for `JSON.stringify`.
   *
   * @throws {@link ChalkError} `unread` when local files have to be read first
   */
  toJSON(): Spec {
    return this.#read(Image.prototype.toJSON).spec;
  }

  /** The spec. @throws {@link ChalkError} `unread` when local files have to be read first */
  get spec(): Spec {
    return this.#read().spec;
  }

  /** The build steps. @throws {@link ChalkError} `unread` when local files have to be read first */
  get steps(): Step[] {
    return this.#read().steps;
  }

  /**
   * Files that are mounted when a sandbox starts.
   *
   * @throws {@link ChalkError} `unread` when local files have to be read first
   */
  get mounts(): Mount[] {
    return this.#read().mounts;
  }

  /** As resolved before, or now if no file has to be read for it. */
  #read(cut?: Function): ResolvedImage {
    if (this.#resolved) return this.#resolved;
    const handle: ResolvedHandle | undefined = guarded(cut, () => resolveNow(this.#chain));
    if (!handle) {
      throw fromEngine(
        new ChalkError({
          code: "unread",
          reason: "the image names local files, which have not been read",
          hint: "call `await image.resolve()` before",
        }),
        cut,
      );
    }
    this.#needsNoFiles = true;
    this.#resolved = madeFrom(handle, this.#sources);
    return this.#resolved;
  }

  #install(method: ImageMethod, step: string, given: unknown[]): Image {
    return this.#push(method, (call, chain) => {
      const [packages, options] = call.textsAndOptions(given);
      return called(chain, { [step]: packages, ...stepOptions(call, options) });
    });
  }

  #requirements(method: ImageMethod, step: string, file: unknown, options: unknown): Image {
    return this.#pushIn(method, (call, chain, sources) => {
      const checked = stepOptions(call, options);
      const [found, path] = place(givenFile(file, call, ""), sources, "requirements.txt");
      return [called(chain, { [step]: path, ...checked }), found];
    });
  }

  #push(method: ImageMethod, make: (call: Call, chain: Chain) => Chain): Image {
    return this.#pushIn(method, (call, chain, sources) => [make(call, chain), sources]);
  }

  #pushIn(
    method: ImageMethod,
    make: (call: Call, chain: Chain, sources: Sources) => [Chain, Sources],
  ): Image {
    const call = new Call(this.#chain.length + 1, method);
    const run = () => new Image(...make(call, this.#chain, this.#sources));
    return guarded(Image.prototype[method] as Function, run, call.path);
  }

  static {
    made = (chain, sources) => new Image(chain, sources);
  }
}

type ImageMethod = Exclude<keyof Image, "spec" | "steps" | "mounts">;
type Start = "debianSlim" | "base" | "scratch" | "fromDockerfile" | "fromTOML" | "fromJSON" | "fromDeclaration";

/**
 * Runs the engine; what it throws becomes a {@link ChalkError} of the call at `place`, whose stack begins
 * above `cut`.
 */
function guarded<T>(cut: Function | undefined, run: () => T, place?: string): T {
  try {
    return run();
  } catch (thrown) {
    throw fromEngine(thrown, cut, place);
  }
}

function beginIn(
  method: Start,
  sources: Sources,
  make: (call: Call, sources: Sources) => [Chain, Sources],
): Image {
  const call = new Call(1, method);
  return guarded(Image[method], () => made(...make(call, sources)), call.path);
}

function begin(method: Start, make: (call: Call) => Chain): Image {
  return beginIn(method, homeSources(), (call, sources) => [make(call), sources]);
}

function declaration(
  method: Start,
  defaultFile: string,
  text: string,
  options: DeclarationOptions | undefined,
): Image {
  return beginIn(method, homeSources(), (call, home) => {
    const given = call.options(options, method === "fromTOML" ? ["file", "files"] : ["files"]);
    const file = call.text(given.file ?? defaultFile, ".file");
    const bytes = new TextEncoder().encode(call.text(text, ".text"));
    const sources = given.files === undefined ? home : rootedIn(givenDir(given.files, call, ".files"));
    return [engine().Chain.read(file, bytes), sources];
  });
}

/** Begins a chain, as a declaration file says it. */
function started(base: Record<string, unknown>): Chain {
  return engine().Chain.begin(JSON.stringify(base));
}

/** The chain with one more call, as a declaration file says it. */
function called(chain: Chain, call: Record<string, unknown>): Chain {
  return chain.call(JSON.stringify(call));
}

/**
 * What differs between two images, and which steps of the second that costs.
 *
 * @example
 * ```ts
 * const { equal, changes, reruns } = await diff(before, after);
 * ```
 */
export async function diff(
  before: Image | ResolvedImage | Spec,
  after: Image | ResolvedImage | Spec,
  options: ReadOptions = {},
): Promise<Diff> {
  const [a, b] = [await resolvedOf(before, options), await resolvedOf(after, options)];
  return engine().diff(handleOf(a), handleOf(b)) as Diff;
}

/** An image in any form, resolved. */
export async function resolvedOf(
  image: Image | ResolvedImage | Spec,
  options: ReadOptions = {},
): Promise<ResolvedImage> {
  if (image instanceof ResolvedImage) return image;
  return (image instanceof Image ? image : Image.fromJSON(image)).resolve(options);
}
