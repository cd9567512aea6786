//! The `type` words of [`Problem`](super::Problem)s.

/// The spec or request is wrong (400). Exit code 2.
pub const BAD_REQUEST: &str = "urn:chalk:bad-request";
/// No token or a wrong one (401). Exit code 3.
pub const UNAUTHORIZED: &str = "urn:chalk:unauthorized";
/// Nothing by that name (404). Exit code 4.
pub const NOT_FOUND: &str = "urn:chalk:not-found";
/// A prefix that fits several (409). Exit code 4.
pub const AMBIGUOUS: &str = "urn:chalk:ambiguous";
/// The path is there, the method is not (405). Exit code 3.
pub const METHOD_NOT_ALLOWED: &str = "urn:chalk:method-not-allowed";
/// The `Host` of the request is not one of the service's (421). Exit code 3.
pub const MISDIRECTED: &str = "urn:chalk:misdirected";
/// The request was made by a web page that may not use the service (403). Exit code 3.
pub const FOREIGN_ORIGIN: &str = "urn:chalk:foreign-origin";
/// The token does not allow this call (403). Exit code 3.
pub const FORBIDDEN: &str = "urn:chalk:forbidden";
/// A connected node or a living sandbox has that name (409). Exit code 4.
pub const NAME_TAKEN: &str = "urn:chalk:name-taken";
/// What is there does not allow the change (409). Exit code 1.
pub const CONFLICT: &str = "urn:chalk:conflict";
/// The base image does not exist (404). Exit code 4.
pub const BASE_NOT_FOUND: &str = "urn:chalk:base-not-found";
/// The base needs a login (403). Exit code 3.
pub const BASE_DENIED: &str = "urn:chalk:base-denied";
/// The base has no such platform (400). Exit code 2.
pub const BASE_PLATFORM: &str = "urn:chalk:base-platform";
/// A registry could not be reached (502). Exit code 3.
pub const REGISTRY_UNREACHABLE: &str = "urn:chalk:registry-unreachable";
/// An uploaded blob is not what its digest says (400). Exit code 2.
pub const DIGEST_MISMATCH: &str = "urn:chalk:digest-mismatch";
/// A body over its limit (413). Exit code 2.
pub const TOO_LARGE: &str = "urn:chalk:too-large";
/// The queue is full or the service stops (503). Exit code 3.
pub const UNAVAILABLE: &str = "urn:chalk:unavailable";
/// A step of the build failed; only in [`super::Build::error`]. Exit code 1.
pub const STEP_FAILED: &str = "urn:chalk:step-failed";
/// The build was cancelled. Exit code 1.
pub const CANCELLED: &str = "urn:chalk:cancelled";
/// The service stopped under the build; what its steps had made is kept. Exit code 1.
pub const INTERRUPTED: &str = "urn:chalk:interrupted";
/// No node fits what was asked for (409). Exit code 4.
pub const NO_NODE: &str = "urn:chalk:no-node";
/// The node is not connected, or went away (503). Exit code 3.
pub const NODE_LOST: &str = "urn:chalk:node-lost";
/// The node was removed from the service: its token counts no more (401), and no join token of
/// before lets its name in again (403).
pub const NODE_REMOVED: &str = "urn:chalk:node-removed";
/// The node's cache is too small for the image. Exit code 1.
pub const CACHE_TOO_SMALL: &str = "urn:chalk:cache-too-small";
/// The node's disk is full. Exit code 1.
pub const DISK_FULL: &str = "urn:chalk:disk-full";
/// Bytes that are not what their digest says came from a registry or mirror. Exit code 1.
pub const DAMAGED: &str = "urn:chalk:damaged";
/// It took longer than was allowed. Exit code 1.
pub const TIMED_OUT: &str = "urn:chalk:timed-out";
/// The sandbox does not run, or its process has ended (409). Exit code 1.
pub const NOT_RUNNING: &str = "urn:chalk:not-running";
/// The sandbox cannot be started as asked: command, user, limit or device (400). Exit code 2.
pub const SANDBOX_REFUSED: &str = "urn:chalk:sandbox-refused";
/// The sandbox has no such command (400). Exit code 127, as in a shell.
pub const COMMAND_NOT_FOUND: &str = "urn:chalk:command-not-found";
/// The command cannot be executed by its user (400). Exit code 126, as in a shell.
pub const COMMAND_NOT_EXECUTABLE: &str = "urn:chalk:command-not-executable";
/// A file of a sandbox cannot be read or written: the system inside said no (400, 403, 404, 409 or
/// 507). Exit code 1, or 4 where there is none.
pub const FILE_FAILED: &str = "urn:chalk:file-failed";
/// A quota of the project is used up (429 for builds, 507 for storage). Exit code 3.
pub const QUOTA_EXCEEDED: &str = "urn:chalk:quota-exceeded";
/// Too many requests, or too many with a wrong token; the header `Retry-After` says when to come
/// back (429). Exit code 3.
pub const RATE_LIMITED: &str = "urn:chalk:rate-limited";
/// A fault of the node that was to run a sandbox (500). Exit code 1.
pub const NODE_FAILED: &str = "urn:chalk:node-failed";
/// A fault of the service (500). Exit code 3.
pub const INTERNAL: &str = "urn:chalk:internal";
