/**
 * What every entry point exports.
 */

export { BuildRun, Client, ServiceError } from "./client.js";
export type { AnyImage, BuildOptions, CallOptions, ClientOptions, Why } from "./client.js";
export { ChalkError } from "./error.js";
export type { ChalkErrorParts } from "./error.js";
export type {
  DirectoryEntry,
  DirectoryHandle,
  DroppedFiles,
  FileHandle,
  LocalDir,
  LocalFile,
  NamedBlob,
} from "./files/given.js";
export type { Content } from "./files/memory.js";
export type {
  DigestSink,
  Entry,
  FileContents,
  FileTree,
  Progress,
  QuickTree,
  ReadOptions,
} from "./files/tree.js";
export { Image, diff } from "./image.js";
export type {
  AddDirOptions,
  AddFileOptions,
  DeclarationOptions,
  DockerfileOptions,
  HashOptions,
  InstructionOptions,
  StepOptions,
  Strategy,
} from "./options.js";
export { ResolvedImage } from "./resolved.js";
export type { BaseDigests, Upload, Warning } from "./resolved.js";
export type {
  BlobList,
  Build,
  BuildEvent,
  BuildReply,
  BuildRequest,
  BuildStatus,
  BuildStep,
  Change,
  Diff,
  Digest,
  ImageConfig,
  ImageDetail,
  ImageStep,
  ImageSummary,
  Info,
  Layer,
  Mount,
  Plan,
  PlanBase,
  PlanState,
  PlanStep,
  Platform,
  Problem,
  Reference,
  Rerun,
  ResolveRequest,
  ResolvedSpec,
  ServicePlan,
  Spec,
  Step,
  StepState,
  Stream,
} from "./generated/wire.js";
