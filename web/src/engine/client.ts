/** The page's side of the engine's worker. */
import wasm from "chalkcompute/chalk.wasm?url";
import type { Answer, Request } from "./protocol.js";

export type Listener = (answer: Answer) => void;

/** Starts the worker and passes messages. */
export class Engine {
  readonly #worker: Worker;

  constructor(listener: Listener) {
    this.#worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module", name: "engine" });
    this.#worker.onmessage = (event: MessageEvent<Answer>) => listener(event.data);
    this.#worker.onerror = (event) => {
      event.preventDefault();
      listener({
        type: "unusable",
        message: event.message || "the script of the engine's worker cannot be loaded",
        hint: "reload the page; if that does not help, its files are incomplete or blocked by a policy",
      });
    };
    this.send({ type: "start", wasm: new URL(wasm, document.baseURI).href });
  }

  send(request: Request): void {
    this.#worker.postMessage(request);
  }
}
