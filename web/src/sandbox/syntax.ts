import { placeAt } from "./place.js";
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
