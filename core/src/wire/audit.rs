//! The audit log: who changed what, when, from where, and how it ended.

use serde::{Deserialize, Serialize};

/// A change, or one that was asked for and refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AuditEntry {
    /// Number; grows with each entry, across restarts, too.
    pub seq: u64,
    /// When it ended.
    pub time: String,
    /// Who: `admin`, `client:<identifier>`, `node:<name>` or `join:<identifier>`.
    pub who: String,
    /// What the client is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Project that it acted in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Address that the request came from.
    pub from: String,
    /// What, in two words: `image.delete`, `token.create`, `registry.push`.
    pub action: String,
    /// To what: the path of the call without its fixed words, or the member of a gRPC service.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// What came of it, where the target alone does not say: the identifier of what was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<String>,
    /// How it ended.
    pub outcome: AuditOutcome,
    /// HTTP status of the answer.
    pub status: u16,
    /// Number of the request, as in its answer's `X-Request-Id` and in the service's log.
    pub request: String,
}

/// How a change ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum AuditOutcome {
    /// Done, or begun.
    Done,
    /// The token does not allow it.
    Denied,
    /// It was refused for another reason.
    Refused,
    /// The service failed.
    Failed,
}
