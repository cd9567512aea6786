/** Messages between the page and the engine's worker. */
import type { Diff } from "chalkcompute/slim";
import type { Recording } from "../sandbox/recording.js";

export type DeclarationFile = "image.toml" | "Dockerfile" | "requirements.txt";

/** What the hash is made from. */
export type Source =
  | { kind: "javascript"; recording: Recording }
  | { kind: "declaration"; file: DeclarationFile; text: string };

/** A problem, where it is and what to do about it. */
export interface Fault {
  severity: "error" | "warning" | "info";
  message: string;
  hint: string;
  /** Step and field of the declaration, such as `steps[0].packages[1]`. */
  field: string;
  /** File that it stands in, when that is not the text in the editor. */
  file: string | null;
  /** Counted from 1; null when the place is not known. */
  line: number | null;
  column: number | null;
}

/** A base image of the spec. */
export interface BaseImage {
  ref: string;
  digest: string | null;
  /** Whether the digest was given on the page, not in the declaration. */
  given: boolean;
}

/** A text, or why there is none. */
export type Output = { text: string } | { none: string };

export interface StepView {
  kind: string;
  key: string;
  title: string;
}

/** Everything that is shown of a spec. */
export interface Preview {
  recipeHash: string;
  imageHash: string | null;
  bases: BaseImage[];
  platform: string;
  steps: StepView[];
  warnings: Fault[];
  /** Names of the secrets that steps read. */
  secrets: string[];
  outputs: Record<OutputName, Output>;
  /** What differs from the spec that was kept as A. */
  diff: Diff | null;
}

export type OutputName = "dockerfile" | "canonical" | "spec" | "toml";

/** State of one file of the project. */
export type FileState =
  | { state: "unused" }
  | { state: "waiting" }
  | { state: "hashing"; done: number }
  | { state: "hashed"; digest: string }
  | { state: "failed"; reason: string }
  | { state: "cancelled" };

export interface FileRow {
  path: string;
  size: number;
  executable: boolean;
}

/** State of the service's answer about one spec. */
export interface ServicePlanView {
  exists: boolean;
  states: ("cached" | "run")[];
  uploadBytes: number;
  warmNodes: string[];
}

export type Request =
  | { type: "start"; wasm: string }
  | { type: "evaluate"; id: number; source: Source; pins: Record<string, string> }
  | { type: "keep" }
  | { type: "forget" }
  | { type: "add"; files: { path: string; file: File }[]; dirs: string[]; replace: boolean }
  | { type: "remove"; path: string | null }
  | { type: "executable"; path: string; on: boolean }
  | { type: "read"; path: string }
  | { type: "hash"; path: string }
  | { type: "retry-hashing" }
  | { type: "cancel-hashing" }
  | { type: "connect"; server: string; token: string }
  | { type: "disconnect" }
  | { type: "resolve-bases" }
  | { type: "plan" }
  | { type: "build"; name: string; force: boolean; secrets: Record<string, string> }
  | { type: "cancel-build" };

export type BuildPhase = "uploading" | "starting" | "queued" | "running" | "reconnecting" | "ended";

export type Answer =
  | { type: "unusable"; message: string; hint: string }
  | { type: "preview"; id: number; preview: Preview }
  | { type: "faults"; id: number; faults: Fault[] }
  | { type: "reading"; id: number; files: number; filesTotal: number; bytes: number; bytesTotal: number }
  | { type: "kept"; hash: string; pinned: boolean }
  | { type: "files"; version: number; rows: FileRow[] }
  | { type: "file-states"; version: number; states: [index: number, state: FileState][] }
  | { type: "text"; path: string; text: string }
  | { type: "connected"; server: string; version: string; registry: string }
  | { type: "refused"; message: string; hint: string; token: boolean }
  | { type: "bases"; id: number; pins: Record<string, string> }
  | { type: "service-plan"; id: number; plan: ServicePlanView }
  | { type: "service-problem"; about: "resolve" | "plan" | "build"; message: string; hint: string }
  | { type: "build-step"; step: number; state: "running" | "cached" | "ran" | "failed"; seconds: number | null }
  | { type: "build-started"; steps: StepView[] }
  | { type: "build-phase"; phase: BuildPhase; text: string }
  | { type: "build-log"; lines: string[] }
  | { type: "build-ended"; status: string; image: string | null; digest: string | null; seconds: number };
