/**
 * Options of the calls of an image, and their checks.
 */

import type { Call } from "./arguments.js";
import type { LocalDir } from "./files/given.js";
import type { ReadOptions } from "./files/tree.js";
import type { BaseDigests } from "./resolved.js";

/** Options of a build step. */
export interface StepOptions {
  /** Environment that this step alone sees. */
  env?: Readonly<Record<string, string>> | undefined;
  /** Secrets that the step reads as `/run/secrets/<name>`; names count in the hash, values never. */
  secrets?: readonly string[] | undefined;
  /** Run the step even when it is cached. Does not count in the hash. */
  force?: boolean | undefined;
}

/** Options of {@link Image.dockerfileCommands}. */
export interface InstructionOptions extends StepOptions {
  /** The directory that `COPY` and `ADD` read from. */
  context?: LocalDir | undefined;
}

/** Options of {@link Image.uvSync}. */
export interface UvSyncOptions extends StepOptions {
  /** Extras of the project to install too. */
  extras?: readonly string[] | undefined;
  /** Directory of the project in the image; the image's working directory, or `/app`, unless set. */
  workdir?: string | undefined;
}

/**
 * How a local file gets into a sandbox: `mount` (which `volume` means too) uploads it when a sandbox
 * starts, where build steps do not see it and it does not count in the hash; `copy` makes it part of
 * the image.
 */
export type Strategy = "mount" | "volume" | "copy";

/** Options of {@link Image.addLocalFile}. */
export interface AddFileOptions {
  /** `mount` unless set. */
  strategy?: Strategy | undefined;
  /** Permission bits of a copied file, as a number (`0o755`) or octal digits (`"755"`). */
  mode?: number | string | undefined;
}

/** Options of {@link Image.addLocalDir}. */
export interface AddDirOptions {
  /** `mount` unless set. */
  strategy?: Strategy | undefined;
  /** Globs to leave out besides what ignore files name, each as a line of a `.gitignore`. */
  exclude?: readonly string[] | undefined;
}

/** Options of {@link Image.fromDockerfile}. */
export interface DockerfileOptions {
  /** The directory that `COPY` and `ADD` read from; where the Dockerfile lies unless set. */
  context?: LocalDir | undefined;
  /** Build arguments (`--build-arg`). */
  args?: Readonly<Record<string, string>> | undefined;
  /** The stage to build, by name or number; the last one unless set. */
  target?: string | undefined;
}

/** Options of {@link Image.fromTOML}. */
export interface DeclarationOptions {
  /** Name of the file that the text comes from, for errors. */
  file?: string | undefined;
  /** Where the paths in it lead; in Node the working directory unless set. */
  files?: LocalDir | undefined;
}

/** Options of what needs a hash. */
export interface HashOptions extends ReadOptions {
  /** Digest of the base, or of several by reference. */
  base?: string | BaseDigests | undefined;
}

/** What a build step may be given. */
export const STEP_OPTIONS = ["env", "secrets", "force"] as const;

/** Options of a build step, as a declaration file writes them. */
export function stepOptions(call: Call, options: unknown): Record<string, unknown> {
  const given = call.options(options, STEP_OPTIONS);
  const checked: Record<string, unknown> = {};
  if (given.env !== undefined) checked["env"] = call.textMap(given.env, ".env");
  if (given.secrets !== undefined) checked["secrets"] = call.texts(given.secrets, ".secrets");
  if (given.force !== undefined) {
    if (typeof given.force !== "boolean") throw call.wrongType(".force", "true or false", given.force);
    checked["force"] = given.force;
  }
  return checked;
}

/** Texts without options behind them. */
export function onlyTexts(call: Call, given: unknown[]): string[] {
  const [texts, options] = call.textsAndOptions(given);
  if (options !== undefined) throw call.wrongType("", "texts", options);
  return texts;
}

/** A strategy's word; which words there are is the engine's to say. */
export function strategy(call: Call, given: unknown): string {
  return given === undefined ? "mount" : call.text(given, ".strategy");
}

/** The octal digits of a mode. */
export function modeDigits(call: Call, given: unknown): string {
  if (typeof given === "number" && Number.isInteger(given) && given >= 0) {
    return given.toString(8).padStart(4, "0");
  }
  if (typeof given === "string" && /^[0-7]{3,4}$/.test(given)) return given;
  if (typeof given === "string" || typeof given === "number") {
    throw call.error("value", ".mode", `\`${given}\` is no mode`, 'write 0o755, or "755"');
  }
  throw call.wrongType(".mode", "permission bits", given);
}
