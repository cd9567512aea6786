/**
 * Uploading what a service lacks.
 */

import { ChalkError, checkAborted } from "../error.js";
import { Reporter } from "../files/progress.js";
import type { ReadOptions } from "../files/tree.js";
import type { Upload } from "../resolved.js";
import { Backoff } from "./backoff.js";
import { type Connection, type Sent, segment } from "./connection.js";
import { ServiceError, isTransient, strange } from "./problem.js";

/** Blobs that are uploaded at a time. */
const AT_A_TIME = 4;
/** Times that a blob is sent over connections that break. */
const TRIES = 3;
/** Rounds of uploads: a directory's listing, then the files in it that the service lacks. */
const ROUNDS = 3;

/** What can be uploaded, and how to read it: a `ResolvedImage` is one. */
export interface Contents {
  readonly uploads: readonly Upload[];
  read(upload: Upload): Body | Promise<Body>;
}

type Body = ReadableStream<Uint8Array> | Blob | Uint8Array;

/** What a service says to a request that names contents. */
type Reply = { reply: "needs_blobs"; digests: string[] } | { reply: string };

/** Sends a request, and again each time that contents which the service lacks have gone up. */
export async function askWithContents<R extends Reply>(
  connection: Connection,
  path: string,
  request: unknown,
  contents: Contents,
  { once = false, ...options }: ReadOptions & { once?: boolean },
): Promise<Exclude<R, { reply: "needs_blobs" }>> {
  const { signal } = options;
  for (let round = 0; ; round += 1) {
    const reply: Reply = await connection.json<R>("POST", path, { signal, once }, request);
    if (!("digests" in reply) || reply.reply !== "needs_blobs") {
      return reply as Exclude<R, { reply: "needs_blobs" }>;
    }
    if (round === ROUNDS) throw strange(connection.server, "it asks for the same files again and again");
    await upload(connection, contents, reply.digests, options);
  }
}

/**
 * Uploads blobs, a few at a time; the first failure ends the others.
 *
 * @throws {@link ChalkError} `file` when contents changed since they were hashed, `missing` when the
 *   service wants what is not there
 */
async function upload(
  connection: Connection,
  contents: Contents,
  digests: readonly string[],
  { signal, onProgress }: ReadOptions,
): Promise<void> {
  const known = new Map(contents.uploads.map((upload) => [upload.digest, upload]));
  const wanted = digests.map((digest) => known.get(digest) ?? undeclared(digest));
  const reporter = new Reporter(onProgress);
  reporter.phase("upload", wanted.length);
  for (const { size } of wanted) reporter.begin("", size);

  const own = new AbortController();
  const giveUp = () => own.abort(signal?.reason);
  signal?.addEventListener("abort", giveUp, { once: true });
  checkAborted(signal);
  let next = 0;
  let failure: unknown;
  const worker = async () => {
    while (next < wanted.length && failure === undefined) {
      const upload = wanted[next++] as Upload;
      try {
        await uploadOne(connection, contents, upload, reporter, own.signal);
      } catch (error) {
        failure ??= error;
        own.abort();
      }
    }
  };
  try {
    await Promise.all(Array.from({ length: AT_A_TIME }, worker));
  } finally {
    signal?.removeEventListener("abort", giveUp);
  }
  checkAborted(signal);
  if (failure !== undefined) throw failure;
  reporter.end();
}

async function uploadOne(
  connection: Connection,
  contents: Contents,
  upload: Upload,
  reporter: Reporter,
  signal: AbortSignal,
): Promise<void> {
  reporter.begin(upload.path ?? "", 0);
  const backoff = new Backoff(connection.patience);
  for (let tried = 1; ; tried += 1) {
    const body = await contents.read(upload);
    const count = new Count(reporter);
    try {
      await connection.send("PUT", `/v1/blobs/${segment(upload.digest)}`, {
        ...(await bodyOf(body, count)),
        ...(sendsStreams() ? {} : { onSent: (bytes) => count.reach(Math.min(bytes, upload.size)) }),
        signal,
      });
      count.reach(upload.size);
      reporter.done();
      return;
    } catch (error) {
      count.reach(0);
      if (signal.aborted) throw error;
      if (count.fault !== undefined) throw fileError(upload, count.fault);
      if (error instanceof ServiceError && error.code === "digest-mismatch") {
        throw fileError(upload, new Error("changed since the image was resolved"));
      }
      await checkReadable(upload, body);
      if (!isTransient(error) || tried === TRIES) throw error;
      await backoff.wait(error, signal);
    }
  }
}

/** How much of a body is on its way, and what went wrong with reading it. */
class Count {
  fault: unknown;
  readonly #reporter: Reporter;
  #bytes = 0;

  constructor(reporter: Reporter) {
    this.#reporter = reporter;
  }

  advance(bytes: number): void {
    this.#bytes += bytes;
    this.#reporter.advance(bytes);
  }

  reach(bytes: number): void {
    this.advance(bytes - this.#bytes);
  }
}

/** A body in the form in which this host sends it best. */
async function bodyOf(body: Body, count: Count): Promise<Pick<Sent, "body" | "duplex">> {
  if (body instanceof Uint8Array) return { body: body as Uint8Array<ArrayBuffer> };
  if (sendsStreams()) {
    const stream = body instanceof Blob ? body.stream() : body;
    return { body: counted(stream, count), duplex: "half" };
  }
  if (body instanceof Blob) return { body };
  try {
    return { body: await new Response(body as ReadableStream<Uint8Array<ArrayBuffer>>).blob() };
  } catch (error) {
    count.fault = error;
    throw error;
  }
}

/** Node does; browsers do not, or over HTTP/2 only. They send blobs without reading them into memory. */
function sendsStreams(): boolean {
  const { process } = globalThis as { process?: { versions?: { node?: string } } };
  return process?.versions?.node !== undefined;
}

/** The same stream, counted; keeps the reason when it fails, which hosts wrap or drop. */
function counted(stream: ReadableStream<Uint8Array>, count: Count): ReadableStream<Uint8Array> {
  const reader = stream.getReader();
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        try {
          const { done, value } = await reader.read();
          if (done) {
            controller.close();
            return;
          }
          count.advance(value.length);
          controller.enqueue(value);
        } catch (error) {
          count.fault = error;
          controller.error(error);
        }
      },
      cancel: (reason) => reader.cancel(reason),
    },
    { highWaterMark: 0 },
  );
}

/** Browsers report a chosen file that was changed on disk as a network failure. */
async function checkReadable(upload: Upload, body: Body): Promise<void> {
  if (!(body instanceof Blob)) return;
  try {
    await body.slice(0, 1).arrayBuffer();
  } catch (error) {
    throw fileError(upload, error);
  }
}

function fileError({ path }: Upload, cause: unknown): ChalkError {
  if (cause instanceof ChalkError) return cause;
  const { name, message } = cause instanceof Error ? cause : new Error(String(cause));
  const gone = name === "NotReadableError" || name === "NotFoundError";
  const reason = gone ? "cannot be read any more: it was changed or removed since it was chosen" : message;
  return new ChalkError({
    code: "file",
    reason: `${path ?? "a listing"}: ${reason}`,
    hint: "resolve the image again",
    cause,
  });
}

function undeclared(digest: string): never {
  throw new ChalkError({
    code: "missing",
    reason: `the service needs ${digest}, which is not declared here`,
    hint: "a spec without its files can be built only where its files are known: build from the declaration that it was made from",
  });
}
