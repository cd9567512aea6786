/**
 * Requests to one service.
 */

import { ChalkError, checkAborted } from "../error.js";
import { problemOf, strange, unreachable } from "./problem.js";
import { fetchWithProgress } from "./progress-fetch.js";

/** Options of a {@link Client}. */
export interface ClientOptions {
  /** Address of the service: `http://127.0.0.1:7474`. */
  server: string;
  /** Its bearer token; `chalk web` prints one in an address, and the state directory's file `token` holds it. */
  token: string;
  /** In place of the host's `fetch`. */
  fetch?: typeof fetch | undefined;
  /**
   * Milliseconds that a service may stay out of reach while a build, warm or sandbox is followed, before
   * following it fails. 60,000 unless given: long enough to restart a service.
   */
  patience?: number | undefined;
}

/** Options of every call. */
export interface CallOptions {
  /** Gives up when it fires; the error has the code `aborted` and the name `AbortError`. */
  signal?: AbortSignal | undefined;
}

/** What a request carries. */
export interface Sent extends CallOptions {
  headers?: Record<string, string>;
  body?: BodyInit;
  /** Needed by hosts that send a body which is a stream. */
  duplex?: "half";
  /** It must not be sent twice: where it is not known whether it arrived, it counts as failed. */
  once?: boolean;
  /** Told how many bytes of the body are on their way, by hosts that say so of a body they read themselves. */
  onSent?: (bytes: number) => void;
}

const PATIENCE = 60_000;

/** An address and a token that were looked at. */
export class Connection {
  /** Address without a slash at its end. */
  readonly server: string;
  /** See {@link ClientOptions.patience}. */
  readonly patience: number;
  readonly #token: string;
  readonly #fetch: typeof fetch;
  readonly #ownFetch: boolean;

  constructor({ server, token, fetch: given, patience = PATIENCE }: ClientOptions) {
    this.server = address(server);
    // What a header cannot carry is no token, and must not be repeated in an error of the host.
    if (typeof token !== "string" || !/^[\x21-\x7e]+$/.test(token)) {
      throw new ChalkError({
        code: "value",
        path: "token",
        reason: "not a token",
        hint: "give the text that `chalk serve` keeps in the file `token` of its state directory",
      });
    }
    if (!(patience >= 0)) {
      throw new ChalkError({ code: "value", path: "patience", reason: "expected milliseconds" });
    }
    this.#token = token;
    this.patience = patience;
    // Browsers refuse a `fetch` that is called as a method of anything else.
    this.#ownFetch = given !== undefined;
    const call = given ?? globalThis.fetch;
    this.#fetch = (input, init) => call(input, init);
  }

  /**
   * Sends a request and gives the answer, whose body is not read yet.
   *
   * @throws {@link ChalkError} of the service, `unreachable`, or `aborted`
   */
  async send(method: string, path: string, sent: Sent = {}): Promise<Response> {
    const { headers, signal, onSent, once = false, ...rest } = sent;
    checkAborted(signal);
    const request = {
      ...rest,
      method,
      headers: { ...headers, authorization: `Bearer ${this.#token}` },
      signal: signal ?? null,
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
      referrerPolicy: "no-referrer",
    } as RequestInit;
    const watched = onSent && !this.#ownFetch ? fetchWithProgress(onSent) : undefined;
    const ask = () => (watched ?? this.#fetch)(`${this.server}${path}`, request);
    let response: Response;
    try {
      // Most calls may be repeated: a build that runs is shared, and blobs are named by their contents.
      response = await ask().catch((error: unknown) => {
        if (!wasStale(error) || sent.duplex || once) throw error;
        return ask();
      });
    } catch (error) {
      throw unreachable(this.server, error, signal);
    }
    if (response.ok) return response;
    const problem = await problemOf(response);
    checkAborted(signal);
    throw problem;
  }

  /** Sends a request whose answer says nothing but that it is done. */
  async done(method: string, path: string, sent: Sent): Promise<void> {
    const response = await this.send(method, path, sent);
    await response.body?.cancel();
  }

  /** Sends a request, with a document if one is given, and reads the document that is answered. */
  async json<T>(
    method: string,
    path: string,
    { signal, once = false }: Pick<Sent, "signal" | "once">,
    document?: unknown,
  ): Promise<T> {
    const sent: Sent = { signal, once };
    if (document !== undefined) {
      sent.body = JSON.stringify(document);
      sent.headers = { "content-type": "application/json" };
    }
    const response = await this.send(method, path, sent);
    let text: string;
    try {
      text = await response.text();
    } catch (error) {
      throw unreachable(this.server, error, signal);
    }
    try {
      return JSON.parse(text) as T;
    } catch (error) {
      throw strange(this.server, "its answer is no JSON", error);
    }
  }
}

/**
 * Whether a connection that Node kept open from an earlier request was closed at the other end, as by
 * a service that restarted. Browsers ask again by themselves.
 */
function wasStale(error: unknown): boolean {
  const cause = (error as { cause?: { code?: unknown } } | undefined)?.cause;
  return ["UND_ERR_SOCKET", "ECONNRESET", "EPIPE"].includes(String(cause?.code));
}

/** One word of a path: a hash, a name, an id. */
export function segment(text: string): string {
  return encodeURIComponent(text);
}

/** The fields that were given. */
export function present<T extends object>(fields: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  const given = Object.entries(fields).filter(([, value]) => value !== undefined);
  return Object.fromEntries(given) as { [K in keyof T]?: Exclude<T[K], undefined> };
}

/** What stands behind the `?`, if anything does. */
export function query(parameters: Record<string, string | number | boolean | undefined>): string {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== undefined) search.set(name, String(value));
  }
  const text = search.toString();
  return text && `?${text}`;
}

function address(server: string): string {
  let url: URL | undefined;
  try {
    url = new URL(server);
  } catch {
    // Told below.
  }
  if (!url || !["http:", "https:"].includes(url.protocol) || url.username || url.password) {
    throw new ChalkError({
      code: "value",
      path: "server",
      reason: "not the address of a service",
      hint: "give http://HOST:PORT or https://HOST:PORT",
    });
  }
  return `${url.origin}${url.pathname.replace(/\/+$/, "")}`;
}
