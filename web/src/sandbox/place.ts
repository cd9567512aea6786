import type { Place } from "./recording.js";

/** The place of an offset in a text. */
export function placeAt(code: string, offset: number): Place {
  const before = code.slice(0, offset);
  const lineStart = before.lastIndexOf("\n") + 1;
  const line = before.split("\n").length;
  return { line, column: [...before.slice(lineStart)].length + 1 };
}
