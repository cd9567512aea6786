/**
 * What a process in a sandbox prints.
 */

import type { OutputEvent, Stream } from "../generated/wire.js";

/** A piece of output, or a gap in it. */
export type OutputItem =
  | {
      readonly type: "output";
      /** Number of the piece; whoever goes on later asks for what comes after it. */
      readonly seq: number;
      /** Everything that a terminal shows is standard output. */
      readonly stream: Stream;
      readonly data: Uint8Array<ArrayBuffer>;
    }
  | {
      readonly type: "dropped";
      readonly seq: number;
      /** Bytes that are lost: nobody read them in time, or more was printed than is kept. */
      readonly bytes: number;
    };

/** An event of the wire as an item; `undefined` when it is neither output nor a gap. */
export function itemOf(event: OutputEvent): OutputItem | undefined {
  const { seq } = event;
  if (event.type === "output") {
    return { type: "output", seq, stream: event.stream, data: fromBase64(event.data) };
  }
  return event.type === "dropped" ? { type: "dropped", seq, bytes: event.bytes } : undefined;
}

/**
 * One of the streams of a process: iterate it for bytes as they come, or ask for {@link ProcessOutput.lines}
 * or the whole {@link ProcessOutput.text}. Every iteration begins anew, with a connection of its own, at
 * the oldest output that is kept.
 */
export class ProcessOutput implements AsyncIterable<Uint8Array> {
  readonly #follow: () => AsyncIterable<OutputItem>;
  readonly #stream: Stream;
  #dropped = 0;

  /** @internal */
  constructor(follow: () => AsyncIterable<OutputItem>, stream: Stream) {
    this.#follow = follow;
    this.#stream = stream;
  }

  /**
   * Bytes of the process that the last iteration did not get, since nobody read them in time or more was
   * printed than is kept. `output` of the process tells where.
   */
  get dropped(): number {
    return this.#dropped;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array<ArrayBuffer>, void, undefined> {
    this.#dropped = 0;
    for await (const item of this.#follow()) {
      if (item.type === "dropped") this.#dropped += item.bytes;
      else if (item.stream === this.#stream) yield item.data;
    }
  }

  /** All of it as text, when the process has ended. Bytes that are not UTF-8 are replaced. */
  async text(): Promise<string> {
    let whole = "";
    for await (const text of this.#texts()) whole += text;
    return whole;
  }

  /** Lines as they come, without their ends. */
  async *lines(): AsyncGenerator<string, void, undefined> {
    let rest = "";
    for await (const text of this.#texts()) {
      const lines = text.split("\n");
      lines[0] = rest + (lines[0] ?? "");
      rest = lines.pop() ?? "";
      for (const line of lines) yield line.endsWith("\r") ? line.slice(0, -1) : line;
    }
    if (rest !== "") yield rest;
  }

  async *#texts(): AsyncGenerator<string, void, undefined> {
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    for await (const bytes of this) yield decoder.decode(bytes, { stream: true });
    yield decoder.decode();
  }
}

/** @throws when the text is no base64 */
function fromBase64(text: string): Uint8Array<ArrayBuffer> {
  const { fromBase64: native } = Uint8Array as { fromBase64?: (text: string) => Uint8Array<ArrayBuffer> };
  if (native) return native.call(Uint8Array, text);
  const bytes = new Uint8Array(Math.floor((text.length * 3) / 4));
  const binary = atob(text);
  for (let at = 0; at < binary.length; at += 1) bytes[at] = binary.charCodeAt(at);
  return bytes.subarray(0, binary.length);
}
