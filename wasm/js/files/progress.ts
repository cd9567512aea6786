/**
 * Telling the caller how far things are.
 */

import type { Progress } from "./tree.js";

/** Milliseconds between two reports. */
const INTERVAL = 50;

/** Counts, and reports now and then. */
export class Reporter {
  readonly #report: ((progress: Progress) => void) | undefined;
  #phase: Progress["phase"] | undefined;
  #files = 0;
  #filesTotal = 0;
  #bytes = 0;
  #bytesTotal = 0;
  #path: string | undefined;
  #next = 0;

  constructor(report: ((progress: Progress) => void) | undefined) {
    this.#report = report;
  }

  /** Goes over to another phase, or on with the same one for some more files. */
  phase(phase: Progress["phase"], files: number): void {
    if (phase !== this.#phase) {
      this.end();
      this.#phase = phase;
      this.#files = this.#filesTotal = this.#bytes = this.#bytesTotal = 0;
      this.#path = undefined;
    }
    this.#filesTotal += files;
    this.#tick(true);
  }

  /** Entries of a directory were listed. */
  found(dir: string, entries: number): void {
    this.#path = dir;
    this.#files += entries;
    this.#tick();
  }

  /** A file is begun. */
  begin(path: string, size: number): void {
    this.#path = path;
    this.#bytesTotal += size;
  }

  /** Bytes are done. */
  advance(bytes: number): void {
    this.#bytes += bytes;
    this.#tick();
  }

  /** A file is done. */
  done(): void {
    this.#files += 1;
    this.#tick();
  }

  /** The phase is over. */
  end(): void {
    this.#path = undefined;
    this.#tick(true);
  }

  #tick(always = false): void {
    if (!this.#report || !this.#phase) return;
    const now = performance.now();
    if (!always && now < this.#next) return;
    this.#next = now + INTERVAL;
    const progress: Progress = {
      phase: this.#phase,
      files: this.#files,
      filesTotal: this.#filesTotal,
      bytes: this.#bytes,
      bytesTotal: this.#bytesTotal,
      ...(this.#path === undefined ? {} : { path: this.#path }),
    };
    try {
      this.#report(progress);
    } catch (error) {
      // As with listeners of events: what they throw is nothing that reading could handle.
      queueMicrotask(() => {
        throw error;
      });
    }
  }
}
