/**
 * The build service, from Node and browsers.
 */

import { type CallOptions, type ClientOptions, Connection, present, query, segment } from "./client/connection.js";
import { follow } from "./client/follow.js";
import { type AnyImage, imageAt, requestFor } from "./client/images.js";
import { JoinTokens, Nodes } from "./client/nodes.js";
import { ServiceError, strange } from "./client/problem.js";
import { BuildRun, eventsOf } from "./client/run.js";
import { Sandboxes } from "./client/sandboxes.js";
import { pieces } from "./client/stream.js";
import { askWithContents } from "./client/upload.js";
import { type WarmWaitOptions, Warms } from "./client/warms.js";
import { ChalkError } from "./error.js";
import type { Progress } from "./files/tree.js";
import type {
  Build,
  BuildReply,
  BuildRequest,
  Diff,
  ImageDetail,
  ImageSummary,
  Info,
  Prewarm,
  Region,
  ResolvedSpec,
  ServicePlan,
  Warm,
  WarmRequest,
} from "./generated/wire.js";
import { diff, resolvedOf } from "./image.js";
import type { ResolvedImage } from "./resolved.js";

export type { CallOptions, ClientOptions } from "./client/connection.js";
export type { AnyImage } from "./client/images.js";
export type { CollectOptions, JoinTokenOptions, JoinTokens, Nodes } from "./client/nodes.js";
export type { OutputItem, ProcessOutput } from "./client/output.js";
export { ServiceError } from "./client/problem.js";
export { type ProcessEnd, SandboxProcess } from "./client/process.js";
export { BuildRun } from "./client/run.js";
export {
  type ExecOptions,
  type RemoveOptions,
  Sandbox,
  type SandboxOptions,
  type Sandboxes,
  type StopOptions,
} from "./client/sandboxes.js";
export type { WarmWaitOptions, Warms } from "./client/warms.js";

/** Options of {@link Client.build}. */
export interface BuildOptions extends CallOptions {
  /** Files the image under this `repository[:tag]`; over the declaration's own name. */
  name?: string | undefined;
  /** Runs every step even when cached. */
  force?: boolean | undefined;
  /** Values of the secrets that steps name. The service never keeps them. */
  secrets?: Readonly<Record<string, string>> | undefined;
  /** Of new layers; the service's setting unless given. */
  compression?: "zstd" | "gzip" | "none" | undefined;
  /**
   * Cancels the build when the last client that follows it is gone: when the signal fires, the program
   * ends, or nobody iterates the {@link BuildRun} or awaits its end any more.
   */
  cancelOnDisconnect?: boolean | undefined;
  /** Called while files go up, at most about twenty times a second. */
  onUpload?: ((progress: Progress) => void) | undefined;
}

/** What {@link Client.why} gives. */
export type Why = Diff & {
  /** The build that the image is compared with. */
  readonly against: { readonly build: string; readonly name: string | null; readonly image_hash: string };
};

/** What {@link Client.warm} brings where. Without nodes, labels and region: to every node. */
export interface WarmTargets {
  /** An image, or several; a text is the prefix of a hash, or a name. They must have been built. */
  images: AnyImage | string | readonly (AnyImage | string)[];
  /** Only these nodes. */
  nodes?: readonly string[] | undefined;
  /** Only nodes with all of these labels. */
  labels?: Readonly<Record<string, string>> | undefined;
  /** Only nodes of this region. */
  region?: string | undefined;
  /** Every node, said aloud; not together with the others. */
  all?: boolean | undefined;
  /** Keeps the images there until they are unpinned, whatever else is evicted. */
  pin?: boolean | undefined;
  /** Seconds after which what is not ready has failed; a day unless given. */
  timeoutSeconds?: number | undefined;
}

/** Options of {@link Client.warm}. */
export interface WarmOptions extends WarmWaitOptions {
  /** Whether to wait until every node is ready or has failed, as it does unless this is `false`. */
  wait?: boolean | undefined;
}

/** Builds among which the last good one is looked for. */
const LOOK_BACK = 100;

/**
 * A client of the build service that `chalk serve` runs. It needs nothing but `fetch`.
 *
 * Errors of the service are {@link ServiceError}s. One that cannot be asked at all gives a
 * {@link ChalkError} with the code `unreachable`.
 *
 * @example
 * ```ts
 * const client = new Client({ server: "http://127.0.0.1:7474", token });
 * const run = await client.build(image, { name: "team/app:v1" });
 * for await (const event of run) console.log(event.type);
 * console.log((await run.done).image);
 * ```
 */
export class Client {
  /** The hosts that run sandboxes, and their caches. */
  readonly nodes: Nodes;
  /** Tokens by which nodes join. */
  readonly joinTokens: JoinTokens;
  /** Warms, past and present; {@link Client.warm} begins one. */
  readonly warms: Warms;
  /** Processes on nodes. */
  readonly sandboxes: Sandboxes;
  readonly #connection: Connection;

  /** @throws {@link ChalkError} `value` when address or token cannot be one. Asks nobody. */
  constructor(options: ClientOptions) {
    const connection = new Connection(options);
    this.#connection = connection;
    this.nodes = new Nodes(connection);
    this.joinTokens = new JoinTokens(connection);
    this.warms = new Warms(connection);
    this.sandboxes = new Sandboxes(connection);
  }

  /** Address of the service, without a slash at its end. */
  get server(): string {
    return this.#connection.server;
  }

  /** What the service is. */
  info(options: CallOptions = {}): Promise<Info> {
    return this.#connection.json("GET", "/v1/info", options);
  }

  /** The spec with every base pinned, and its image hash. */
  async resolve(image: AnyImage, options: CallOptions = {}): Promise<ResolvedSpec> {
    return this.#connection.json("POST", "/v1/resolve", options, await requestFor(image, { signal: options.signal }));
  }

  /** What a build would do: which steps are cached, and how many bytes would go up. */
  async plan(image: AnyImage, options: CallOptions = {}): Promise<ServicePlan> {
    return this.#connection.json("POST", "/v1/plan", options, await requestFor(image, { signal: options.signal }));
  }

  /**
   * Builds an image, shares a build of it that runs, or finds it built; uploads only what the service
   * lacks. Gives the build as soon as it is queued.
   *
   * The signal ends the upload and every iteration of the {@link BuildRun}.
   */
  async build(image: AnyImage, options: BuildOptions = {}): Promise<BuildRun> {
    const { signal, onUpload, cancelOnDisconnect = false } = options;
    const resolved = await resolvedOf(image, { signal });
    const request: BuildRequest = {
      spec: resolved.spec,
      force: options.force ?? false,
      cancel_on_disconnect: cancelOnDisconnect,
      ...present({
        name: options.name,
        secrets: options.secrets && { ...options.secrets },
        compression: options.compression,
      }),
    };
    const asked = { signal, onProgress: onUpload };
    const reply = await askWithContents<BuildReply>(this.#connection, "/v1/builds", request, resolved, asked);
    if (reply.reply !== "accepted" && reply.reply !== "reused") {
      throw strange(this.server, "it answers a build with something unknown");
    }
    const { reply: _, ...build } = reply;
    return new BuildRun(this.#connection, build.id, { build, leaves: cancelOnDisconnect, signal });
  }

  /**
   * A build that was begun elsewhere, or before this page was loaded.
   *
   * @param options - `after`: number of the last event that is not wanted
   */
  follow(id: string, options: CallOptions & { after?: number | undefined } = {}): BuildRun {
    const { after = 0, signal } = options;
    return new BuildRun(this.#connection, id, { after, signal });
  }

  /**
   * Output of a build, in pieces as they come.
   *
   * @param options - `step`: only of this step, counted from 0; `follow`: goes on until the build ends
   */
  async *logs(
    id: string,
    options: CallOptions & { step?: number | undefined; follow?: boolean | undefined } = {},
  ): AsyncGenerator<string, void, undefined> {
    const { step, signal } = options;
    if (!options.follow) {
      const path = `/v1/builds/${segment(id)}/logs${query({ step })}`;
      yield* pieces(this.#connection, path, { signal });
      return;
    }
    const events = eventsOf(this.#connection, id);
    for await (const event of follow(this.#connection, events, 0, { signal })) {
      if (event.type === "log" && (step === undefined || event.step === step)) yield event.text;
    }
  }

  /** Builds, newest first; `hash` is the beginning of an image hash. */
  builds(
    options: CallOptions & {
      limit?: number | undefined;
      name?: string | undefined;
      hash?: string | undefined;
    } = {},
  ): Promise<Build[]> {
    const { limit, name, hash } = options;
    return this.#connection.json("GET", `/v1/builds${query({ limit, name, hash })}`, options);
  }

  /** Images, newest first; `name` is `repository` or `repository:tag`. */
  images(options: CallOptions & { name?: string | undefined } = {}): Promise<ImageSummary[]> {
    return this.#connection.json("GET", `/v1/images${query({ name: options.name })}`, options);
  }

  /** All that is known of an image, by a prefix of its hash (8 digits at least) or a name. */
  image(id: string, options: CallOptions = {}): Promise<ImageDetail> {
    return this.#connection.json("GET", `/v1/images/${segment(id)}`, options);
  }

  /**
   * What differs between two images, and which steps of the second that costs. A text is the prefix of
   * a hash, or a name, of an image on the service.
   */
  async diff(a: AnyImage | string, b: AnyImage | string, options: CallOptions = {}): Promise<Diff> {
    const { signal } = options;
    const side = async (image: AnyImage | string) =>
      resolvedOf(typeof image === "string" ? (await this.image(image, options)).spec : image, { signal });
    const [before, after] = await Promise.all([side(a), side(b)]);
    // What was built is pinned. A declaration that is not would differ from it in its base alone.
    if ((before.imageHash === null) === (after.imageHash === null)) return diff(before, after);
    return diff(await this.#pinned(before, options), await this.#pinned(after, options));
  }

  /** The image with its bases pinned by the service; as it is where they cannot be. */
  async #pinned(image: ResolvedImage, options: CallOptions): Promise<AnyImage> {
    if (image.imageHash !== null) return image;
    try {
      return (await this.resolve(image, options)).spec;
    } catch (error) {
      // Then the base is among the differences, with its tag on this side.
      if (error instanceof ServiceError && UNPINNABLE.has(error.code)) return image;
      throw error;
    }
  }

  /**
   * Why a build would run steps again: what differs from the last good build of that name, or of all
   * when the declaration has none.
   *
   * @throws {@link ChalkError} `not-found` when there is no such build
   */
  async why(image: AnyImage, options: CallOptions & { name?: string | undefined } = {}): Promise<Why> {
    const { signal } = options;
    const resolved = await resolvedOf(image, { signal });
    const name = options.name ?? resolved.spec.name ?? undefined;
    const after = resolved.imageHash === null ? (await this.resolve(resolved, { signal })).spec : resolved;
    const builds = await this.builds({ limit: LOOK_BACK, name, signal });
    const last = builds.find(({ status }) => status === "built" || status === "reused");
    if (!last) {
      throw new ChalkError({
        code: "not-found",
        reason: `no finished build${name === undefined ? "" : ` of ${name}`} is known`,
        hint: "build once under a name, then ask again; or compare two images with `diff`",
      });
    }
    const { spec } = await this.image(last.image_hash, { signal });
    const against = { build: last.id, name: last.name ?? null, image_hash: last.image_hash };
    return { ...(await diff(spec, after, { signal })), against };
  }

  /** Regions, with their registries. */
  regions(options: CallOptions = {}): Promise<Region[]> {
    return this.#connection.json("GET", "/v1/regions", options);
  }

  /** Base images that every node keeps ready, and what became of each. */
  prewarm(options: CallOptions = {}): Promise<Prewarm> {
    return this.#connection.json("GET", "/v1/prewarm", options);
  }

  /** Says which base images every node keeps ready: references by tag, which is followed, or digest. */
  setPrewarm(images: readonly string[], options: CallOptions = {}): Promise<Prewarm> {
    const list: Prewarm = { images: [...images] };
    return this.#connection.json("PUT", "/v1/prewarm", options, list);
  }

  /**
   * Brings images into the caches of nodes, ahead of any sandbox, and gives what each node says of it:
   * bytes fetched and there before, whether every digest was checked, seconds, or the error. Some nodes may
   * fail: then the `status` is `partly`, and nothing is thrown.
   *
   * When the signal fires, waiting ends and the warm goes on; {@link Warms.cancel} ends it.
   *
   * @example
   * ```ts
   * const warm = await client.warm({ images: image, region: "eu" });
   * for (const { node, state, seconds, error } of warm.nodes) console.log(node, state, seconds, error?.title);
   * ```
   */
  async warm(targets: WarmTargets, options: WarmOptions = {}): Promise<Warm> {
    const { wait = true, onEvent, signal } = options;
    const { images, nodes, labels, region, all, pin, timeoutSeconds } = targets;
    const named = (Array.isArray(images) ? images : [images]) as (AnyImage | string)[];
    const places = await Promise.all(named.map((image) => imageAt(this.#connection, image, { signal })));
    const request: WarmRequest = {
      images: places.map(({ name }) => name),
      all: all ?? false,
      pin: pin ?? false,
      ...present({
        nodes: nodes && [...nodes],
        labels: labels && { ...labels },
        region,
        timeout_seconds: timeoutSeconds,
      }),
    };
    const warm = await this.#connection.json<Warm>("POST", "/v1/warms", { signal, once: true }, request);
    return wait ? this.warms.wait(warm.id, { onEvent, signal }) : warm;
  }
}

/** Why a base cannot be pinned. */
const UNPINNABLE = new Set(["base-not-found", "base-denied", "base-platform", "registry-unreachable"]);
