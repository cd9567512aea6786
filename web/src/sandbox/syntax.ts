import type { Place } from "./recording.js";

/**
 * Where a text stops being JavaScript. Browsers do not say so for modules, hence the parser, which is
 * fetched when it is needed first.
 */
export async function syntaxPlace(code: string): Promise<Place | null> {
  const { parser } = await import("@lezer/javascript");
  const cursor = parser.parse(code).cursor();
  do {
    if (cursor.type.isError) return placeAt(code, cursor.from);
  } while (cursor.next());
  return null;
}

function placeAt(code: string, offset: number): Place {
  const before = code.slice(0, offset);
  const lineStart = before.lastIndexOf("\n") + 1;
  const line = before.split("\n").length;
  return { line, column: [...before.slice(lineStart)].length + 1 };
}
