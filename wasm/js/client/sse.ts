/**
 * Server-sent events (HTML standard, section 9.2.6), as far as the service uses them: `data` fields
 * and comments. `retry` is passed over: see `backoff.ts`.
 */

/** Most characters of one event. */
const LIMIT = 32 * 1024 * 1024;

/** Line ends; a carriage return that ends what has come may be half of one. */
const LINE_END = /\r\n|\n|\r(?!$)/;

/** Takes text as it comes and gives the data of each whole event. */
export class EventParser {
  #rest = "";
  #data: string[] = [];
  #length = 0;

  /** Whether an event has begun that is not whole yet. */
  get isInside(): boolean {
    return this.#rest !== "" || this.#data.length > 0;
  }

  /** @throws {@link RangeError} when an event does not end */
  push(text: string): string[] {
    const events: string[] = [];
    const lines = (this.#rest + text).split(LINE_END);
    this.#rest = lines.pop() ?? "";
    for (const line of lines) {
      if (line === "") {
        if (this.#data.length > 0) events.push(this.#data.join("\n"));
        this.#data = [];
        this.#length = 0;
      } else if (line === "data" || line.startsWith("data:")) {
        this.#data.push(line.slice(line.charAt(5) === " " ? 6 : 5));
        this.#length += line.length;
      }
    }
    if (this.#rest.length + this.#length > LIMIT) throw new RangeError("an event does not end");
    return events;
  }
}
