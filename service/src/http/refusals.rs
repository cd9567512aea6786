//! What a request is told that gets no further than the guard: each kind of client understands
//! another form.

use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chalk_core::reference::is_repository;
use chalk_core::wire::problem;

use super::audit::Peer;
use super::guard::{host_of, reached_by};
use super::problem::ApiError;
use super::registry_token;
use crate::access::Access;
use crate::grpc;
use crate::registry::{self, Target};

/// The kind of client, by what it asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    Api,
    Registry,
    Grpc,
}

impl Manner {
    pub(super) fn of(request: &Request) -> Self {
        let path = request.uri().path();
        if path == "/v2" || path.starts_with("/v2/") || path == registry_token::PATH {
            Self::Registry
        } else if grpc::is_call(request) {
            Self::Grpc
        } else {
            Self::Api
        }
    }

    /// A fault of ours, which the client may survive by trying again.
    pub(super) fn fault(self, error: ApiError) -> Response {
        match self {
            Self::Registry => {
                let problem = error.told();
                let status = StatusCode::from_u16(problem.status);
                let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                // Errors of this kind have no code in the specification.
                let code = match status {
                    StatusCode::SERVICE_UNAVAILABLE => "UNAVAILABLE",
                    _ => "UNKNOWN",
                };
                registry_errors(status, code, &grpc::words(&problem))
            }
            Self::Grpc => grpc::answer(error.into()),
            Self::Api => error.into_response(),
        }
    }

    /// Whoever asks too often is told when to come back (RFC 6585, section 4).
    pub(super) fn too_many(self, wait: Duration) -> Response {
        let seconds = wait.as_secs() + 1;
        let detail = format!("come back in {seconds} seconds");
        let words = format!("too many requests: {detail}");
        let mut response = match self {
            Self::Registry => {
                registry_errors(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS", &words)
            }
            Self::Grpc => return grpc::answer(tonic::Status::resource_exhausted(words)),
            Self::Api => ApiError::new(
                problem::RATE_LIMITED,
                429,
                "too many requests",
                detail,
                "see the service's settings `limits.token_requests` and `limits.failed_logins`",
            )
            .into_response(),
        };
        let headers = response.headers_mut();
        headers.insert(header::RETRY_AFTER, seconds.into());
        response
    }

    /// What a request without a token, or with a wrong one, is told.
    pub(super) fn unauthorized(self, request: &Request) -> Response {
        match self {
            Self::Registry => registry_unauthorized(request),
            Self::Grpc => grpc::unauthenticated(),
            Self::Api => api_unauthorized(),
        }
    }
}

/// One more request with a wrong token.
pub(super) fn failed(access: &Access, peer: Option<&Peer>) -> Result<(), Duration> {
    peer.map_or(Ok(()), |peer| access.rates().failure(peer.0.ip()))
}

/// What a form with a wrong login is told.
pub(super) fn registry_wrong_login(access: &Access, peer: Option<Peer>) -> Response {
    match failed(access, peer.as_ref()) {
        Ok(()) => challenge(&["Basic realm=\"chalk\"".to_owned()]),
        Err(wait) => Manner::Registry.too_many(wait),
    }
}

fn api_unauthorized() -> Response {
    let mut refusal = ApiError::new(
        problem::UNAUTHORIZED,
        401,
        "not authorized",
        "the request carries no token, or one that is wrong or has expired",
        "send `Authorization: Bearer TOKEN`; `chalk token create` makes one, and the administrator's is in the file `token` of the service's state directory",
    )
    .into_response();
    refusal.headers_mut().insert(
        header::WWW_AUTHENTICATE,
        HeaderValue::from_static("Bearer realm=\"chalk\""),
    );
    refusal
}

/// OCI distribution specification, "Error codes"; the challenges make engines send their login, or get
/// a token with it where they know how.
pub(super) fn registry_unauthorized(request: &Request) -> Response {
    let basic = "Basic realm=\"chalk\"".to_owned();
    let path = request.uri().path();
    if path == registry_token::PATH {
        return challenge(&[basic]);
    }
    let decoded = registry::decode(path).unwrap_or_default();
    let place = decoded.strip_prefix("/v2/").and_then(registry::target);
    let scope = match place {
        None => String::new(),
        Some((_, Target::Catalog)) => ",scope=\"registry:catalog:*\"".to_owned(),
        Some((name, _)) if !is_repository(name) => String::new(),
        Some((name, target)) => {
            let upload = matches!(target, Target::NewUpload | Target::Upload(_));
            let actions = match *request.method() {
                Method::GET | Method::HEAD if !upload => "pull",
                Method::DELETE if !upload => "delete",
                _ => "pull,push",
            };
            format!(",scope=\"repository:{name}:{actions}\"")
        }
    };
    let bearer = format!(
        "Bearer realm=\"{}{}\",service=\"{}\"{scope}",
        reached_by(request),
        registry_token::PATH,
        host_of(request),
    );
    challenge(&[bearer, basic])
}

fn challenge(challenges: &[String]) -> Response {
    let mut response = registry_errors(
        StatusCode::UNAUTHORIZED,
        "UNAUTHORIZED",
        "log in with any user name and a token of the service as password",
    );
    let headers = response.headers_mut();
    headers.insert(
        HeaderName::from_static("docker-distribution-api-version"),
        HeaderValue::from_static("registry/2.0"),
    );
    for challenge in challenges {
        if let Ok(challenge) = HeaderValue::from_str(challenge) {
            headers.append(header::WWW_AUTHENTICATE, challenge);
        }
    }
    response
}

/// OCI distribution specification, "Error codes".
pub(super) fn registry_denied() -> Response {
    registry_errors(
        StatusCode::FORBIDDEN,
        "DENIED",
        "this token does not allow that",
    )
}

fn registry_errors(status: StatusCode, code: &str, message: &str) -> Response {
    let body = serde_json::json!({
        "errors": [{ "code": code, "message": message, "detail": null }]
    });
    (status, axum::Json(body)).into_response()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    async fn fault(manner: Manner) -> (Response<()>, Vec<u8>) {
        let error = ApiError::unavailable("changes are not taken", "the log is full");
        let (parts, body) = manner.fault(error).into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        (Response::from_parts(parts, ()), body.to_vec())
    }

    #[tokio::test]
    async fn each_kind_of_client_is_told_a_fault_in_its_own_words() {
        let words = "changes are not taken: the log is full: try again later";
        let (answer, body) = fault(Manner::Registry).await;
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(answer.status(), 503);
        assert_eq!(body["errors"][0]["code"], "UNAVAILABLE");
        assert_eq!(body["errors"][0]["message"], words);

        let (answer, _) = fault(Manner::Grpc).await;
        let status = tonic::Status::from_header_map(answer.headers()).unwrap();
        assert_eq!(status.code(), tonic::Code::Unavailable);
        assert_eq!(status.message(), words);

        let (answer, body) = fault(Manner::Api).await;
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(answer.status(), 503);
        assert_eq!(body["title"], "changes are not taken");
    }
}
