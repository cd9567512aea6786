import type { Recording, RunMessage, SandboxMessage } from "./recording.js";

/** How long code may run. */
export const LIMIT_MS = 2_000;
/** How much longer the page waits for the sandbox to say so before it takes the sandbox down. */
const GRACE_MS = 1_000;
const START_MS = 10_000;

/** How a run ended. */
export type RunOutcome =
  | { outcome: "recorded"; recording: Recording }
  | { outcome: "timeout" }
  | { outcome: "crashed"; message: string };

/** Runs code in `sandbox.html`. A new run ends the one before, which then never answers. */
export class Sandbox {
  #frame: HTMLIFrameElement | null = null;
  #ready = false;
  #run = 0;
  #timer = 0;
  #code: string | null = null;
  /** Whether the code had no answer before, in a frame that was replaced since. */
  #again = false;
  #answer: ((outcome: RunOutcome) => void) | null = null;

  constructor(private readonly host: HTMLElement) {
    addEventListener("message", (event: MessageEvent<SandboxMessage>) => {
      if (this.#frame && event.source === this.#frame.contentWindow) this.#receive(event.data);
    });
  }

  /** Starts the sandbox ahead of the first run. */
  open(): void {
    if (this.#frame) return;
    const frame = document.createElement("iframe");
    frame.setAttribute("sandbox", "allow-scripts");
    frame.title = "Sandbox that runs the JavaScript";
    frame.hidden = true;
    frame.src = new URL("sandbox.html", document.baseURI).href;
    this.#ready = false;
    this.#frame = frame;
    this.host.append(frame);
  }

  run(code: string, answer: (outcome: RunOutcome) => void): void {
    this.open();
    this.#run += 1;
    this.#code = code;
    this.#again = false;
    this.#answer = answer;
    this.#wait(this.#ready ? LIMIT_MS + GRACE_MS : START_MS);
    if (this.#ready) this.#post();
  }

  /** Forgets the running code. */
  cancel(): void {
    clearTimeout(this.#timer);
    this.#answer = null;
    this.#code = null;
    this.#run += 1;
  }

  #post(): void {
    if (this.#code === null) return;
    const message: RunMessage = { run: this.#run, code: this.#code, limitMs: LIMIT_MS };
    // The frame has no origin that could be named; it is the page's own document, and the code is
    // the user's own.
    this.#frame?.contentWindow?.postMessage(message, "*");
  }

  #wait(ms: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#unanswered(), ms);
  }

  /** What ran before may have left the frame busy, so the code gets a second chance in a new one. */
  #unanswered(): void {
    const message = this.#ready ? "the sandbox does not answer" : "the sandbox did not start";
    this.#replace();
    if (this.#again) return this.#end({ outcome: "crashed", message });
    this.#again = true;
    this.#wait(START_MS);
  }

  #replace(): void {
    this.#frame?.remove();
    this.#frame = null;
    this.open();
  }

  #receive(message: SandboxMessage): void {
    if ("ready" in message) {
      this.#ready = true;
      if (this.#answer) this.#wait(LIMIT_MS + GRACE_MS);
      this.#post();
    } else if (message.run === this.#run) {
      // Code that had to be ended may have left work behind for the frame's own thread.
      if (message.outcome === "timeout") this.#replace();
      this.#end(message.outcome === "recorded" ? decode(message.text) : message);
    }
  }

  #end(outcome: RunOutcome): void {
    clearTimeout(this.#timer);
    const answer = this.#answer;
    this.#answer = null;
    this.#code = null;
    answer?.(outcome);
  }
}

function decode(text: string): RunOutcome {
  try {
    const recording = JSON.parse(text) as Recording;
    if (Array.isArray(recording.calls)) return { outcome: "recorded", recording };
  } catch {
    // Falls through: only code that took the recorder apart gets here.
  }
  return { outcome: "crashed", message: "the sandbox gave no readable answer" };
}
