/** The engine's worker: everything that hashes, reads files or talks to a service. */
import { type ChalkError, Image, type ResolvedImage, init } from "chalkcompute/slim";
import { faultsOf, fault } from "./fault.js";
import { basesOf, previewOf } from "./preview.js";
import { Overlay, Project } from "./project.js";
import type { Answer, BaseImage, FileRow, FileState, Request, Source } from "./protocol.js";
import { replay } from "./replay.js";
import { ServiceLink } from "./service.js";

/** How often file states are told, in milliseconds. */
const TELL_EVERY = 50;
/** Reading that takes less is not told. */
const QUIET = 100;

/** What a requirements file alone stands for. */
const REQUIREMENTS = `[image]
debian_slim = "3.12"

[[step]]
pip_install_from_requirements = "requirements.txt"
`;

const tell = (answer: Answer) => self.postMessage(answer);

/** Gathers states of files, so that 10,000 of them are a few messages. */
class FileTeller {
  #version = 0;
  #states = new Map<number, FileState>();
  #timer = 0;

  rows(version: number, rows: FileRow[]): void {
    this.#version = version;
    this.#states.clear();
    tell({ type: "files", version, rows });
  }

  state(version: number, index: number, state: FileState): void {
    if (version !== this.#version) return;
    this.#states.set(index, state);
    this.#timer ||= setTimeout(() => this.#flush(), TELL_EVERY);
  }

  #flush(): void {
    this.#timer = 0;
    tell({ type: "file-states", version: this.#version, states: [...this.#states] });
    this.#states.clear();
  }
}

const project = new Project(new FileTeller());
const service = new ServiceLink(tell);
let current: { id: number; image: Image; resolved: ResolvedImage } | null = null;
let kept: ResolvedImage | null = null;
let evaluating = new AbortController();

/** Whether the engine runs; everything else waits for it. */
let started = Promise.resolve(false);

async function start(wasm: string): Promise<boolean> {
  try {
    await init(wasm, { files: project });
    return true;
  } catch (reason) {
    const { reason: message, hint } = reason as ChalkError;
    tell({ type: "unusable", message: message ?? String(reason), hint: hint ?? "" });
    return false;
  }
}

async function evaluate(id: number, source: Source, pins: Record<string, string>): Promise<void> {
  evaluating.abort();
  evaluating = new AbortController();
  const { signal } = evaluating;
  current = null;
  const began = performance.now();
  try {
    const image = declared(source);
    if (!image) {
      tell({ type: "faults", id, faults: [fault("error", "the code makes no image", "begin with Image.debianSlim() or Image.base(…)")] });
      return;
    }
    const read = await image.resolve({
      signal,
      onProgress: ({ files, filesTotal, bytes, bytesTotal }) => {
        if (performance.now() - began > QUIET) tell({ type: "reading", id, files, filesTotal, bytes, bytesTotal });
      },
    });
    const bases = basesOf(read.spec, pins);
    const resolved = pinned(read, bases);
    // A digest that is given counts for the kept spec too: else it alone would make both differ.
    const before = kept && pinned(kept, basesOf(kept.spec, pins));
    const preview = await previewOf(image, resolved, bases, before);
    if (signal.aborted) return;
    current = { id, image, resolved };
    tell({ type: "preview", id, preview });
  } catch (reason) {
    if (signal.aborted) return;
    const editor = source.kind === "declaration" ? source.file : null;
    tell({ type: "faults", id, faults: faultsOf(reason, editor, source.kind === "javascript" ? source.recording : null) });
  }
}

function pinned(image: ResolvedImage, bases: readonly BaseImage[]): ResolvedImage {
  const given = bases.flatMap(({ ref, digest, given }) => (given && digest ? [[ref, digest] as const] : []));
  return given.length > 0 ? image.pin(Object.fromEntries(given)) : image;
}

function declared(source: Source): Image | null {
  if (source.kind === "javascript") return replay(source.recording);
  if (source.file !== "requirements.txt") {
    return Image.fromDeclaration(source.file, source.text, { files: project });
  }
  return Image.fromTOML(REQUIREMENTS, { files: new Overlay(project, source.file, source.text) });
}

function keep(): void {
  if (!current) return;
  kept = current.resolved;
  tell({ type: "kept", hash: kept.imageHash ?? kept.recipeHash, pinned: kept.imageHash !== null });
}

async function answer(request: Exclude<Request, { type: "start" }>): Promise<void> {
  if (!(await started)) return;
  switch (request.type) {
    case "evaluate":
      return evaluate(request.id, request.source, request.pins);
    case "keep":
      return keep();
    case "forget":
      kept = null;
      return;
    case "add":
      return project.add(request.files, request.dirs, request.replace);
    case "remove":
      return project.remove(request.path);
    case "executable":
      return project.setExecutable(request.path, request.on);
    case "read": {
      const text = await project.readText(request.path);
      if (text !== undefined) tell({ type: "text", path: request.path, text });
      return;
    }
    case "hash":
      return project.want(request.path);
    case "retry-hashing":
      return project.retry();
    case "cancel-hashing":
      return project.cancel();
    case "connect":
      return service.connect(request.server, request.token);
    case "disconnect":
      return service.disconnect();
    case "cancel-build":
      return service.cancelBuild();
  }
  if (!current) return;
  const { id, resolved } = current;
  switch (request.type) {
    case "resolve-bases":
      return service.resolve(id, resolved);
    case "plan":
      return service.plan(id, resolved);
    case "build":
      return service.build(resolved, request);
  }
}

self.addEventListener("message", ({ data: request }: MessageEvent<Request>) => {
  if (request.type === "start") started = start(request.wasm);
  else void answer(request);
});
