/** Makes the image of a recording with the real package. */
import { Image } from "chalkcompute/slim";
import type { Argument, Call, Recording } from "../sandbox/recording.js";

/** A call of the recording that cannot be made. */
export class ReplayError extends Error {
  constructor(
    readonly call: Call,
    readonly reason: unknown,
  ) {
    super("a recorded call failed");
  }
}

// What comes out of the sandbox is not trusted to name methods.
const STATICS = new Set([
  "debianSlim", "base", "scratch", "fromDockerfile", "fromTOML", "fromJSON", "fromFile", "fromDeclaration",
]);
const METHODS = new Set([
  "pipInstall", "pipInstallFromRequirements", "uvPipInstall", "uvPipInstallFromRequirements", "uvSync",
  "aptInstall", "runCommands", "dockerfileCommands", "addLocalFile", "addLocalDir", "workdir", "user", "platform",
  "name", "env", "runtimeEnv", "label", "entrypoint", "cmd",
]);

type Callable = Record<string, (...args: unknown[]) => Image>;

/**
 * The image that the recorded code made; `null` when it made none.
 *
 * @throws {@link ReplayError}
 */
export function replay(recording: Recording): Image | null {
  const images: Image[] = [];
  for (const call of recording.calls) {
    try {
      images.push(make(call, images));
    } catch (reason) {
      throw new ReplayError(call, reason);
    }
  }
  return recording.image === null ? null : (images[recording.image] ?? null);
}

function make({ method, on, args }: Call, images: Image[]): Image {
  const receiver: unknown = on < 0 ? Image : images[on];
  if (!receiver || !(on < 0 ? STATICS : METHODS).has(method)) {
    throw new TypeError(`there is no method ${method}`);
  }
  return (receiver as Callable)[method]!(...args.map(decode));
}

function decode(value: Argument): unknown {
  if (typeof value !== "object" || value === null) return value;
  if (Array.isArray(value)) return value.map(decode);
  if ("$omitted" in value) return undefined;
  if (typeof value["$bytes"] === "string") return Uint8Array.from(atob(value["$bytes"]), (c) => c.charCodeAt(0));
  return Object.fromEntries(Object.entries(value).map(([name, field]) => [name, decode(field as Argument)]));
}
