//! A store with as much of S3's interface as tests need, and with faults.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;

use super::blobs::held;
use super::{Bucket, BucketAccess, Times};
use crate::settings;
use crate::state::StateDir;

/// What becomes of a request instead of an answer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    /// The answer comes later than what it tells of.
    Late(Duration),
    /// What it asks for is done later.
    Slow(Duration),
    /// A bit of the answer is another.
    Damage,
    /// It is refused.
    Refuse,
}

#[derive(Debug, Default)]
struct Inner {
    objects: BTreeMap<String, (Bytes, Timestamp)>,
    /// Method and key, or query of those that are for no object.
    requests: Vec<String>,
    /// What requests begin with, how many of them, and what becomes of them.
    faults: Vec<(String, usize, Fault)>,
}

/// The store. It is served until it is dropped.
#[derive(Debug)]
pub(super) struct Fake {
    pub(super) runtime: tokio::runtime::Runtime,
    pub(super) dir: tempfile::TempDir,
    inner: Arc<Mutex<Inner>>,
    address: SocketAddr,
}

impl Fake {
    pub(super) fn start() -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let inner = Arc::new(Mutex::new(Inner::default()));
        let router = Router::new().fallback(answer);
        let router = router
            .layer(DefaultBodyLimit::disable())
            .with_state(inner.clone());
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, router).await
        });
        Self {
            runtime,
            dir: tempfile::tempdir().unwrap(),
            inner,
            address,
        }
    }

    /// The bucket as a service of that name sees it.
    pub(super) fn bucket(&self, service: &str, times: Times) -> Bucket {
        let keys = self.dir.path().join("keys");
        std::fs::write(&keys, "aws_access_key_id=K\naws_secret_access_key=s\n").unwrap();
        let s3 = settings::S3 {
            bucket: Some("b".to_owned()),
            endpoint: Some(format!("http://{}", self.address)),
            credentials: Some(keys),
            ..settings::S3::default()
        };
        let settings = settings::Registry {
            s3,
            ..settings::Registry::default()
        };
        let access = BucketAccess::new(&settings).unwrap().unwrap();
        let state = StateDir::open(&self.dir.path().join(service)).unwrap();
        let _inside = self.runtime.enter();
        Bucket::with_times(access, &state, times).unwrap()
    }

    pub(super) fn put(&self, key: &str, bytes: impl Into<Bytes>) {
        let object = (bytes.into(), Timestamp::now());
        held(&self.inner).objects.insert(key.to_owned(), object);
    }

    pub(super) fn has(&self, key: &str) -> bool {
        held(&self.inner).objects.contains_key(key)
    }

    /// Requests so far that begin so.
    pub(super) fn requests(&self, begin: &str) -> usize {
        let inner = held(&self.inner);
        let requests = inner.requests.iter();
        requests.filter(|text| text.starts_with(begin)).count()
    }

    /// Lets something become of the next requests that begin so.
    pub(super) fn fault(&self, begin: &str, times: usize, fault: Fault) {
        let fault = (begin.to_owned(), times, fault);
        held(&self.inner).faults.push(fault);
    }
}

async fn answer(
    State(inner): State<Arc<Mutex<Inner>>>,
    method: Method,
    uri: Uri,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let path = uri.path();
    let key = path.strip_prefix("/b").unwrap_or(path);
    let key = key.trim_start_matches('/');
    let what = match key {
        "" => format!("{method} ?{}", uri.query().unwrap_or_default()),
        key => format!("{method} {key}"),
    };
    let fault = {
        let mut inner = held(&inner);
        inner.requests.push(what.clone());
        let mut faults = inner.faults.iter_mut();
        let found = faults.find(|(begin, left, _)| *left > 0 && what.starts_with(begin));
        found.map(|(_, left, fault)| {
            *left -= 1;
            *fault
        })
    };
    match fault {
        Some(Fault::Refuse) => return StatusCode::FORBIDDEN.into_response(),
        Some(Fault::Slow(time)) => tokio::time::sleep(time).await,
        _ => {}
    }
    let damage = matches!(fault, Some(Fault::Damage));
    let done = {
        let mut inner = held(&inner);
        carry_out(&mut inner, &method, key, &query, &headers, body, damage)
    };
    if let Some(Fault::Late(time)) = fault {
        tokio::time::sleep(time).await;
    }
    match done {
        ControlFlow::Continue(response) => response,
        ControlFlow::Break(status) => status.into_response(),
    }
}

fn carry_out(
    inner: &mut Inner,
    method: &Method,
    key: &str,
    query: &BTreeMap<String, String>,
    headers: &HeaderMap,
    body: Bytes,
    damage: bool,
) -> ControlFlow<StatusCode, Response> {
    let objects = &mut inner.objects;
    let response = match *method {
        Method::GET if key.is_empty() => list(objects, query).into_response(),
        Method::PUT => {
            objects.insert(key.to_owned(), (body, Timestamp::now()));
            [(header::ETAG, "\"e\"")].into_response()
        }
        Method::DELETE => {
            objects.remove(key);
            StatusCode::NO_CONTENT.into_response()
        }
        Method::GET | Method::HEAD => {
            let Some((bytes, at)) = objects.get(key) else {
                return ControlFlow::Break(StatusCode::NOT_FOUND);
            };
            let range = headers.get(header::RANGE).map(|range| {
                let (first, last) = range
                    .to_str()
                    .ok()
                    .and_then(|text| text.strip_prefix("bytes=")?.split_once('-'))
                    .unwrap();
                let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
                first..last + 1
            });
            let part = range.clone().unwrap_or(0..bytes.len());
            let mut sent = bytes[part.clone()].to_vec();
            if damage {
                sent[0] ^= 1;
            }
            let at = DateTimePrinter::new().timestamp_to_rfc9110_string(at);
            let mut response = (
                [
                    (header::ETAG, "\"e\"".to_owned()),
                    (header::LAST_MODIFIED, at.unwrap()),
                ],
                sent,
            )
                .into_response();
            if range.is_some() {
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                let range = format!("bytes {}-{}/{}", part.start, part.end - 1, bytes.len());
                let headers = response.headers_mut();
                headers.insert(header::CONTENT_RANGE, range.parse().unwrap());
            }
            response
        }
        // As of stores that do not know the call.
        _ => return ControlFlow::Break(StatusCode::NOT_IMPLEMENTED),
    };
    ControlFlow::Continue(response)
}

/// Objects below a prefix, all in one answer.
fn list(
    objects: &BTreeMap<String, (Bytes, Timestamp)>,
    query: &BTreeMap<String, String>,
) -> String {
    let prefix = query.get("prefix").map_or("", String::as_str);
    let mut text = "<ListBucketResult>".to_owned();
    let mut above = Vec::new();
    for (key, (bytes, at)) in objects {
        let Some(rest) = key.strip_prefix(prefix) else {
            continue;
        };
        match rest.split_once('/') {
            Some((name, _)) if query.contains_key("delimiter") => {
                above.push(format!("{prefix}{name}/"));
            }
            _ => {
                let size = bytes.len();
                text += &format!(
                    "<Contents><Key>{key}</Key><LastModified>{at}</LastModified><Size>{size}</Size><ETag>\"e\"</ETag></Contents>"
                );
            }
        }
    }
    above.dedup();
    for prefix in above {
        text += &format!("<CommonPrefixes><Prefix>{prefix}</Prefix></CommonPrefixes>");
    }
    text + "</ListBucketResult>"
}
