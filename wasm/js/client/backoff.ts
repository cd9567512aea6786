/**
 * Waiting before asking again.
 */

import { aborted, checkAborted } from "../error.js";

/** Milliseconds of the first wait; each further one is twice as long. */
const FIRST = 100;
/** Longest wait. */
const LONGEST = 5_000;

/** Waits longer each time, and gives up when too much time went by. */
export class Backoff {
  readonly #patience: number;
  #failures = 0;
  #since: number | undefined;

  constructor(patience: number) {
    this.#patience = patience;
  }

  /** All is well again. */
  reset(): void {
    this.#failures = 0;
    this.#since = undefined;
  }

  /** Waits because of an error; throws it when patience is at its end. */
  async wait(error: unknown, signal: AbortSignal | undefined): Promise<void> {
    checkAborted(signal);
    const now = performance.now();
    this.#since ??= now;
    const left = this.#since + this.#patience - now;
    if (left <= 0) throw error;
    // Clients of a service that comes back must not come all at once.
    const delay = Math.min(FIRST * 2 ** this.#failures, LONGEST) * (0.5 + Math.random() / 2);
    this.#failures += 1;
    await sleep(Math.min(delay, left), signal);
  }
}

/** Lets time go by. @throws {@link ChalkError} `aborted` */
export function sleep(milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const giveUp = () => {
      clearTimeout(timer);
      if (signal) reject(aborted(signal));
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", giveUp);
      resolve();
    }, milliseconds);
    signal?.addEventListener("abort", giveUp, { once: true });
    if (signal?.aborted) giveUp();
  });
}
