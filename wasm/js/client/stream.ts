/**
 * Reading answers that come bit by bit.
 */

import { type Connection, type Sent } from "./connection.js";
import { unreachable } from "./problem.js";

/**
 * Gets a text piece by piece. Ends the request when the caller stops reading, and when nothing came
 * for `silence` milliseconds: a connection whose other end is gone says nothing of it.
 *
 * @throws {@link ChalkError} of the service, `unreachable` when it breaks off, or `aborted`
 */
export async function* pieces(
  connection: Connection,
  path: string,
  { signal, ...sent }: Sent,
  silence = Number.POSITIVE_INFINITY,
): AsyncGenerator<string, void, undefined> {
  const own = new AbortController();
  const giveUp = () => own.abort(signal?.reason);
  signal?.addEventListener("abort", giveUp, { once: true });
  if (signal?.aborted) giveUp();
  let timer: ReturnType<typeof setTimeout> | undefined;
  const watch = () => {
    clearTimeout(timer);
    if (silence < Number.POSITIVE_INFINITY) timer = setTimeout(silent, silence);
  };
  const silent = () => own.abort(new Error(`nothing came for ${Math.round(silence / 1000)} s`));
  try {
    watch();
    const response = await connection.send("GET", path, { ...sent, signal: own.signal });
    const reader = response.body?.getReader();
    const decoder = new TextDecoder();
    for (;;) {
      const { done, value } = (await reader?.read()) ?? { done: true, value: undefined };
      if (done) break;
      // While the caller is busy with a piece, silence is not the service's.
      clearTimeout(timer);
      const text = decoder.decode(value, { stream: true });
      if (text) yield text;
      watch();
    }
    const rest = decoder.decode();
    if (rest) yield rest;
  } catch (error) {
    if (signal?.aborted || !own.signal.aborted) throw unreachable(connection.server, error, signal);
    throw unreachable(connection.server, own.signal.reason);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", giveUp);
    own.abort();
  }
}
