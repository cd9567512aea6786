/** What the sandbox hands back: which calls the code made on `Image`, and how it ended. */

/** Place in the code, counted from 1. */
export interface Place {
  line: number;
  column: number;
}

/** An argument as it crosses the border: JSON, save for bytes. */
export type Argument =
  | null
  | string
  | number
  | boolean
  | Argument[]
  | { $bytes: string }
  | { $omitted: true }
  | { [name: string]: Argument };

/** One call on `Image` or on an image. */
export interface Call {
  method: string;
  /** Index of the call that made the receiver; -1 for `Image` itself. */
  on: number;
  args: Argument[];
  place: Place | null;
}

export interface Recording {
  calls: Call[];
  /** Index of the call that made the image to show; null when the code made none. */
  image: number | null;
  /** Why the code ended early. */
  error: { name: string; message: string; place: Place | null } | null;
  /** Where the code asked for an answer that only the page can give, and was ended. */
  asked: { method: string; place: Place | null } | null;
  /** What the code wrote to the console, first lines only. */
  console: string[];
}

/** Page to sandbox. */
export interface RunMessage {
  run: number;
  code: string;
  limitMs: number;
}

/** Sandbox to page. `text` is a {@link Recording} in JSON. */
export type SandboxMessage =
  | { ready: true }
  | { run: number; outcome: "recorded"; text: string }
  | { run: number; outcome: "timeout" }
  | { run: number; outcome: "crashed"; message: string };
