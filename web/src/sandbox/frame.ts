/**
 * Script of `sandbox.html`, a document without an origin and without network. It runs each piece of
 * code in a worker of its own, ends it at the time limit, and passes the recording on to the page.
 * A worker is kept ready, so that an edit does not wait for one to start.
 */
import recorder from "virtual:recorder";
import type { RunMessage, SandboxMessage } from "./recording.js";

const address = URL.createObjectURL(new Blob([recorder], { type: "text/javascript" }));
/** How long after a run the next worker is started, in milliseconds: the page is at work then. */
const REST = 30;

let waiting: Worker | null = new Worker(address);
let refill = 0;
let running: { worker: Worker; timer: number } | null = null;

function start({ run, code, limitMs }: RunMessage): void {
  stop();
  clearTimeout(refill);
  const worker = waiting ?? new Worker(address);
  waiting = null;
  const timer = setTimeout(() => end({ run, outcome: "timeout" }), limitMs);
  running = { worker, timer };
  worker.onmessage = (event: MessageEvent<unknown>) => {
    if (typeof event.data === "string") end({ run, outcome: "recorded", text: event.data });
  };
  worker.onerror = (event) => {
    event.preventDefault();
    end({ run, outcome: "crashed", message: event.message || "the sandbox's worker ended" });
  };
  worker.postMessage(code);
}

function stop(): void {
  if (!running) return;
  clearTimeout(running.timer);
  running.worker.onmessage = running.worker.onerror = null;
  running.worker.terminate();
  running = null;
}

function end(message: SandboxMessage): void {
  stop();
  parent.postMessage(message, "*");
  refill = setTimeout(() => (waiting ??= new Worker(address)), REST);
}

addEventListener("message", (event: MessageEvent<RunMessage>) => {
  if (event.source === parent) start(event.data);
});
parent.postMessage({ ready: true } satisfies SandboxMessage, "*");
