/**
 * Warms: images on their way into the caches of nodes.
 */

import type { Warm, WarmEvent } from "../generated/wire.js";
import { type CallOptions, type Connection, query, segment } from "./connection.js";
import { type Feed, follow } from "./follow.js";

/** Options of what waits for a warm. */
export interface WarmWaitOptions extends CallOptions {
  /** Told what happens, in order, each once; of what happens fast the newest. */
  onEvent?: ((event: WarmEvent) => void) | undefined;
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
   * What happens in a warm, from the first event on or after number `after`, each once and in order, over
   * broken connections and restarts of the service. Whoever comes late, or is slow, is told the newest of
   * each node, not all that was. Goes on behind a `finished` as long as the service has more to tell: when a
   * node that was lost comes back, or another try begins.
   */
  events(
    id: string,
    options: CallOptions & { after?: number | undefined } = {},
  ): AsyncGenerator<WarmEvent, void, undefined> {
    const { after = 0, signal } = options;
    return follow(this.#connection, this.#events(id), after, { signal });
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

  #events(id: string): Feed<WarmEvent> {
    return {
      path: `${at(id)}/events`,
      of: "warm",
      isEnd: ({ type }) => type === "finished",
      // What is newer takes the place of what was.
      isGap: () => true,
      reopens: true,
      isOver: async (signal) => (await this.get(id, { signal })).status !== "running",
    };
  }
}

function at(id: string): string {
  return `/v1/warms/${segment(id)}`;
}
