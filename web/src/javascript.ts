/** From JavaScript to a recording, or to what is wrong with it. */
import type { Fault } from "./engine/protocol.js";
import type { Place, Recording } from "./sandbox/recording.js";
import { LIMIT_MS, type RunOutcome, Sandbox } from "./sandbox/sandbox.js";
import { syntaxPlace } from "./sandbox/syntax.js";

/** Either a recording to make the image from, with notes about it, or faults. */
export interface JavaScriptResult {
  recording: Recording | null;
  notes: Fault[];
  faults: Fault[];
}

export class JavaScriptRunner {
  readonly #sandbox: Sandbox;

  constructor(host: HTMLElement) {
    this.#sandbox = new Sandbox(host);
  }

  /** Runs code; a later call takes the place of an earlier one. */
  run(code: string, answer: (result: JavaScriptResult) => void): void {
    this.#sandbox.run(code, (outcome) => {
      const result = resultOf(outcome);
      const error = outcome.outcome === "recorded" ? outcome.recording.error : null;
      // Browsers do not say where a module stops being JavaScript.
      if (error?.name !== "SyntaxError" || error.place) return answer(result);
      void syntaxPlace(code).then((place) => {
        answer({ ...result, faults: result.faults.map((fault) => ({ ...fault, ...place })) });
      });
    });
  }

  cancel(): void {
    this.#sandbox.cancel();
  }
}

function resultOf(outcome: RunOutcome): JavaScriptResult {
  if (outcome.outcome === "timeout") {
    return failed(`the code ran for ${LIMIT_MS / 1000} s and was ended`, "code that makes an image takes milliseconds: look for an endless loop");
  }
  if (outcome.outcome === "crashed") {
    return failed(`the sandbox ended: ${outcome.message}`, "look for what takes much memory, and edit the code to run it again");
  }
  const { recording } = outcome;
  const { error, asked } = recording;
  if (error) return { ...failed(`${error.name}: ${error.message}`, "", error.place), recording: null };
  const notes = asked
    ? [note("info", `the code was run up to \`${asked.method}\`, which the page answers itself`, "", asked.place)]
    : [];
  return { recording, notes, faults: [] };
}

function failed(message: string, hint: string, place: Place | null = null): JavaScriptResult {
  return { recording: null, notes: [], faults: [note("error", message, hint, place)] };
}

function note(severity: Fault["severity"], message: string, hint: string, place: Place | null): Fault {
  return { severity, message, hint, field: "", file: null, line: place?.line ?? null, column: place?.column ?? null };
}
