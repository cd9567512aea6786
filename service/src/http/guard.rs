//! What every request passes before a handler sees it: a request number for the log, the checks of
//! `Host` and `Origin`, and the token check.
//!
//! A browser lets any page send requests to any address, so a page must not get further here than
//! its origin allows, whatever else it knows. Files of the page are free to all, since browsers ask
//! for them in ways that carry neither token nor origin.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use chalk_core::wire::problem;
use tracing::Instrument;

use super::allows::allows;
use super::audit::{self, Peer, RequestId};
use super::page::Page;
use super::problem::ApiError;
use super::refusals::{Manner, failed, registry_denied, registry_unauthorized};
use super::registry_token;
use crate::access::audit::Audit;
use crate::access::{Access, Principal};
use crate::grpc;
use crate::settings::{AllowedOrigin, WebOrigin};
use crate::tls::OverTls;
use crate::volumes::addresses;

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Paths that need no token.
pub(crate) const OPEN_PATHS: [&str; 2] = ["/healthz", "/readyz"];

/// Who may ask, and under which names.
#[derive(Debug)]
pub(crate) struct Guard {
    access: Arc<Access>,
    audit: Arc<Audit>,
    hosts: Vec<String>,
    origins: Vec<AllowedOrigin>,
    page: Arc<Page>,
    requests: AtomicU64,
}

impl Guard {
    /// `hosts` are names without port, besides loopback names and IP addresses; `origins` those of
    /// pages that may ask besides our own `page`.
    pub(crate) fn new(
        access: Arc<Access>,
        audit: Arc<Audit>,
        hosts: impl IntoIterator<Item = String>,
        origins: Vec<AllowedOrigin>,
        page: Arc<Page>,
    ) -> Self {
        Self {
            access,
            audit,
            hosts: hosts
                .into_iter()
                .map(|h| without_port(&h).to_lowercase())
                .collect(),
            origins,
            page,
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

    /// Whether a page of another origin may talk to us.
    pub(crate) fn allows_origin(&self, origin: &HeaderValue) -> bool {
        let origin = origin.to_str().unwrap_or_default();
        self.origins.iter().any(|allowed| allowed.allows(origin))
    }

    /// Whether pages of other origins may talk to us at all.
    pub(crate) fn has_origins(&self) -> bool {
        !self.origins.is_empty()
    }

    /// The page of another origin that a request to `host` comes from, if it may not ask. Browsers
    /// send `Origin` with all requests but plain `GET`s, and `Sec-Fetch-Site` (Fetch Metadata)
    /// with all; no page can change either. Programs send none of them.
    fn foreign_origin(&self, headers: &HeaderMap, host: &str) -> Option<String> {
        let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
        let mut origins = headers.get_all(header::ORIGIN).iter();
        match (origins.next(), origins.next()) {
            (None, _) => match site {
                None | Some(b"same-origin" | b"none") => None,
                Some(_) => Some("another site".to_owned()),
            },
            (Some(origin), None) => {
                let text = origin.to_str().unwrap_or_default();
                // Behind a proxy that changes the host, the browser alone knows.
                let own = site == Some(b"same-origin")
                    || text.parse().is_ok_and(|o: WebOrigin| o.is_at(host));
                (!own && !self.allows_origin(origin)).then(|| format!("`{text}`"))
            }
            (Some(_), Some(_)) => Some("several origins".to_owned()),
        }
    }

    /// Whose token the headers carry.
    #[cfg(test)]
    fn who(&self, headers: &HeaderMap, basic: bool) -> Option<Principal> {
        self.access.who(&presented(headers, basic)?)
    }
}

/// The token that headers carry: as bearer, or with `basic` as the password of any user, since that
/// is what container engines send after a login.
pub(super) fn presented(headers: &HeaderMap, basic: bool) -> Option<Vec<u8>> {
    let value = headers.get(header::AUTHORIZATION)?;
    let (scheme, rest) = value.to_str().ok()?.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.as_bytes().to_vec());
    }
    if !(basic && scheme.eq_ignore_ascii_case("basic")) {
        return None;
    }
    let pair = base64::engine::general_purpose::STANDARD
        .decode(rest)
        .ok()?;
    let colon = pair.iter().position(|&b| b == b':')?;
    Some(pair[colon + 1..].to_vec())
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

/// Numbers a request, logs it, and checks host and origin.
pub(crate) async fn guard(
    State(guard): State<Arc<Guard>>,
    mut request: Request,
    next: Next,
) -> Response {
    let id = format!("{:08x}", guard.requests.fetch_add(1, Ordering::Relaxed) + 1);
    request.extensions_mut().insert(RequestId(id.clone()));
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let span = tracing::info_span!("request", request = id, %method, path);
    let start = Instant::now();
    let answer = async {
        match check_sender(&guard, &request) {
            Ok(()) => next.run(request).await,
            Err(refusal) => refusal.into_response(),
        }
    };
    let mut response = answer.instrument(span.clone()).await;
    let status = response.status().as_u16();
    let ms = start.elapsed().as_secs_f64() * 1000.0;
    span.in_scope(|| tracing::debug!(status, ms, "answered"));
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert("x-request-id", id);
    }
    // W3C Server Timing: what the service itself took, without the way and the queues before it.
    if let Ok(timing) = HeaderValue::from_str(&format!("service;dur={ms:.3}")) {
        headers.insert(SERVER_TIMING, timing);
    }
    response
}

/// `host[:port]` that a request was sent to.
pub(super) fn host_of(request: &Request) -> String {
    // HTTP/2 carries the name in the URI.
    let authority = request.uri().authority().map(Authority::as_str);
    let host = || request.headers().get(header::HOST)?.to_str().ok();
    authority.or_else(host).unwrap_or_default().to_owned()
}

/// `http[s]://host[:port]` that a request was sent to, as far as can be told: a proxy in front of us
/// says which protocol its client spoke.
pub(super) fn reached_by(request: &Request) -> String {
    let forwarded = request.headers().get("x-forwarded-proto");
    let secure = request.extensions().get::<OverTls>().is_some()
        || forwarded.is_some_and(|protocol| protocol == "https");
    let scheme = if secure { "https" } else { "http" };
    format!("{scheme}://{}", host_of(request))
}

fn check_sender(guard: &Guard, request: &Request) -> Result<(), ApiError> {
    let host = &*host_of(request);
    if !guard.knows_host(host) {
        return Err(ApiError::new(
            problem::MISDIRECTED,
            421,
            "unknown host",
            format!("this service is not known as `{host}`"),
            "use its address, or add the name to the service's setting `serve.hosts`",
        ));
    }
    if guard.page.has(request.method(), request.uri().path()) {
        return Ok(());
    }
    match guard.foreign_origin(request.headers(), host) {
        None => Ok(()),
        Some(origin) => Err(ApiError::new(
            problem::FOREIGN_ORIGIN,
            403,
            "a web page of another origin may not use this service",
            format!("the request was made by a page of {origin}"),
            "open the service's own page, or add the origin to the service's setting `serve.cors_origins`",
        )),
    }
}

/// Checks the token, and what it is good for; handlers find its owner among the extensions.
pub(crate) async fn token(
    State(guard): State<Arc<Guard>>,
    mut request: Request,
    next: Next,
) -> Response {
    let manner = Manner::of(&request);
    if manner == Manner::Grpc {
        let reached = reached_by(&request);
        request.extensions_mut().insert(grpc::Reached(reached));
    }
    let path = request.uri().path();
    // The addresses of objects are permissions themselves, and forms have the login in them.
    let open = OPEN_PATHS.contains(&path)
        || addresses::is_signed(request.uri())
        || path == registry_token::PATH && request.method() == Method::POST
        || guard.page.has(request.method(), path);
    if open || manner == Manner::Grpc && grpc::is_open(path) {
        return next.run(request).await;
    }
    let access = &guard.access;
    let token = presented(request.headers(), manner == Manner::Registry);
    let Some(who) = token.as_ref().and_then(|token| access.who(token)) else {
        // Engines ask without a token first, to learn how to log in.
        if request.headers().contains_key(header::AUTHORIZATION)
            && let Err(wait) = failed(access, request.extensions().get::<Peer>())
        {
            return manner.too_many(wait);
        }
        return manner.unauthorized(&request);
    };
    if let Some(id) = limited(&who)
        && let Err(wait) = access.rates().token(id)
    {
        return manner.too_many(wait);
    }
    let scope = access.scope(&who);
    let asked = audit::Asked::new(access, &who, &request);
    if let Err(refusal) = allows(&who, scope.as_ref(), request.method(), path) {
        audit::denied(&guard.audit, asked).await;
        return match manner {
            // A token of the registry may be too narrow for what its owner may do.
            Manner::Registry if matches!(who, Principal::Removed(_)) || refusal.is_narrow() => {
                registry_unauthorized(&request)
            }
            Manner::Registry => registry_denied(),
            // No role would help.
            Manner::Grpc if !grpc::is_served(path) && !matches!(who, Principal::Removed(_)) => {
                grpc::unimplemented(path)
            }
            Manner::Grpc => grpc::answer(refusal.into()),
            Manner::Api => refusal.into_response(),
        };
    }
    if let Some(scope) = scope {
        request.extensions_mut().insert(scope);
    }
    request.extensions_mut().insert(who);
    let carried_out = audit::carry_out(&guard.audit, asked, request, next).await;
    carried_out.unwrap_or_else(|fault| manner.fault(fault))
}

/// The token whose requests are counted: those of clients. Nodes and the administrator are the
/// service's own.
fn limited(who: &Principal) -> Option<&Arc<str>> {
    match who {
        Principal::Client(grant) => Some(&grant.id),
        Principal::Puller { grant, .. } | Principal::Registry { grant, .. } => {
            grant.as_ref().map(|grant| &grant.id)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::clients::Clients;
    use crate::access::rates::Rates;
    use crate::ledger::Ledger;
    use crate::projects::Projects;
    use crate::settings;
    use crate::signing::SigningKey;

    fn guard(hosts: &[&str], origins: &[&str]) -> Guard {
        let origins = origins.iter().map(|text| (*text).to_owned().try_into());
        let origins = origins.collect::<Result<_, _>>().unwrap();
        let hosts = hosts.iter().map(|host| (*host).to_owned());
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&dir.path().join("l")).unwrap();
        let ledger = Arc::new(ledger);
        let blobs = chalk_store::BlobStore::open(dir.path().join("store")).unwrap();
        let access = Access::new(
            "secret".into(),
            Arc::default(),
            Clients::load(ledger.clone()).unwrap().into(),
            Projects::load(ledger, blobs).unwrap().into(),
            SigningKey::new([1; 32]),
            Rates::new(&settings::Limits::default()),
        );
        let audit = Audit::open(&dir.path().join("audit"), 1 << 20).unwrap();
        Guard::new(
            access.into(),
            audit.into(),
            hosts,
            origins,
            Page::embedded().into(),
        )
    }

    #[test]
    fn origins() {
        let check = |allowed: &[&str], host: &str, sent: &[(&'static str, &str)], passes: bool| {
            let mut headers = HeaderMap::new();
            for (name, value) in sent {
                headers.append(*name, HeaderValue::from_str(value).unwrap());
            }
            let foreign = guard(&[], allowed).foreign_origin(&headers, host);
            assert_eq!(foreign.is_none(), passes, "{allowed:?} {host} {sent:?}");
        };
        let (origin, site, host) = ("origin", "sec-fetch-site", "127.0.0.1:7474");
        // Programs, addresses typed by hand, and the service's own page.
        check(&[], host, &[], true);
        check(&[], host, &[(site, "none")], true);
        check(&[], host, &[(site, "same-origin")], true);
        check(&[], host, &[(origin, "http://127.0.0.1:7474")], true);
        check(&[], "[::1]:7474", &[(origin, "http://[::1]:7474")], true);
        check(
            &[],
            "chalk.example",
            &[(origin, "https://chalk.example")],
            true,
        );
        let behind_proxy = [(origin, "https://chalk.example"), (site, "same-origin")];
        check(&[], host, &behind_proxy, true);
        // Others.
        check(&[], host, &[(site, "cross-site")], false);
        check(&[], host, &[(site, "same-site")], false);
        check(&[], host, &[(site, "")], false);
        check(&[], host, &[(origin, "")], false);
        check(&[], host, &[(origin, "null")], false);
        check(&[], host, &[(origin, "null"), (site, "cross-site")], false);
        check(&[], host, &[(origin, "http://evil.example")], false);
        check(&[], host, &[(origin, "http://127.0.0.1:8080")], false);
        check(&[], host, &[(origin, "http://localhost:7474")], false);
        check(&[], "[::1]:7474", &[(origin, "http://[::2]:7474")], false);
        let twice = [
            (origin, "http://127.0.0.1:7474"),
            (origin, "http://evil.example"),
        ];
        check(&[], host, &twice, false);
        // Others that are let in.
        let page = "https://page.example";
        check(&[page], host, &[(origin, page), (site, "cross-site")], true);
        check(
            &[page],
            host,
            &[(origin, "https://page.example.evil.example")],
            false,
        );
        check(&[page], host, &[(origin, "http://page.example")], false);
        check(&[page], host, &[(origin, "null")], false);
        check(&[page], host, &[(site, "cross-site")], false);
        check(&["*"], host, &[(origin, "null")], true);
        check(&["*"], host, &[(origin, "http://any.example")], true);
    }

    #[test]
    fn hosts() {
        let guard = guard(&["Chalk.example:443"], &[]);
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
        let guard = guard(&[], &[]);
        let check = |value: &str, basic: bool, expect: bool| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            let admin = Some(Principal::Admin);
            assert_eq!(guard.who(&headers, basic) == admin, expect, "{value}");
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
        assert_eq!(guard.who(&HeaderMap::new(), true), None);
    }
}
