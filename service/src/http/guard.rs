//! What every request passes before a handler sees it: a request number for the log, the `Host`
//! check and the token check.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use chalk_core::wire::problem;
use subtle::ConstantTimeEq;
use tracing::Instrument;

use super::problem::ApiError;

/// Paths that need no token.
pub(crate) const OPEN_PATHS: [&str; 2] = ["/healthz", "/readyz"];

/// Who may ask, and under which names.
#[derive(Debug)]
pub(crate) struct Guard {
    token: String,
    hosts: Vec<String>,
    requests: AtomicU64,
}

impl Guard {
    /// `hosts` are names without port, besides loopback names and IP addresses.
    pub(crate) fn new(token: String, hosts: impl IntoIterator<Item = String>) -> Self {
        Self {
            token,
            hosts: hosts
                .into_iter()
                .map(|h| without_port(&h).to_lowercase())
                .collect(),
            requests: AtomicU64::new(0),
        }
    }

    /// Whether a page of `host` may talk to us. A page that makes its name point at our address
    /// (DNS rebinding) still sends its own name, so names must be known; an IP address as host
    /// cannot be rebound.
    fn knows_host(&self, host: &str) -> bool {
        let name = without_port(host).to_lowercase();
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        name == "localhost"
            || name.ends_with(".localhost")
            || bare.parse::<IpAddr>().is_ok()
            || self.hosts.contains(&name)
    }

    /// Whether the headers carry our token: as bearer, or with `basic` as the password of any
    /// user, since that is what container engines send after a login.
    fn lets_in(&self, headers: &HeaderMap, basic: bool) -> bool {
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            return false;
        };
        let Some((scheme, rest)) = value.to_str().ok().and_then(|v| v.split_once(' ')) else {
            return false;
        };
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return self.is_token(rest.as_bytes());
        }
        if !(basic && scheme.eq_ignore_ascii_case("basic")) {
            return false;
        }
        let Ok(pair) = base64::engine::general_purpose::STANDARD.decode(rest) else {
            return false;
        };
        match pair.iter().position(|&b| b == b':') {
            Some(colon) => self.is_token(&pair[colon + 1..]),
            None => false,
        }
    }

    fn is_token(&self, given: &[u8]) -> bool {
        self.token.as_bytes().ct_eq(given).into()
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|b| b.is_ascii_digit())
                && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    }
}

/// Numbers a request, logs it, and checks host and token.
pub(crate) async fn guard(
    State(guard): State<Arc<Guard>>,
    request: Request,
    next: Next,
) -> Response {
    let id = format!("{:08x}", guard.requests.fetch_add(1, Ordering::Relaxed) + 1);
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let span = tracing::info_span!("request", id, %method, path);
    let start = Instant::now();
    let answer = async {
        match check(&guard, &request) {
            Ok(()) => next.run(request).await,
            Err(refusal) => refusal,
        }
    };
    let mut response = answer.instrument(span.clone()).await;
    let status = response.status().as_u16();
    let ms = start.elapsed().as_secs_f64() * 1000.0;
    span.in_scope(|| tracing::debug!(status, ms, "answered"));
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-request-id", id);
    }
    response
}

// The refusal is the answer that is sent, not an error that is passed around.
#[allow(clippy::result_large_err)]
fn check(guard: &Guard, request: &Request) -> Result<(), Response> {
    // HTTP/2 carries the name in the URI.
    let host = request
        .uri()
        .authority()
        .map(Authority::as_str)
        .or_else(|| {
            let value = request.headers().get(header::HOST)?;
            value.to_str().ok()
        });
    if !host.is_some_and(|host| guard.knows_host(host)) {
        let refusal = ApiError::new(
            problem::MISDIRECTED,
            421,
            "unknown host",
            format!(
                "this service is not known as `{}`",
                host.unwrap_or_default()
            ),
            "use its address, or add the name to the service's setting `serve.hosts`",
        );
        return Err(refusal.into_response());
    }
    let path = request.uri().path();
    let registry = path == "/v2" || path.starts_with("/v2/");
    if OPEN_PATHS.contains(&path) || guard.lets_in(request.headers(), registry) {
        return Ok(());
    }
    if registry {
        return Err(registry_refusal());
    }
    let mut refusal = ApiError::new(
        problem::UNAUTHORIZED,
        401,
        "not authorized",
        "the request carries no token, or a wrong one",
        "send `Authorization: Bearer TOKEN`; the token is in the file `token` of the service's state directory",
    )
    .into_response();
    refusal.headers_mut().insert(
        header::WWW_AUTHENTICATE,
        HeaderValue::from_static("Bearer realm=\"chalk\""),
    );
    Err(refusal)
}

/// OCI distribution specification, "Error codes"; the challenge makes engines send their login.
fn registry_refusal() -> Response {
    let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"log in with any user name and the service's token as password","detail":null}]}"#;
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::WWW_AUTHENTICATE, "Basic realm=\"chalk\""),
        (
            header::HeaderName::from_static("docker-distribution-api-version"),
            "registry/2.0",
        ),
    ];
    (StatusCode::UNAUTHORIZED, headers, body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let guard = Guard::new("t".into(), ["Chalk.example:443".to_owned()]);
        let check = |host: &str, expect: bool| assert_eq!(guard.knows_host(host), expect, "{host}");
        check("localhost", true);
        check("localhost:7474", true);
        check("LOCALHOST:1", true);
        check("app.localhost:1", true);
        check("127.0.0.1:7474", true);
        check("192.168.1.7", true);
        check("[::1]:7474", true);
        check("[::1]", true);
        check("chalk.example", true);
        check("chalk.example:7474", true);
        check("evil.example", false);
        check("localhost.evil.example", false);
        check("127.0.0.1.evil.example", false);
        check("127.0.0.1:80@evil", false);
        check("", false);
    }

    #[test]
    fn tokens() {
        let guard = Guard::new("secret".into(), []);
        let check = |value: &str, basic: bool, expect: bool| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            assert_eq!(guard.lets_in(&headers, basic), expect, "{value}");
        };
        let pair = |text: &str| {
            format!(
                "Basic {}",
                base64::engine::general_purpose::STANDARD.encode(text)
            )
        };
        check("Bearer secret", false, true);
        check("bearer secret", true, true);
        check("Bearer  secret", false, true);
        check("Bearer secre", false, false);
        check("Bearer secrets", false, false);
        check("Bearer ", false, false);
        check("secret", false, false);
        check(&pair("any:secret"), true, true);
        check(&pair(":secret"), true, true);
        check(&pair("any:secret"), false, false);
        check(&pair("any:wrong"), true, false);
        check(&pair("secret"), true, false);
        check(&pair("a:b:secret"), true, false);
        check("Basic !!!", true, false);
        assert!(!guard.lets_in(&HeaderMap::new(), true));
    }
}
