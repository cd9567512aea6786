//! The audit log: what goes into it, and the call that reads it.

use std::net::SocketAddr;

use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use axum::routing::get;
use chalk_core::wire::{AuditEntry, AuditOutcome};
use jiff::Timestamp;
use serde::Deserialize;

use super::body::Query;
use super::openapi::Call;
use super::openapi::Of::{Number, Text};
use super::problem::{ApiError, ApiResult};
use super::{Api, Route};
use crate::access::audit::{Audit, AuditError, Filter};
use crate::access::{Access, Principal, rules};

/// Entries that are listed unless the client says how many.
const LIST: usize = 100;
/// Most entries that are listed.
const LIST_LIMIT: usize = 10_000;
/// Longest target of an entry, in bytes.
const TARGET_LIMIT: usize = 1024;

/// What came of a request, as an extension of its answer, where the audit log is to tell more than the
/// request itself does.
#[derive(Debug, Clone)]
pub(crate) enum Made {
    /// Nothing has changed: it was a question.
    Nothing,
    /// The identifier of what was made.
    New(String),
}

/// Number of a request, among its extensions.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) String);

/// Address that a request came from, among its extensions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

impl From<AuditError> for ApiError {
    fn from(error: AuditError) -> Self {
        Self::internal("the audit log failed", &error)
    }
}

/// The call that reads the log.
pub(super) fn routes() -> Vec<Route> {
    vec![Route::new(
        Method::GET,
        "/v1/audit",
        get(list),
        Call::new("List entries of the audit log, newest first")
            .query(&[
                ("limit", Number, "most entries to list; 100 unless given"),
                ("before", Number, "only entries before this number"),
                (
                    "who",
                    Text,
                    "only of this client, node or administrator, by `who` or by name",
                ),
                ("action", Text, "only actions that begin so: `image.`"),
                ("project", Text, "only in this project"),
            ])
            .gives::<Vec<AuditEntry>>(),
    )]
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    limit: Option<usize>,
    before: Option<u64>,
    who: Option<String>,
    action: Option<String>,
    project: Option<String>,
}

async fn list(
    State(service): Api,
    Query(query): Query<ListQuery>,
) -> ApiResult<axum::Json<Vec<AuditEntry>>> {
    let limit = query.limit.unwrap_or(LIST).min(LIST_LIMIT);
    let filter = Filter {
        before: query.before,
        who: query.who,
        action: query.action,
        project: query.project,
    };
    Ok(axum::Json(service.audit().list(filter, limit).await?))
}

/// What is known of a change before it is made.
pub(super) struct Asked {
    who: String,
    name: Option<String>,
    project: Option<String>,
    from: String,
    action: String,
    target: String,
    request: String,
}

impl Asked {
    /// What somebody asks for; nothing for what changes nothing.
    pub(super) fn new(access: &Access, who: &Principal, request: &Request) -> Option<Self> {
        let path = request.uri().path();
        let action = rules::action(request.method(), path)?;
        let mut target = rules::target(request.method(), path);
        if target.len() > TARGET_LIMIT {
            target = target.chars().take(TARGET_LIMIT / 4).collect();
        }
        let grant = match who {
            Principal::Client(grant) => Some(grant),
            Principal::Puller { grant, .. } | Principal::Registry { grant, .. } => grant.as_ref(),
            _ => None,
        };
        let word = match (who, grant) {
            (_, Some(grant)) => format!("client:{}", grant.id),
            (Principal::Node { name, .. } | Principal::Removed(name), _) => format!("node:{name}"),
            (Principal::Join(id), _) => format!("join:{id}"),
            _ => "admin".to_owned(),
        };
        let extensions = request.extensions();
        Some(Self {
            who: word,
            name: grant.map(|grant| grant.name.clone()),
            project: access.scope(who).map(|scope| scope.project().to_string()),
            from: extensions
                .get::<Peer>()
                .map(|peer| peer.0.ip().to_canonical().to_string())
                .unwrap_or_default(),
            action,
            target,
            request: extensions
                .get::<RequestId>()
                .map(|id| id.0.clone())
                .unwrap_or_default(),
        })
    }

    fn ended(self, outcome: AuditOutcome, status: u16, made: Option<String>) -> AuditEntry {
        AuditEntry {
            seq: 0,
            time: Timestamp::now().to_string(),
            who: self.who,
            name: self.name,
            project: self.project,
            from: self.from,
            action: self.action,
            target: self.target,
            made,
            outcome,
            status,
            request: self.request,
        }
    }
}

/// How a request ended; gRPC says so beside the status of HTTP.
fn outcome(response: &Response) -> AuditOutcome {
    let grpc = response.headers().get("grpc-status");
    let grpc = grpc.and_then(|code| code.to_str().ok()?.parse::<i32>().ok());
    match (response.status(), grpc) {
        (StatusCode::FORBIDDEN, _) | (_, Some(7)) => AuditOutcome::Denied,
        (status, None | Some(0)) if status.is_success() => AuditOutcome::Done,
        (status, _) if status.is_server_error() => AuditOutcome::Failed,
        // Unknown, internal, unavailable, data loss.
        (_, Some(2 | 13..=15)) => AuditOutcome::Failed,
        _ => AuditOutcome::Refused,
    }
}

/// Carries a request out, and answers it when the audit log has what it changed.
///
/// # Errors
/// When the log cannot be written.
pub(super) async fn carry_out(
    audit: &Audit,
    asked: Option<Asked>,
    request: Request,
    next: Next,
) -> ApiResult<Response> {
    let Some(asked) = asked else {
        return Ok(next.run(request).await);
    };
    if !audit.is_sound() && !audit.try_again().await {
        return Err(ApiError::unavailable(
            "changes are not taken",
            "the audit log cannot be written, and no change is made that it does not tell of",
        ));
    }
    let response = next.run(request).await;
    let made = match response.extensions().get::<Made>() {
        Some(Made::Nothing) => return Ok(response),
        Some(Made::New(id)) => Some(id.clone()),
        None => None,
    };
    let entry = asked.ended(outcome(&response), response.status().as_u16(), made);
    let written = audit.append(entry).await;
    let untold = "the change was made, but the audit log cannot tell of it";
    written
        .map(|()| response)
        .map_err(|error| ApiError::internal(untold, &error))
}

/// Notes that somebody was not let.
pub(super) async fn denied(audit: &Audit, asked: Option<Asked>) {
    let Some(asked) = asked else {
        return;
    };
    let entry = asked.ended(AuditOutcome::Denied, 403, None);
    if let Err(error) = audit.append(entry).await {
        tracing::error!(%error, "a refusal is not in the audit log");
    }
}
