/**
 * Errors of a service.
 */

import { ChalkError, aborted } from "../error.js";
import type { Problem } from "../generated/wire.js";

/**
 * What a service answered in place of what was asked for: an RFC 9457 problem document. Its `code` is
 * the last part of the problem's type: `bad-request`, `unauthorized`, `not-found`, `ambiguous`,
 * `base-not-found`, `base-denied`, `base-platform`, `registry-unreachable`, `too-large`,
 * `unavailable`, `foreign-origin`, `misdirected`, `internal`; of nodes and sandboxes `no-node`,
 * `node-lost`, `node-removed`, `cache-too-small`, `disk-full`, `damaged`, `timed-out`, `not-running`,
 * `sandbox-refused`.
 */
export class ServiceError extends ChalkError {
  /** HTTP status. */
  readonly status: number;
  /** What failed, short. */
  readonly title: string;

  constructor(problem: Problem) {
    super({
      code: problem.type.slice(problem.type.lastIndexOf(":") + 1),
      reason: problem.detail ? `${problem.title}: ${problem.detail}` : problem.title,
      hint: problem.hint,
    });
    this.status = problem.status;
    this.title = problem.title;
  }
}

/** Longest part of an answer that is no problem document that is shown. */
const SHOWN = 500;

/** The error in an answer that is not a good one. */
export async function problemOf(response: Response): Promise<ServiceError> {
  let text = "";
  try {
    text = await response.text();
    const document = JSON.parse(text) as Partial<Problem> | null;
    if (typeof document?.type === "string" && typeof document.title === "string") {
      return new ServiceError({ ...document, status: response.status } as Problem);
    }
  } catch {
    // No problem document: somebody between the service and us answered, or it broke off.
  }
  const { status, statusText, url } = response;
  return new ServiceError({
    type: `urn:chalk:${codeOf(status)}`,
    title: `${url || "the service"} answered ${`${status} ${statusText}`.trim()}`,
    status,
    detail: text.slice(0, SHOWN).trim(),
    hint: "check the address: something else than a chalk service answered",
  });
}

function codeOf(status: number): string {
  if (status === 401 || status === 403) return "unauthorized";
  if (status === 404) return "not-found";
  if (status === 413) return "too-large";
  return status === 502 || status === 503 || status === 504 ? "unavailable" : "internal";
}

/** The error of a service that could not be asked at all. */
export function unreachable(server: string, cause: unknown, signal?: AbortSignal): ChalkError {
  if (signal?.aborted) return aborted(signal);
  if (cause instanceof ChalkError) return cause;
  return new ChalkError({
    code: "unreachable",
    reason: `cannot reach the service at ${server}: ${deepest(cause)}`,
    hint: isForeign(server)
      ? "start one with `chalk serve`, and list the origin of this page in its setting `serve.cors_origins`"
      : "start one with `chalk serve`, and check the address",
    cause,
  });
}

/** Whether this script belongs to a page that a service lets in only when it is told to. */
function isForeign(server: string): boolean {
  const page = (globalThis as { location?: { origin?: string } }).location?.origin;
  return page !== undefined && page !== new URL(server).origin;
}

/** Hosts wrap the reason: "fetch failed" around "connect ECONNREFUSED …". */
function deepest(error: unknown): string {
  let inner = error;
  while (inner instanceof Error && inner.cause instanceof Error) inner = inner.cause;
  if (!(inner instanceof Error)) return String(inner);
  // An AggregateError of several addresses has no message of its own.
  const { code } = inner as { code?: unknown };
  return inner.message || (typeof code === "string" ? code : inner.name);
}

/** The error of an answer that no chalk service gives. */
export function strange(server: string, what: string, cause?: unknown): ChalkError {
  return new ChalkError({
    code: "protocol",
    reason: `${server} does not answer as a chalk service: ${what}`,
    hint: "check the address, and that client and service have the same version",
    cause,
  });
}

/** Whether asking again may help. */
export function isTransient(error: unknown): error is ChalkError {
  if (error instanceof ServiceError) return [408, 429, 502, 503, 504].includes(error.status);
  return error instanceof ChalkError && error.code === "unreachable";
}
