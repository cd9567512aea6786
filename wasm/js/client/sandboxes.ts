/**
 * Sandboxes: processes that run on an image.
 */

import { readMounts } from "../files/mounts.js";
import type { LocalMount } from "../files/mounts.js";
import type { Progress } from "../files/tree.js";
import type {
  ExecRequest,
  ProcessName,
  SandboxInfo,
  SandboxNetwork,
  SandboxReply,
  SandboxRequest,
  TerminalSize,
} from "../generated/wire.js";
import { type CallOptions, type Connection, present, query, segment } from "./connection.js";
import { type AnyImage, imageAt } from "./images.js";
import { type ProcessEnd, type ProcessOptions, SandboxProcess } from "./process.js";
import { ServiceError, strange } from "./problem.js";
import { askWithContents } from "./upload.js";

/** What a command in a sandbox may be given. */
export interface ExecOptions extends CallOptions {
  /** Variables over those of the sandbox. */
  env?: Readonly<Record<string, string>> | undefined;
  /** Over the sandbox's working directory. */
  workdir?: string | undefined;
  /** Over the sandbox's user, `user[:group]`. */
  user?: string | undefined;
  /** Gives it a terminal, of 24 rows and 80 columns unless a size is given. */
  tty?: boolean | TerminalSize | undefined;
  /** Opens standard input; it is `/dev/null` otherwise. A terminal always has it. */
  stdin?: boolean | undefined;
}

/** Options of {@link Sandboxes.run}. The signal ends the upload, reading of output, and waiting. */
export interface SandboxOptions extends ExecOptions {
  /** Command: over the image's own; the image's entrypoint stays in front of it. */
  args?: readonly string[] | undefined;
  /** Over the image's entrypoint, whose command then counts no more. An empty list takes it away. */
  entrypoint?: readonly string[] | undefined;
  /** Files and directories over those that the image declares. */
  mounts?: readonly LocalMount[] | undefined;
  /** Processor cores, such as 0.5. */
  cpus?: number | undefined;
  /** Bytes of memory. */
  memory?: number | undefined;
  /** Processes and threads. */
  pids?: number | undefined;
  /** Bytes that the writable layer may take. */
  disk?: number | undefined;
  /** Seconds until it is stopped. */
  timeoutSeconds?: number | undefined;
  /** That of the node, which it is unless given, or nothing but loopback. */
  network?: SandboxNetwork | undefined;
  /** GPUs: all, or how many. */
  gpus?: "all" | number | undefined;
  /** Further devices by their CDI names, `vendor/class=name`. */
  devices?: readonly string[] | undefined;
  /** Makes `/` read-only. */
  readOnly?: boolean | undefined;
  /** Host name inside; the sandbox's identifier unless given. */
  hostname?: string | undefined;
  /** Only on this node. */
  node?: string | undefined;
  /** Only in this region. */
  region?: string | undefined;
  /** Only on nodes with all of these labels. */
  labels?: Readonly<Record<string, string>> | undefined;
  /**
   * Stops it when the last client that follows it is gone: when the signal fires, the program ends, or
   * nobody reads its output or waits for it any more.
   */
  stopOnDisconnect?: boolean | undefined;
  /** Called while mounted files are read and go up, at most about twenty times a second. */
  onUpload?: ((progress: Progress) => void) | undefined;
}

/** Options of {@link Sandboxes.stop}. */
export interface StopOptions extends CallOptions {
  /** Seconds between the image's stop signal and the kill; 10 unless given. */
  graceSeconds?: number | undefined;
}

/** Options of {@link Sandboxes.remove}. */
export interface RemoveOptions extends CallOptions {
  /** Ends it first when it runs. */
  force?: boolean | undefined;
}

/** Sandboxes, past and present: {@link Client.sandboxes}. */
export class Sandboxes {
  readonly #connection: Connection;

  /** @internal */
  constructor(connection: Connection) {
    this.#connection = connection;
  }

  /**
   * Starts a sandbox and gives it as soon as a node is found for it. The image must have been built or
   * imported.
   *
   * Files and directories that the image declares to be mounted, and those of `mounts`, are read now; what
   * the service lacks of them goes up, several at once. An edit of one changes no hash, and the next
   * sandbox sees it.
   *
   * @param image - A declared image, which brings its mounted files along; or the prefix of a hash, a name
   *   or a reference, which brings none
   *
   * @example
   * ```ts
   * const sandbox = await client.sandboxes.run(image, { args: ["python3", "app.py"] });
   * for await (const line of sandbox.stdout.lines()) console.log(line);
   * console.log((await sandbox.wait()).exitCode);
   * ```
   */
  async run(image: AnyImage | string, options: SandboxOptions = {}): Promise<Sandbox> {
    const { signal, onUpload: onProgress } = options;
    const { name, resolved } = await imageAt(this.#connection, image, { signal });
    const contents = await readMounts(resolved, options.mounts ?? [], { signal, onProgress });
    const { args, entrypoint, hostname, node, region, labels, network, devices } = options;
    const { cpus, memory, pids, disk, timeoutSeconds: timeout_seconds } = options;
    const request: SandboxRequest = {
      ...process(options),
      image: name,
      mounts: contents.mounts,
      limits: present({ cpus, memory, pids, disk, timeout_seconds }),
      read_only: options.readOnly ?? false,
      stop_on_disconnect: options.stopOnDisconnect ?? false,
      ...present({
        args: args && [...args],
        entrypoint: entrypoint && [...entrypoint],
        devices: devices && [...devices],
        gpus: options.gpus === undefined ? undefined : String(options.gpus),
        labels: labels && { ...labels },
        network,
        hostname,
        node,
        region,
      }),
    };
    const asked = { signal, onProgress, once: true };
    const reply = await askWithContents<SandboxReply>(
      this.#connection,
      "/v1/sandboxes",
      request,
      contents,
      asked,
    );
    if (reply.reply !== "accepted") {
      throw strange(this.#connection.server, "it answers a sandbox with something unknown");
    }
    const { reply: _, ...info } = reply;
    return new Sandbox(this.#connection, info, { signal });
  }

  /** Sandboxes, newest first; those that have ended only when asked for by `all`. */
  list(
    options: CallOptions & {
      all?: boolean | undefined;
      node?: string | undefined;
      image?: string | undefined;
    } = {},
  ): Promise<SandboxInfo[]> {
    const { all, node, image } = options;
    return this.#connection.json("GET", `/v1/sandboxes${query({ all, node, image })}`, options);
  }

  /** What is known of a sandbox, by any prefix of its identifier that fits no other. */
  get(id: string, options: CallOptions = {}): Promise<SandboxInfo> {
    return this.#connection.json("GET", at(id), options);
  }

  /**
   * A sandbox that was started elsewhere, or before this page was loaded.
   *
   * @param options - `after`: number of the last piece of output that is not wanted
   */
  async attach(
    id: string,
    options: CallOptions & { after?: number | undefined } = {},
  ): Promise<Sandbox> {
    const { after, signal } = options;
    return new Sandbox(this.#connection, await this.get(id, { signal }), { after, signal });
  }

  /** Ends a sandbox, and gives it as it ended. */
  stop(id: string, options: StopOptions = {}): Promise<SandboxInfo> {
    const { graceSeconds, signal } = options;
    const request = present({ grace_seconds: graceSeconds });
    return this.#connection.json("POST", `${at(id)}/stop`, { signal }, request);
  }

  /** Forgets a sandbox with its output; one that runs only with `force`. */
  remove(id: string, options: RemoveOptions = {}): Promise<void> {
    const { force, signal } = options;
    return this.#connection.done("DELETE", `${at(id)}${query({ force })}`, { signal });
  }
}

/**
 * A sandbox with its main process. It runs on when nobody looks: end it by {@link Sandbox.stop}, by
 * {@link Sandbox.remove} with `force`, or let `timeoutSeconds` or `stopOnDisconnect` do so.
 */
export class Sandbox extends SandboxProcess {
  /** As the service described it when it was asked for; {@link Sandbox.inspect} tells how it is now. */
  readonly info: SandboxInfo;
  readonly #connection: Connection;
  readonly #signal: AbortSignal | undefined;

  /** @internal */
  constructor(connection: Connection, info: SandboxInfo, options: ProcessOptions) {
    super(connection, info.id, "main", options);
    this.info = info;
    this.#connection = connection;
    this.#signal = options.signal;
  }

  /** Names the sandbox; sorts by time. */
  get id(): string {
    return this.sandbox;
  }

  /** What is known of it now. */
  inspect(options: CallOptions = {}): Promise<SandboxInfo> {
    return this.#all.get(this.id, options);
  }

  /** Starts a further command. Its output, input and end are those of the main process in kind. */
  async exec(args: readonly string[], options: ExecOptions = {}): Promise<SandboxProcess> {
    const signal = options.signal ?? this.#signal;
    const request: ExecRequest = { ...process(options), args: [...args] };
    const asked = { signal, once: true };
    const name = await this.#connection.json<ProcessName>("POST", `${at(this.id)}/exec`, asked, request);
    return new SandboxProcess(this.#connection, name.sandbox, name.process, { signal });
  }

  /**
   * A command that was started elsewhere.
   *
   * @param options - `after`: number of the last piece of output that is not wanted
   */
  attach(name: string, options: CallOptions & { after?: number | undefined } = {}): SandboxProcess {
    const { after, signal = this.#signal } = options;
    return new SandboxProcess(this.#connection, this.id, name, { after, signal });
  }

  /** Ends it, and gives it as it ended. */
  stop(options: StopOptions = {}): Promise<SandboxInfo> {
    return this.#all.stop(this.id, options);
  }

  /** Forgets it with its output; while it runs only with `force`. */
  remove(options: RemoveOptions = {}): Promise<void> {
    // The end comes here from the node itself, and the service may not know of it yet.
    const force = options.force ?? (this.hasEnded || undefined);
    return this.#all.remove(this.id, { ...options, force });
  }

  /** @internal */
  protected override async lookUp(options: CallOptions): Promise<ProcessEnd | ServiceError | undefined> {
    const info = await this.inspect(options);
    switch (info.state) {
      case "starting":
      case "running":
        return undefined;
      case "exited":
        if (typeof info.exit_code !== "number") {
          throw strange(this.#connection.server, "a sandbox exited without an exit code");
        }
        return { exitCode: info.exit_code, endedBy: info.ended_by ?? null };
      default:
        return new ServiceError(info.error ?? lost(info));
    }
  }

  get #all(): Sandboxes {
    return new Sandboxes(this.#connection);
  }
}

/** What commands and sandboxes are given alike. */
function process({ env, workdir, user, tty, stdin = false }: ExecOptions): Omit<ExecRequest, "args"> {
  const size = tty === true ? { rows: 24, cols: 80 } : tty || undefined;
  const given = present({ env: env && { ...env }, workdir, user, tty: size });
  return { ...given, stdin: stdin || size !== undefined };
}

function lost({ id, node }: SandboxInfo): ConstructorParameters<typeof ServiceError>[0] {
  return {
    type: "urn:chalk:node-lost",
    title: `the sandbox ${id} was lost`,
    status: 503,
    detail: `its node ${node} ended under it`,
  };
}

function at(id: string): string {
  return `/v1/sandboxes/${segment(id)}`;
}
