/**
 * One build, as its client sees it.
 */

import type { Build, BuildEvent } from "../generated/wire.js";
import { type CallOptions, type Connection, segment } from "./connection.js";
import { type Feed, ended, follow } from "./follow.js";

/** Events of a build. */
export function eventsOf(connection: Connection, id: string): Feed<BuildEvent> {
  return {
    path: `/v1/builds/${segment(id)}/events`,
    of: "build",
    isEnd: ({ type }) => type === "finished",
    isOver: async (signal) => (await finished(connection, id, { signal })) !== undefined,
  };
}

/** The build, if nothing will change any more. */
async function finished(connection: Connection, id: string, options: CallOptions): Promise<Build | undefined> {
  const build = await connection.json<Build>("GET", `/v1/builds/${segment(id)}`, options);
  return build.status === "queued" || build.status === "running" ? undefined : build;
}

/** @internal */
export interface RunOptions extends CallOptions {
  /** The build as the service answered it, where it did. */
  build?: Build;
  /** Events up to this number are not wanted. */
  after?: number;
  /** Tells the service at once that this client is gone when the signal fires. */
  leaves?: boolean;
}

/**
 * A build that runs, waits or is over. Iterate it for its events, await {@link BuildRun.done} for its
 * end, or both. Every iteration gives all events from the first on, each once and in order, over
 * broken connections and restarts of the service.
 *
 * @example
 * ```ts
 * const run = await client.build(image);
 * for await (const event of run) {
 *   if (event.type === "log") process.stdout.write(event.text);
 * }
 * const build = await run.done;
 * if (build.error) throw new Error(build.error.title);
 * ```
 */
export class BuildRun implements AsyncIterable<BuildEvent> {
  /** Names the build; sorts by time. */
  readonly id: string;
  readonly #connection: Connection;
  readonly #after: number;
  readonly #signal: AbortSignal | undefined;
  #over: Build | undefined;
  #done: Promise<Build> | undefined;
  #leave: (() => void) | undefined;

  /** @internal */
  constructor(connection: Connection, id: string, { build, after = 0, leaves, signal }: RunOptions) {
    this.id = id;
    this.#connection = connection;
    this.#after = after;
    this.#signal = signal;
    if (build?.status === "reused") this.#over = build;
    else if (leaves && signal) {
      this.#leave = () => void this.#tellLeft();
      signal.addEventListener("abort", this.#leave, { once: true });
      if (signal.aborted) this.#leave();
    }
  }

  /**
   * The build as it ended, whether well or not: see its `status` and `error`. Rejects only when the
   * service cannot be asked, or the signal of the call fired.
   */
  get done(): Promise<Build> {
    this.#done ??= this.#over
      ? Promise.resolve(this.#over)
      : this.#ended().then((build) => this.#end(build));
    return this.#done;
  }

  #ended(): Promise<Build> {
    const connection = this.#connection;
    const options = { signal: this.#signal };
    return ended(connection, eventsOf(connection, this.id), options, () => finished(connection, this.id, options));
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<BuildEvent, void, undefined> {
    if (this.#over?.status === "reused") {
      // The service keeps no events of a build in which nothing happened.
      if (this.#after > 0) return;
      yield { seq: 1, time: this.#over.created, type: "finished", build: this.#over };
      return;
    }
    const signal = this.#signal;
    const connection = this.#connection;
    for await (const event of follow(connection, eventsOf(connection, this.id), this.#after, { signal })) {
      if (event.type === "finished") this.#end(event.build);
      yield event;
    }
  }

  /** Cancels the build, for everybody. Its events and {@link BuildRun.done} tell when it has ended. */
  cancel(options: CallOptions = {}): Promise<Build> {
    return this.#connection.json("DELETE", `/v1/builds/${segment(this.id)}`, options);
  }

  #end(build: Build): Build {
    this.#over = build;
    this.#done ??= Promise.resolve(build);
    if (this.#leave) this.#signal?.removeEventListener("abort", this.#leave);
    this.#leave = undefined;
    return build;
  }

  /** The service would find out by itself, after the time that it gives clients to come back. */
  async #tellLeft(): Promise<void> {
    try {
      await this.#connection.send("DELETE", `/v1/builds/${segment(this.id)}?leave=true`);
    } catch {
      // Then it finds out by itself.
    }
  }
}
