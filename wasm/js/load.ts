/**
 * Fetching and compiling `chalk.wasm`.
 */

import { ChalkError } from "./error.js";

/** What the engine can be started from. */
export type EngineSource =
  | string
  | URL
  | Request
  | Response
  | PromiseLike<Response>
  | BufferSource
  | WebAssembly.Module;

/** Compiles while the file is still arriving, where the host can. */
export async function load(source: EngineSource): Promise<BufferSource | WebAssembly.Module> {
  if (source instanceof WebAssembly.Module) return source;
  if (source instanceof ArrayBuffer || ArrayBuffer.isView(source)) return source as BufferSource;
  const given = await source;
  if (given instanceof Response) return compile(given, given.url);
  const address = given instanceof Request ? given.url : String(given);
  let response: Response;
  try {
    response = await fetch(given as RequestInfo | URL);
  } catch (thrown) {
    throw unloadable(address, thrown instanceof Error ? thrown.message : String(thrown), thrown);
  }
  return compile(response, address);
}

async function compile(response: Response, address: string): Promise<BufferSource | WebAssembly.Module> {
  if (!response.ok) {
    throw unloadable(address, `the server answered ${response.status} ${response.statusText}`.trim());
  }
  // Servers that do not know the ending send another type, which the host refuses to stream.
  const type = response.headers.get("content-type")?.split(";")[0]?.trim().toLowerCase();
  if (type === "application/wasm" && typeof WebAssembly.compileStreaming === "function") {
    return WebAssembly.compileStreaming(response);
  }
  const bytes = await response.arrayBuffer();
  const start = new Uint8Array(bytes, 0, Math.min(4, bytes.byteLength));
  if (String.fromCharCode(...start) !== "\0asm") {
    throw unloadable(address, `the server answered with ${type ?? "something"}, not WebAssembly`);
  }
  return bytes;
}

function unloadable(address: string, reason: string, cause?: unknown): ChalkError {
  return new ChalkError({
    code: "engine",
    reason: `chalk.wasm cannot be loaded from ${address || "the response"}: ${reason}`,
    hint: "serve the file beside the script, or use chalkcompute/slim with an address of your own",
    cause,
  });
}
