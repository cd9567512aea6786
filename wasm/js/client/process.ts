/**
 * A process in a sandbox, as its client sees it.
 */

import { ChalkError } from "../error.js";
import type { OutputEvent, SandboxEnd, TerminalSize } from "../generated/wire.js";
import { type CallOptions, type Connection, segment } from "./connection.js";
import { type Feed, ended, follow } from "./follow.js";
import { type OutputItem, ProcessOutput, itemOf } from "./output.js";
import { ServiceError, strange } from "./problem.js";

/** How a process ended. */
export interface ProcessEnd {
  /** Its exit code; 128 and the signal's number when one ended it. */
  readonly exitCode: number;
  /** What ended it from outside, if anything did. */
  readonly endedBy: SandboxEnd | null;
}

/** @internal */
export interface ProcessOptions extends CallOptions {
  /** Output up to this number is not wanted. */
  after?: number | undefined;
}

/** Most bytes of input that go in one request. */
const INPUT_PIECE = 256 * 1024;

/**
 * A process that runs in a sandbox, or ran there. Reading its output, waiting for its end and writing its
 * input are independent of one another, and go on after broken connections and restarts of the service:
 * no output comes twice, and none is lost unseen.
 *
 * @example
 * ```ts
 * const process = await sandbox.exec(["sort"], { stdin: true });
 * await process.write("b\na\n");
 * await process.closeStdin();
 * console.log(await process.stdout.text(), (await process.wait()).exitCode);
 * ```
 */
export class SandboxProcess {
  /** Names the sandbox; sorts by time. */
  readonly sandbox: string;
  /** Names the process within the sandbox; the first one is called `main`. */
  readonly process: string;
  /** Standard output; all output of a process that has a terminal. */
  readonly stdout: ProcessOutput;
  /** Standard error; nothing of a process that has a terminal. */
  readonly stderr: ProcessOutput;
  /**
   * Both in the order in which the service got them, over one connection, and where some was dropped. Each
   * iteration begins anew, at the oldest output that is kept.
   */
  readonly output: AsyncIterable<OutputItem>;
  readonly #connection: Connection;
  readonly #after: number;
  readonly #signal: AbortSignal | undefined;
  /** The last event that any iteration gave. */
  #seen: number;
  #end: ProcessEnd | ServiceError | undefined;
  /** What was written last; what comes next waits for it. */
  #written: Promise<unknown> = Promise.resolve();
  #closed = false;

  /** @internal */
  constructor(
    connection: Connection,
    sandbox: string,
    process: string,
    { after = 0, signal }: ProcessOptions,
  ) {
    this.sandbox = sandbox;
    this.process = process;
    this.#connection = connection;
    this.#after = this.#seen = after;
    this.#signal = signal;
    const items = () => this.#items();
    this.output = { [Symbol.asyncIterator]: items };
    this.stdout = new ProcessOutput(items, "stdout");
    this.stderr = new ProcessOutput(items, "stderr");
  }

  /**
   * Waits until the process has ended, without reading its output.
   *
   * @throws {@link ServiceError} when it could not be started, or was lost: `node-lost`,
   *   `sandbox-refused` and others
   */
  async wait(options: CallOptions = {}): Promise<ProcessEnd> {
    const signal = options.signal ?? this.#signal;
    if (this.#end) return good(this.#end);
    const end = await ended(this.#connection, this.#feed, { signal }, async (event) => {
      if (event) this.#ends(event);
      this.#end ??= await this.lookUp({ signal });
      return this.#end;
    });
    return good(end);
  }

  /** Whether its end has been told here. @internal */
  protected get hasEnded(): boolean {
    return this.#end !== undefined;
  }

  /** How the process ended, where the service did not say when asked for nothing else. @internal */
  protected async lookUp(options: CallOptions): Promise<ProcessEnd | ServiceError | undefined> {
    for await (const event of follow(this.#connection, this.#feed, this.#seen, options)) this.#ends(event);
    return this.#end;
  }

  /**
   * Writes to standard input, which the process must have been given (`stdin: true`, or `tty`). Done when
   * the process, or its pipe, has taken all of it. Texts go as UTF-8. Several calls keep their order; after
   * one that failed the others fail too, since what they bring would follow a gap.
   */
  write(data: string | Uint8Array | ArrayBuffer, options: CallOptions = {}): Promise<void> {
    const bytes = copyOf(data);
    return this.#input(async (path) => {
      for (let at = 0; at < bytes.length; at += INPUT_PIECE) {
        const body = bytes.subarray(at, at + INPUT_PIECE);
        await this.#connection.done("POST", path, { ...this.#sent(options), headers: BYTES, body });
      }
    });
  }

  /** Ends standard input, when what was written before has been taken. */
  closeStdin(options: CallOptions = {}): Promise<void> {
    const closed = this.#input((path) =>
      this.#connection.done("POST", `${path}?close=true`, { ...this.#sent(options), headers: BYTES }),
    );
    this.#closed = true;
    return closed;
  }

  #input(send: (path: string) => Promise<void>): Promise<void> {
    if (this.#closed) {
      return Promise.reject(
        new ChalkError({ code: "conflict", reason: "standard input was closed before", hint: "write before `closeStdin`" }),
      );
    }
    const sent = this.#written.then(() => send(`${this.#path}/input`));
    this.#written = sent;
    // Whoever awaits it is told; nobody has to.
    this.#written.catch(() => {});
    return sent;
  }

  /** Tells the process that its terminal has another size. */
  resize(size: TerminalSize, options: CallOptions = {}): Promise<void> {
    const { rows, cols } = size;
    return this.#tell("resize", { rows, cols }, options);
  }

  /** Sends a signal, by name (`TERM`, `SIGTERM`) or number. */
  signal(signal: string | number, options: CallOptions = {}): Promise<void> {
    return this.#tell("signal", { signal: String(signal) }, options);
  }

  #tell(call: string, document: unknown, options: CallOptions): Promise<void> {
    const headers = { "content-type": "application/json" };
    const body = JSON.stringify(document);
    return this.#connection.done("POST", `${this.#path}/${call}`, { ...this.#sent(options), headers, body });
  }

  async *#items(): AsyncGenerator<OutputItem, void, undefined> {
    const connection = this.#connection;
    for await (const event of follow(connection, this.#feed, this.#after, { signal: this.#signal })) {
      this.#seen = Math.max(this.#seen, event.seq);
      let item: OutputItem | undefined;
      try {
        item = itemOf(event);
      } catch (error) {
        throw strange(connection.server, "output is no base64", error);
      }
      if (item) yield item;
      else this.#ends(event);
    }
    if (this.#end) good(this.#end);
  }

  /** Takes note of an end. */
  #ends(event: OutputEvent): void {
    if (event.type === "failed") this.#end = new ServiceError(event.error);
    else if (event.type === "exited") this.#end = { exitCode: event.code, endedBy: event.ended_by ?? null };
  }

  get #path(): string {
    return `/v1/sandboxes/${segment(this.sandbox)}/processes/${segment(this.process)}`;
  }

  get #feed(): Feed<OutputEvent> {
    return {
      path: `${this.#path}/output?follow=true`,
      of: "process",
      isEnd: ({ type }) => type === "exited" || type === "failed",
      isGap: ({ type }) => type === "dropped",
      tellsEnd: true,
    };
  }

  /** What is written must not be written twice. */
  #sent({ signal }: CallOptions): { signal: AbortSignal | undefined; once: true } {
    return { signal: signal ?? this.#signal, once: true };
  }
}

const BYTES = { "content-type": "application/octet-stream" };

/** Bytes that nobody changes while they wait. */
function copyOf(data: string | Uint8Array | ArrayBuffer): Uint8Array<ArrayBuffer> {
  if (typeof data === "string") return new TextEncoder().encode(data);
  return new Uint8Array(data instanceof ArrayBuffer ? data.slice(0) : data);
}

function good(end: ProcessEnd | ServiceError): ProcessEnd {
  if (end instanceof ServiceError) throw end;
  return end;
}
