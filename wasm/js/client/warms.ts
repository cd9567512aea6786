/**
 * Warms: images on their way into the caches of nodes.
 */

import type { Warm, WarmEvent } from "../generated/wire.js";
import { type CallOptions, type Connection, query, segment } from "./connection.js";
import { type Feed, follow } from "./follow.js";

/** Options of what waits for a warm. */
export interface WarmWaitOptions extends CallOptions {
  /** Told everything that happens, in order, each once. */
  onEvent?: ((event: WarmEvent) => void) | undefined;
}

/** Events of a warm. A lost node that comes back, or another try, goes on behind an end. */
function eventsOf(id: string): Feed<WarmEvent> {
  return {
    path: `${at(id)}/events`,
    of: "warm",
    isEnd: ({ type }) => type === "finished",
    reopens: true,
  };
}

/** Warms, past and present: {@link Client.warms}. {@link Client.warm} begins one. */
export class Warms {
  readonly #connection: Connection;

  /** @internal */
  constructor(connection: Connection) {
    this.#connection = connection;
  }

  /** Warms, newest first; `image` is the beginning of an image hash. */
  list(
    options: CallOptions & { limit?: number | undefined; image?: string | undefined } = {},
  ): Promise<Warm[]> {
    const { limit, image } = options;
    return this.#connection.json("GET", `/v1/warms${query({ limit, image })}`, options);
  }

  /** A warm as it is now: a receipt for each image and node. */
  get(id: string, options: CallOptions = {}): Promise<Warm> {
    return this.#connection.json("GET", at(id), options);
  }

  /** Gives up what is not ready yet. */
  cancel(id: string, options: CallOptions = {}): Promise<Warm> {
    return this.#connection.json("DELETE", at(id), options);
  }

  /** Lets what failed begin again. */
  retry(id: string, options: CallOptions = {}): Promise<Warm> {
    return this.#connection.json("POST", `${at(id)}/retry`, options);
  }

  /**
   * Everything that happens in a warm, from the first event on or after number `after`, each once and in
   * order, over broken connections and restarts of the service. Goes on behind a `finished` as long as the
   * service has more to tell.
   */
  events(
    id: string,
    options: CallOptions & { after?: number | undefined } = {},
  ): AsyncGenerator<WarmEvent, void, undefined> {
    const { after = 0, signal } = options;
    return follow(this.#connection, eventsOf(id), after, { signal });
  }

  /**
   * The warm as it ended, whether well or not: see its `status`, and `state` and `error` of each of its
   * `nodes`. Rejects only when the service cannot be asked, or the signal fired; the warm goes on then.
   */
  async wait(id: string, options: WarmWaitOptions = {}): Promise<Warm> {
    const { onEvent, signal } = options;
    for await (const event of this.events(id, { signal })) {
      onEvent?.(event);
      if (event.type !== "finished") continue;
      // It may be the end of a try before the last.
      const warm = await this.get(id, { signal });
      if (warm.status !== "running") return warm;
    }
    return this.get(id, { signal });
  }
}

function at(id: string): string {
  return `/v1/warms/${segment(id)}`;
}
