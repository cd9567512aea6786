// A running `chalk serve` on a state directory of its own, with the base image imported.
//
// `cargo xtask test` sets CHALK_TEST_BIN, the `chalk` command, and CHALK_TEST_BASE, a base image in a
// form that `chalk compute image import` takes.

import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, open, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

import { Client } from "chalkcompute";

const { CHALK_TEST_BIN: BIN, CHALK_TEST_BASE: BASE } = process.env;

/** Why there is no real service here, if there is none. */
export const missing = BIN && BASE ? false : "CHALK_TEST_BIN and CHALK_TEST_BASE are not set";

/** The reference that the base is imported under. */
export const PYTHON = "docker.io/library/python:3.12-slim-bookworm";

/** Longest that a start or a stop may take on a busy machine, in milliseconds. */
const PATIENCE = 60_000;

export class RealService {
  url = "";
  token = "";
  #dir;
  #process;
  #log;
  #words;

  /** Starts a service, with further words of `chalk serve`, and imports the base. */
  static async start(...words) {
    const service = new RealService();
    service.#words = words;
    service.#dir = await mkdtemp(join(tmpdir(), "chalk-service-"));
    await service.launch();
    await service.chalk("compute", "image", "import", BASE, "--as", PYTHON);
    return service;
  }

  /** Starts the process, again on the same address after it ended. */
  async launch() {
    const state = join(this.#dir, "state");
    const listen = this.url ? new URL(this.url).host : "127.0.0.1:0";
    this.#log = await open(join(this.#dir, "log"), "a");
    const output = ["ignore", this.#log.fd, this.#log.fd];
    const words = ["--state", state, "serve", "--listen", listen, ...this.#words];
    this.#process = spawn(BIN, words, { stdio: output });
    const { pid } = this.#process;
    for (const until = Date.now() + PATIENCE; ; ) {
      const known = await readFile(join(state, "service.json"), "utf8").then(JSON.parse, () => ({}));
      if (known.pid === pid) {
        this.url = known.url;
        break;
      }
      if (this.#process.exitCode !== null || Date.now() > until) {
        throw new Error(`the service did not start:\n${await readFile(join(this.#dir, "log"), "utf8")}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    this.token = (await readFile(join(state, "token"), "utf8")).trim();
  }

  /** Ends the process by a signal. */
  async end(signal) {
    const ended = once(this.#process, "exit");
    this.#process.kill(signal);
    await ended;
    await this.#log.close();
  }

  /** Ends the service and removes all that it kept. */
  async remove() {
    if (this.#process.exitCode === null && this.#process.signalCode === null) await this.end("SIGTERM");
    await rm(this.#dir, { recursive: true, force: true });
  }

  client(options = {}) {
    return new Client({ server: this.url, token: this.token, ...options });
  }

  /** Runs the command against this service and gives its standard output. */
  async chalk(...words) {
    const run = promisify(execFile);
    const { stdout } = await run(BIN, ["--state", join(this.#dir, "state"), ...words]);
    return stdout;
  }
}
