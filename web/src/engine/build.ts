import type { Build, BuildEvent, Progress } from "chalkcompute/slim";
import type { Answer, BuildPhase } from "./protocol.js";

/** Log lines are told together, at most this often, in milliseconds. */
const LOG_EVERY = 50;

/** Tells the page of a build in its own words. */
export class BuildTeller {
  #lines: string[] = [];
  #timer = 0;
  /** A piece of output that is not a whole line yet, by step. */
  readonly #partial = new Map<number, string>();

  constructor(private readonly tell: (answer: Answer) => void) {}

  phase(phase: BuildPhase, text: string): void {
    this.tell({ type: "build-phase", phase, text });
  }

  upload({ files, filesTotal, bytes, bytesTotal }: Progress): void {
    this.phase("uploading", `uploading ${files} of ${filesTotal} blobs, ${share(bytes, bytesTotal)}`);
  }

  event(event: BuildEvent): void {
    switch (event.type) {
      case "queued":
        return this.phase("queued", event.ahead > 0 ? `waiting, ${event.ahead} before it` : "waiting for a place");
      case "started":
        this.tell({ type: "build-started", steps: event.steps.map(({ kind, key, title }) => ({ kind, key, title })) });
        return this.phase("running", "running");
      case "pulling":
        return this.phase("running", `pulling ${event.image}, ${share(event.done, event.total)}`);
      case "step_started":
        this.#step(event.step, "running", null);
        return this.phase("running", `running step ${event.step + 1}`);
      case "step_cached":
        return this.#step(event.step, "cached", null);
      case "step_done":
        return this.#step(event.step, "ran", event.seconds);
      case "step_failed":
        this.#line(event.step, event.message);
        return this.#step(event.step, "failed", event.seconds ?? null);
      case "log":
        return this.#log(event.step, event.text);
      case "warning":
        return this.#add(`warning: ${event.message}`);
      case "pushed":
      case "finished":
    }
  }

  end({ status, image, digest, seconds, error }: Build): void {
    for (const [step, text] of this.#partial) this.#line(step, text);
    this.#partial.clear();
    if (error) this.#add([error.title, error.detail, error.hint].filter(Boolean).join(": "));
    this.flush();
    this.tell({ type: "build-ended", status, image: image ?? null, digest: digest ?? null, seconds });
  }

  flush(): void {
    clearTimeout(this.#timer);
    this.#timer = 0;
    if (this.#lines.length === 0) return;
    this.tell({ type: "build-log", lines: this.#lines });
    this.#lines = [];
  }

  #step(step: number, state: "running" | "cached" | "ran" | "failed", seconds: number | null): void {
    if (state !== "running") this.#end(step);
    this.flush();
    this.tell({ type: "build-step", step, state, seconds });
  }

  #log(step: number, text: string): void {
    const lines = ((this.#partial.get(step) ?? "") + text).split("\n");
    this.#partial.set(step, lines.pop() ?? "");
    for (const line of lines) this.#line(step, line);
  }

  #end(step: number): void {
    const rest = this.#partial.get(step);
    if (rest) this.#line(step, rest);
    this.#partial.delete(step);
  }

  #line(step: number, text: string): void {
    // What a terminal would have shown of a line that was drawn over and over.
    const shown = text.replace(/\r$/, "").replace(/^.*\r/, "").replace(ESCAPES, "");
    this.#add(`#${step + 1} ${shown}`);
  }

  #add(line: string): void {
    this.#lines.push(line);
    this.#timer ||= setTimeout(() => this.flush(), LOG_EVERY);
  }
}

const ESCAPES = /\u001b(?:\[[0-?]*[ -/]*[@-~]|\][^\u0007\u001b]*(?:\u0007|\u001b\\)?|[@-_])/g;

function share(done: number, total: number): string {
  return total > 0 ? `${Math.floor((100 * done) / total)} %` : `${(done / 1e6).toFixed(1)} MB`;
}
