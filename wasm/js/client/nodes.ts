/**
 * Nodes, what their caches hold, and the tokens that they join with.
 */

import type {
  CacheListing,
  GcReport,
  GcRequest,
  JoinToken,
  JoinTokenRequest,
  NodeInfo,
} from "../generated/wire.js";
import { type CallOptions, type Connection, present, segment } from "./connection.js";

/** Options of {@link Nodes.collect}. */
export interface CollectOptions extends CallOptions {
  /** Only says what would go. */
  dryRun?: boolean | undefined;
  /** Frees until at most this many bytes are used; everything that may go unless given. */
  targetBytes?: number | undefined;
}

/** Options of {@link JoinTokens.create}. */
export interface JoinTokenOptions extends CallOptions {
  /** Only for nodes of this region. */
  region?: string | undefined;
  /** Seconds until it expires; a day unless given. */
  ttlSeconds?: number | undefined;
  /** How many nodes may join with it; any number unless given. */
  uses?: number | undefined;
}

/** The hosts that run sandboxes: {@link Client.nodes}. */
export class Nodes {
  readonly #connection: Connection;

  /** @internal */
  constructor(connection: Connection) {
    this.#connection = connection;
  }

  /** All nodes by name, those that are not connected included. */
  list(options: CallOptions = {}): Promise<NodeInfo[]> {
    return this.#connection.json("GET", "/v1/nodes", options);
  }

  /** One node. */
  get(name: string, options: CallOptions = {}): Promise<NodeInfo> {
    return this.#connection.json("GET", at(name), options);
  }

  /** Lets a node take no new work; what runs there goes on. */
  drain(name: string, options: CallOptions = {}): Promise<NodeInfo> {
    return this.#connection.json("POST", at(name, "drain"), options);
  }

  /** Lets a node take work again. */
  undrain(name: string, options: CallOptions = {}): Promise<NodeInfo> {
    return this.#connection.json("POST", at(name, "undrain"), options);
  }

  /** Removes a node for good: its sandboxes end, and its token counts no more. */
  remove(name: string, options: CallOptions = {}): Promise<void> {
    return this.#connection.done("DELETE", at(name), options);
  }

  /** What the cache of a node holds, and why. */
  cache(name: string, options: CallOptions = {}): Promise<CacheListing> {
    return this.#connection.json("GET", at(name, "cache"), options);
  }

  /**
   * Removes an image from the cache of a node, with the layers that no other image there has.
   *
   * @param image - Prefix of its hash, a name, or the digest of its manifest
   */
  removeFromCache(name: string, image: string, options: CallOptions = {}): Promise<GcReport> {
    return this.#connection.json("DELETE", `${at(name, "cache")}/${segment(image)}`, options);
  }

  /**
   * Takes the pin of a warm off an image in the cache of a node, which may go then, once room is needed.
   *
   * @param image - Prefix of its hash, a name, or the digest of its manifest
   */
  unpin(name: string, image: string, options: CallOptions = {}): Promise<void> {
    return this.#connection.done("POST", `${at(name, "cache")}/${segment(image)}/unpin`, options);
  }

  /** Frees room in the cache of a node: what is neither pinned nor in use may go, the longest unused first. */
  collect(name: string, options: CollectOptions = {}): Promise<GcReport> {
    const { dryRun = false, targetBytes, signal } = options;
    const request: GcRequest = { dry_run: dryRun, ...present({ target_bytes: targetBytes }) };
    return this.#connection.json("POST", at(name, "cache/gc"), { signal }, request);
  }
}

/** Tokens by which nodes join: {@link Client.joinTokens}. */
export class JoinTokens {
  readonly #connection: Connection;

  /** @internal */
  constructor(connection: Connection) {
    this.#connection = connection;
  }

  /** Makes one. Its `token` is told here and never again. */
  create(options: JoinTokenOptions = {}): Promise<JoinToken> {
    const { region, ttlSeconds, uses, signal } = options;
    const request: JoinTokenRequest = present({ region, ttl_seconds: ttlSeconds, uses });
    return this.#connection.json("POST", "/v1/join-tokens", { signal, once: true }, request);
  }

  /** Those by which nodes may still join, without the tokens themselves. */
  list(options: CallOptions = {}): Promise<JoinToken[]> {
    return this.#connection.json("GET", "/v1/join-tokens", options);
  }

  /** Takes one back. Nodes that joined by it stay. */
  remove(id: string, options: CallOptions = {}): Promise<void> {
    return this.#connection.done("DELETE", `/v1/join-tokens/${segment(id)}`, options);
  }
}

function at(name: string, call = ""): string {
  return `/v1/nodes/${segment(name)}${call && `/${call}`}`;
}
