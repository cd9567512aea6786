// A running `chalk serve` on a state directory of its own, with the base image imported.

import { once } from "node:events";
import { closeSync, openSync, readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";

import { PYTHON, chalk, environment } from "./chalk.mjs";
import { folder, start } from "./cleanup.mjs";
import { variable } from "./variable.mjs";

/** Longest that a start may take on a busy machine, in milliseconds. */
const PATIENCE = 300_000;

export class Service {
  /** `http://host:port`. */
  url = "";
  #dir = folder("service");
  #process;

  static async start() {
    const service = new Service();
    await service.chalk("compute", "image", "import", variable("CHALK_TEST_BASE"), "--as", PYTHON);
    await service.launch();
    return service;
  }

  get state() {
    return join(this.#dir, "state");
  }

  get #log() {
    return join(this.#dir, "log");
  }

  /** Starts the process, again on the same address after it ended. */
  async launch() {
    const listen = this.url ? new URL(this.url).host : "127.0.0.1:0";
    const words = ["--state", this.state, "serve", "--listen", listen, "--node"];
    const log = openSync(this.#log, "a");
    const stdio = ["ignore", log, log];
    this.#process = start(variable("CHALK_TEST_BIN"), words, { stdio, env: environment() });
    closeSync(log);
    const { pid } = this.#process;
    for (const until = Date.now() + PATIENCE; ; await pause(20)) {
      // A file that a killed service left behind names another process.
      const known = await readFile(join(this.state, "service.json"), "utf8").then(JSON.parse, () => ({}));
      if (known.pid === pid) {
        this.url = known.url;
        return;
      }
      if (this.#process.exitCode !== null || Date.now() > until) {
        throw new Error(`the service did not start:\n${readFileSync(this.#log, "utf8")}`);
      }
    }
  }

  /** Ends the process by a signal. */
  async end(signal) {
    this.#process.ref();
    const ended = once(this.#process, "exit");
    this.#process.kill(signal);
    await ended;
  }

  /** Runs a command on the service's state directory and gives its standard output. */
  chalk(...words) {
    return chalk(this.state, ...words);
  }

  /** The page's address with the token, as `chalk web` prints it. */
  async address() {
    return (await this.chalk("web")).trim();
  }

  async token() {
    return (await readFile(join(this.state, "token"), "utf8")).trim();
  }
}
