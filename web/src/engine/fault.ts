import { ChalkError } from "chalkcompute/slim";
import type { Place, Recording } from "../sandbox/recording.js";
import type { Fault } from "./protocol.js";
import { ReplayError } from "./replay.js";

/** What went wrong, for the page. `editor` is the name of the file that the editor's text stands for. */
export function faultsOf(reason: unknown, editor: string | null, recording: Recording | null): Fault[] {
  if (reason instanceof ReplayError) {
    return faultsOf(reason.reason, editor, recording).map((fault) => at(fault, reason.call.place));
  }
  if (!(reason instanceof ChalkError)) {
    return [fault("error", reason instanceof Error ? reason.message : String(reason))];
  }
  return [reason, ...reason.errors].map((error) => {
    const known = error.file !== undefined && error.file === editor;
    const found: Fault = {
      ...fault("error", error.reason, error.hint),
      field: error.path,
      file: error.file === undefined || known ? null : error.file,
      line: known ? (error.line ?? null) : null,
      column: known ? (error.column ?? null) : null,
    };
    if (found.file !== null && error.line !== undefined) found.file += `:${error.line}`;
    return recording ? at(found, placeOf(error.path, recording)) : found;
  });
}

export function fault(severity: Fault["severity"], message: string, hint = ""): Fault {
  return { severity, message, hint, field: "", file: null, line: null, column: null };
}

function at(found: Fault, place: Place | null): Fault {
  return place && found.line === null ? { ...found, ...place } : found;
}

/**
 * Place of the call that an error names. `call 3` is the third call that led to the image, not the
 * third that was made.
 */
function placeOf(path: string, recording: Recording): Place | null {
  const named = /^call (\d+):/.exec(path);
  if (!named || recording.image === null) return null;
  const chain: (Place | null)[] = [];
  for (let i = recording.image; i >= 0; i = recording.calls[i]?.on ?? -1) chain.unshift(recording.calls[i]?.place ?? null);
  return chain[Number(named[1]) - 1] ?? null;
}
