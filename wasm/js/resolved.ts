/**
 * An image with every local file read.
 */

import { Call, isPlainObject } from "./arguments.js";
import { type ResolvedHandle, engine } from "./engine.js";
import { ChalkError, fromEngine } from "./error.js";
import { piecesOf, sizeOf } from "./files/hash.js";
import type { Sources } from "./files/sources.js";
import { Unreadable } from "./files/tree.js";
import type { Mount, Plan, Spec, Step } from "./generated/wire.js";
import { platform } from "./platform.js";

/** Something that is allowed and probably not meant. */
export interface Warning {
  /** Field of the spec, such as `steps[2]`. */
  readonly path: string;
  /** What is odd. */
  readonly message: string;
  /** What to do; may be empty. */
  readonly hint: string;
}

/** Contents that the spec names by digest, for {@link ResolvedImage.read}. */
export interface Upload {
  /** `sha256:` and 64 hex digits. */
  readonly digest: string;
  /** Bytes. */
  readonly size: number;
  /** The local file that holds them, as the declaration names it. */
  readonly path?: string;
  /** The contents, where they are no file: the listing of a directory. */
  readonly bytes?: Uint8Array;
}

/** Digests of bases by their references: `{ "python:3.12-slim-bookworm": "sha256:…" }`. */
export type BaseDigests = Readonly<Record<string, string>>;

/** The constructor, which callers do not see. */
export let madeFrom: (handle: ResolvedHandle, sources: Sources) => ResolvedImage;

/** The engine's handle of an image. */
export let handleOf: (image: ResolvedImage) => ResolvedHandle;

/** Where the paths of an image lead. */
export let sourcesOf: (image: ResolvedImage) => Sources;

/**
 * What {@link Image.resolve} gives: the complete spec, its hashes, and the contents that go up with it.
 * It never changes, and nothing here waits.
 */
export class ResolvedImage {
  readonly #handle: ResolvedHandle;
  readonly #sources: Sources;
  #spec: Spec | undefined;
  #uploads: readonly Upload[] | undefined;

  private constructor(handle: ResolvedHandle, sources: Sources) {
    if (!(handle instanceof engine().Resolved)) {
      throw new ChalkError({
        code: "wrong-type",
        reason: "a ResolvedImage is not made by `new`",
        hint: "call `await image.resolve()`",
      });
    }
    this.#handle = handle;
    this.#sources = sources;
  }

  static {
    madeFrom = (handle, sources) => new ResolvedImage(handle, sources);
    handleOf = (image) => image.#handle;
    sourcesOf = (image) => image.#sources;
  }

  /** The spec, as `fromJSON` reads it. The object is frozen. */
  get spec(): Spec {
    this.#spec ??= frozen(this.#handle.spec() as Spec);
    return this.#spec;
  }

  /** The build steps of the spec. */
  get steps(): Step[] {
    return this.spec.steps ?? NOTHING;
  }

  /** Files that are mounted when a sandbox starts; they do not count in the hash. */
  get mounts(): Mount[] {
    return this.spec.mounts ?? NOTHING;
  }

  /** Things that are probably not meant. */
  get warnings(): Warning[] {
    return this.#handle.warnings() as Warning[];
  }

  /** Contents that a service may lack, each once. */
  get uploads(): readonly Upload[] {
    this.#uploads ??= Object.freeze(this.#handle.uploads() as Upload[]);
    return this.#uploads;
  }

  /** Hash of the spec with its bases by tag; needs no network to be known. */
  get recipeHash(): string {
    return this.#handle.recipeHash();
  }

  /** Hash that names the built image everywhere; `null` while a base is not pinned. */
  get imageHash(): string | null {
    return this.#handle.imageHash() ?? null;
  }

  /** The canonical document: the text whose SHA-256 is the hash. */
  get canonical(): string {
    return this.#handle.canonical();
  }

  /**
   * The same image with its base pinned.
   *
   * @param base - Digest of the platform's manifest of the base; for a Dockerfile with several bases,
   *   their digests by reference.
   * @throws {@link ChalkError} `digest`, or when the spec has no such base
   */
  pin(base: string | BaseDigests): ResolvedImage {
    try {
      return madeFrom(pinnedHandle(this.#handle, base), this.#sources);
    } catch (thrown) {
      throw fromEngine(thrown, ResolvedImage.prototype.pin);
    }
  }

  /** The image hash if every base is pinned, by the declaration or by `base`; else the recipe hash. */
  hash(options: { base?: string | BaseDigests | undefined } = {}): string {
    const pinned = options.base === undefined ? this : this.pin(options.base);
    return pinned.#handle.hash();
  }

  /** Keys of the cached layers: those of a Dockerfile base's instructions, then those of the steps. */
  stepKeys(): string[] {
    return this.#handle.stepKeys();
  }

  /** What a build would do, as far as it can be known without a service. */
  plan(): Plan {
    return this.#handle.plan() as Plan;
  }

  /** An equivalent Dockerfile. */
  toDockerfile(): string {
    try {
      return this.#handle.dockerfile();
    } catch (thrown) {
      throw fromEngine(thrown, ResolvedImage.prototype.toDockerfile);
    }
  }

  /** The spec, for `JSON.stringify`. */
  toJSON(): Spec {
    return this.spec;
  }

  /**
   * Contents to upload. A stream and bytes are checked while they are read: one that has changed since
   * the image was resolved fails with the code `file`. A `Blob` is given as it is, since hosts upload
   * it without reading it into memory; its size was checked.
   *
   * @throws {@link ChalkError} `file` when it is gone
   */
  async read(upload: Upload): Promise<ReadableStream<Uint8Array> | Blob | Uint8Array> {
    if (upload.bytes) return upload.bytes;
    const written = upload.path ?? "";
    const { tree, path } = this.#sources.find(written);
    try {
      const contents = await tree.file(path);
      if (!contents) throw new Unreadable("no such file");
      if (sizeOf(contents) !== upload.size) throw changedSince();
      const { body } = contents;
      if (body instanceof Uint8Array) {
        if (digestText(await platform().sha256(body as Uint8Array<ArrayBuffer>)) !== upload.digest) {
          throw changedSince();
        }
        return body;
      }
      return typeof body === "function" ? checked(piecesOf(body), upload) : body;
    } catch (error) {
      throw unreadable(written, error);
    }
  }
}

const NOTHING: never[] = Object.freeze([]) as unknown as never[];

/** Freezes a document with all that is in it. */
function frozen<T>(value: T): T {
  if (typeof value === "object" && value !== null) {
    for (const inner of Object.values(value)) frozen(inner);
    Object.freeze(value);
  }
  return value;
}

/** A handle of the image with its base pinned; the same one when there is nothing to pin. */
export function pinnedHandle(handle: ResolvedHandle, base: string | BaseDigests): ResolvedHandle {
  const call = new Call(1, "pin");
  try {
    if (typeof base === "string" || !isPlainObject(base)) return handle.pin(call.text(base));
    let pinned = handle;
    for (const [reference, digest] of Object.entries(call.textMap(base))) {
      const next = pinned.pinImage(reference, digest);
      if (pinned !== handle) pinned.free();
      pinned = next;
    }
    return pinned;
  } catch (thrown) {
    const error = fromEngine(thrown);
    // Pinning is no call of a chain.
    const path = error.path.replace(/^call \d+: /, "");
    throw new ChalkError({ ...error, path, cause: error.cause });
  }
}

/** A stream that fails when the contents are not those of the upload. */
function checked(
  pieces: AsyncGenerator<Uint8Array, void, undefined>,
  upload: Upload,
): ReadableStream<Uint8Array> {
  const hasher = platform().hasher();
  let read = 0;
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        try {
          const { done, value } = await pieces.next();
          if (done) {
            if (read !== upload.size || digestText(hasher.digest()) !== upload.digest) {
              throw changedSince();
            }
            controller.close();
            return;
          }
          read += value.length;
          if (read > upload.size) throw changedSince();
          hasher.update(value);
          controller.enqueue(value);
        } catch (error) {
          controller.error(unreadable(upload.path ?? "", error));
        }
      },
      async cancel() {
        await pieces.return();
      },
    },
    { highWaterMark: 0 },
  );
}

function changedSince(): Unreadable {
  return new Unreadable("changed since the image was resolved");
}

function unreadable(path: string, error: unknown): ChalkError {
  if (error instanceof ChalkError) return error;
  return new ChalkError({
    code: "file",
    reason: `${path}: ${error instanceof Error ? error.message : String(error)}`,
    hint: "resolve the image again",
    cause: error,
  });
}

function digestText(digest: Uint8Array): string {
  const hex = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0"));
  return `sha256:${hex.join("")}`;
}
