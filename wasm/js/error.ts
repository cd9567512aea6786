/**
 * What goes wrong, in words for people and for programs.
 */

/** What the engine throws: see `core::error::SpecError`. */
export interface EngineFault {
  code: string;
  path: string;
  message: string;
  hint: string;
  file?: string | undefined;
  line?: number | undefined;
  column?: number | undefined;
  others?: EngineFault[] | undefined;
}

/** Parts of a {@link ChalkError}. */
export interface ChalkErrorParts {
  /** See {@link ChalkError.code}. */
  code: string;
  /** See {@link ChalkError.path}. */
  path?: string | undefined;
  /** See {@link ChalkError.reason}. */
  reason: string;
  /** See {@link ChalkError.hint}. */
  hint?: string | undefined;
  /** See {@link ChalkError.file}. */
  file?: string | undefined;
  /** See {@link ChalkError.line}. */
  line?: number | undefined;
  /** See {@link ChalkError.column}. */
  column?: number | undefined;
  /** See {@link ChalkError.errors}. */
  errors?: ChalkError[] | undefined;
  /** What this error comes from. */
  cause?: unknown;
}

/**
 * The one kind of error that this package throws.
 *
 * `message` is the whole sentence, as the `chalk` command prints it: where, what, and what to do.
 * The parts stand in the other fields.
 *
 * @example
 * ```ts
 * try {
 *   Image.debianSlim().pipInstall("not a requirement!");
 * } catch (error) {
 *   if (error instanceof ChalkError) console.log(error.code, error.path); // requirement call 2: pipInstall[0]
 * }
 * ```
 */
export class ChalkError extends Error {
  /**
   * Stable word for programs. Of declarations: `syntax`, `unknown-field`, `wrong-type`, `missing`,
   * `conflict`, `empty`, `requirement`, `package`, `path`, `name`, `value`, `reference`, `digest`,
   * `limit`, `file`, `dockerfile`. Of this package: `unread` (a local file has to be read first),
   * `not-initialised`, `engine` (the WebAssembly file cannot be loaded), `aborted`. Of a service:
   * the last part of its problem's type, such as `unauthorized`.
   */
  readonly code: string;
  /**
   * Where: the call and its argument (`call 3: addLocalFile.dest`), the field of a declaration file
   * (`step[0].run_commands`) or of a spec (`steps[2]`). May be empty.
   */
  readonly path: string;
  /** What is wrong, without the place and the hint. */
  readonly reason: string;
  /** What to do; may be empty. */
  readonly hint: string;
  /** The file that was read, when one was. */
  declare readonly file?: string;
  /** Line in that file, from 1. */
  declare readonly line?: number;
  /** Column in that line, in characters, from 1. */
  declare readonly column?: number;
  /** What else is wrong, when several things are; this error is not among them. */
  readonly errors: ChalkError[];

  constructor(parts: ChalkErrorParts) {
    super(sentence(parts), parts.cause === undefined ? undefined : { cause: parts.cause });
    this.code = parts.code;
    this.path = parts.path ?? "";
    this.reason = parts.reason;
    this.hint = parts.hint ?? "";
    if (parts.file !== undefined) this.file = parts.file;
    if (parts.line !== undefined) this.line = parts.line;
    if (parts.column !== undefined) this.column = parts.column;
    this.errors = parts.errors ?? [];
    // An interrupted call is told apart by this name everywhere else in the platform.
    if (parts.code === "aborted") hidden(this, "AbortError");
  }

  static {
    hidden(this.prototype, "ChalkError");
  }
}

/** Names an error without the name being printed among its fields. */
function hidden(of: object, name: string): void {
  Object.defineProperty(of, "name", { value: name, configurable: true, writable: true });
}

/** `image.toml:3:7: step[0].run_commands: expected …; write …`, as `core` writes it. */
function sentence({ file, line, column, path, reason, hint }: ChalkErrorParts): string {
  let text = file === undefined ? "" : `${file}:`;
  if (line !== undefined) text += `${line}:${column ?? 1}:`;
  if (text !== "") text += " ";
  if (path) text += `${path}: `;
  text += reason;
  return hint ? `${text}; ${hint}` : text;
}

/** Methods by the names that `core` calls them. */
const METHODS: Record<string, string> = {
  debian_slim: "debianSlim",
  from_dockerfile: "fromDockerfile",
  pip_install: "pipInstall",
  pip_install_from_requirements: "pipInstallFromRequirements",
  uv_pip_install: "uvPipInstall",
  uv_pip_install_from_requirements: "uvPipInstallFromRequirements",
  uv_sync: "uvSync",
  apt_install: "aptInstall",
  run_commands: "runCommands",
  dockerfile_commands: "dockerfileCommands",
  add_local_file: "addLocalFile",
  add_local_dir: "addLocalDir",
  runtime_env: "runtimeEnv",
};

const SNAKE = /(?<![\w.])[a-z]+(?:_[a-z]+)+(?!\w)/g;

/** A text of `core` about a call, with the methods called as they are here. */
function inCamelCase(text: string): string {
  return text.replace(SNAKE, (word) => METHODS[word] ?? word);
}

const FROM_CALL = /^call \d+: /;

/** The field of a declaration file that `label` adds to. */
const LABELS = /^(call \d+: )labels\b/;

/** Where a call looks for relative paths; `core` only knows declaring files. */
const RELATIVE = /paths are relative to the declaring file/;

/**
 * The error for what the engine threw. `cut` is left out of the stack, with all above it. `place` is
 * the call, where the engine only knows the argument.
 */
export function fromEngine(thrown: unknown, cut?: Function, place = ""): ChalkError {
  let error: ChalkError;
  if (thrown instanceof ChalkError) error = thrown;
  else if (!isFault(thrown)) error = unexpected(thrown);
  else if (FROM_CALL.test(thrown.path) || thrown.file !== undefined) error = convert(thrown);
  else error = convert({ ...thrown, path: [place, thrown.path].filter(Boolean).join(".") });
  trimStack(error, cut);
  return error;
}

/** Begins the stack of an error at the caller of `cut`, where the engine of the host can do so. */
export function trimStack(error: Error, cut: Function | undefined): void {
  const { captureStackTrace } = Error as { captureStackTrace?: (on: object, cut: Function) => void };
  if (cut && captureStackTrace) captureStackTrace(error, cut);
}

function isFault(thrown: unknown): thrown is EngineFault {
  return typeof thrown === "object" && thrown !== null && "code" in thrown && "hint" in thrown;
}

function convert(fault: EngineFault): ChalkError {
  const called = FROM_CALL.test(fault.path);
  const text = called ? inCamelCase : (same: string) => same;
  const hint = text(fault.hint);
  return new ChalkError({
    code: fault.code,
    path: text(fault.path).replace(LABELS, "$1label"),
    reason: text(fault.message),
    hint: called ? hint.replace(RELATIVE, "paths are relative to the working directory") : hint,
    file: fault.file,
    line: fault.line,
    column: fault.column,
    errors: fault.others?.map(convert),
  });
}

/** A fault of this package, such as a trap of the engine. */
function unexpected(thrown: unknown): ChalkError {
  const reason = thrown instanceof Error ? thrown.message : String(thrown);
  return new ChalkError({
    code: "engine",
    reason: `the engine failed: ${reason}`,
    hint: "please report this with the calls that led to it",
    cause: thrown,
  });
}

/** Throws when the caller gave up. */
export function checkAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw aborted(signal);
}

/** The error of a call that the caller gave up. Its `name` is `AbortError`. */
export function aborted(signal: AbortSignal): ChalkError {
  const cause: unknown = signal.reason;
  const timedOut = cause instanceof Error && cause.name === "TimeoutError";
  return new ChalkError({
    code: "aborted",
    reason: timedOut ? "the time given ran out" : "aborted by the caller",
    cause,
  });
}
