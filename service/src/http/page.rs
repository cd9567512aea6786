//! The page at `/`: static files that anybody may read who knows a name of the service. They come
//! from the program itself, or from the folder that the setting `web.dir` names.
//!
//! Requests never touch the file system: all files are read before the first one, so no path of a
//! request can lead anywhere else.

mod pack;

use std::collections::BTreeMap;
use std::path::Path;

use axum::body::{Body, Bytes};
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use percent_encoding::percent_decode_str;

pub(crate) use pack::PackError;

/// What the page may do. Scripts, the engine and its worker come from the service and nowhere else,
/// and the service is all they talk to.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What the frame may do that runs the user's JavaScript: compute, and nothing else. `sandbox` gives
/// it an origin of its own also where it is opened by itself. Its one script stands in the document,
/// whose own policy names it by its hash.
const SANDBOX_POLICY: &str = "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline' blob:; worker-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'";

/// The frame that runs the user's JavaScript.
const SANDBOX: &str = "sandbox.html";

/// Shown by a program that was built without the page.
const ABSENT: &str = "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>chalkcompute</title>\n<h1>This service was built without its page</h1>\n<p>Run <code>cargo xtask web</code> and build <code>chalk</code> again, or name the folder of a built page in the setting <code>web.dir</code>.</p>\n<p>The API describes itself at <code>/v1/openapi.json</code>, which needs the token.</p>\n</html>\n";

/// A file that the build script took in.
struct Embedded {
    path: &'static str,
    media_type: &'static str,
    tag: &'static str,
    immutable: bool,
    bytes: &'static [u8],
    gzip: Option<&'static [u8]>,
}

/// Written by the build script from `web/dist`; empty where that is not built.
const EMBEDDED: &[Embedded] = include!(concat!(env!("OUT_DIR"), "/page.rs"));

/// The files of the page.
pub(crate) struct Page {
    /// By path without the slash in front.
    files: BTreeMap<String, File>,
}

struct File {
    media_type: &'static str,
    tag: String,
    immutable: bool,
    bytes: Bytes,
    gzip: Option<Bytes>,
    policy: &'static str,
    status: StatusCode,
}

impl std::fmt::Debug for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.files.keys()).finish()
    }
}

impl Page {
    /// The page of the program, or a note in its place that says how to get it.
    pub(crate) fn embedded() -> Self {
        let files = EMBEDDED.iter().map(|file| {
            let served = File {
                media_type: file.media_type,
                tag: file.tag.to_owned(),
                immutable: file.immutable,
                bytes: Bytes::from_static(file.bytes),
                gzip: file.gzip.map(Bytes::from_static),
                policy: policy(file.path),
                status: StatusCode::OK,
            };
            (file.path.to_owned(), served)
        });
        let files: BTreeMap<_, _> = files.collect();
        if files.is_empty() {
            return Self::absent();
        }
        Self { files }
    }

    fn absent() -> Self {
        let note = File {
            media_type: "text/html; charset=utf-8",
            tag: "absent".to_owned(),
            immutable: false,
            bytes: Bytes::from_static(ABSENT.as_bytes()),
            gzip: None,
            policy: PAGE_POLICY,
            status: StatusCode::NOT_FOUND,
        };
        Self {
            files: BTreeMap::from([("index.html".to_owned(), note)]),
        }
    }

    /// The page in `folder`, as it is now. Blocks.
    ///
    /// # Errors
    /// When the folder does not hold a page, or cannot be read.
    pub(crate) fn read(folder: &Path) -> Result<Self, PackError> {
        let files = pack::pack(folder)?.into_iter().map(|file| {
            let served = File {
                media_type: file.media_type,
                tag: file.tag,
                immutable: file.immutable,
                bytes: file.bytes.into(),
                gzip: file.gzip.map(Bytes::from),
                policy: policy(&file.path),
                status: StatusCode::OK,
            };
            (file.path, served)
        });
        Ok(Self {
            files: files.collect(),
        })
    }

    /// Whether a request is for a file of the page.
    pub(crate) fn has(&self, method: &Method, path: &str) -> bool {
        self.find(method, path).is_some()
    }

    /// The answer to a request for a file of the page.
    pub(crate) fn answer(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Option<Response> {
        self.find(method, path)
            .map(|file| file.answer(method, headers))
    }

    fn find(&self, method: &Method, path: &str) -> Option<&File> {
        if method != Method::GET && method != Method::HEAD {
            return None;
        }
        match path.strip_prefix('/')? {
            "" => self.files.get("index.html"),
            path => self
                .files
                .get(percent_decode_str(path).decode_utf8().ok()?.as_ref()),
        }
    }
}

fn policy(path: &str) -> &'static str {
    if path == SANDBOX {
        SANDBOX_POLICY
    } else {
        PAGE_POLICY
    }
}

impl File {
    fn answer(&self, method: &Method, headers: &HeaderMap) -> Response {
        let gzip = self.gzip.as_ref().filter(|_| takes_gzip(headers));
        let body = gzip.unwrap_or(&self.bytes);
        let suffix = if gzip.is_some() { "-gzip" } else { "" };
        let tag = format!("\"{}{suffix}\"", self.tag);
        let known = self.status == StatusCode::OK && names(headers, &tag);

        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status;
        if known {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        } else if method == Method::GET {
            *response.body_mut() = Body::from(body.clone());
        }
        let caching = match (self.status, self.immutable) {
            (StatusCode::OK, true) => "public, max-age=31536000, immutable",
            (StatusCode::OK, false) => "no-cache",
            _ => "no-store",
        };
        let fixed = [
            (header::CONTENT_TYPE, self.media_type),
            (header::CACHE_CONTROL, caching),
            (header::VARY, "accept-encoding"),
            (header::CONTENT_SECURITY_POLICY, self.policy),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
            (
                HeaderName::from_static("cross-origin-opener-policy"),
                "same-origin",
            ),
            // The sandbox's frame has an origin of its own. What lies here is no secret.
            (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        ];
        let out = response.headers_mut();
        for (name, value) in fixed {
            out.insert(name, HeaderValue::from_static(value));
        }
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            out.insert(header::ETAG, tag);
        }
        if !known {
            out.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
            if gzip.is_some() {
                out.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            }
        }
        response
    }
}

/// Whether `Accept-Encoding` lets us send gzip (RFC 9110, section 12.5.3).
fn takes_gzip(headers: &HeaderMap) -> bool {
    let mut any = None;
    for (coding, quality) in items(headers, &header::ACCEPT_ENCODING).map(coding) {
        match coding.as_str() {
            "gzip" | "x-gzip" => return quality,
            "*" => any = Some(quality),
            _ => {}
        }
    }
    any.unwrap_or(false)
}

/// A coding, and whether it is wanted at all.
fn coding(item: &str) -> (String, bool) {
    let mut parts = item.split(';').map(str::trim);
    let name = parts.next().unwrap_or_default().to_lowercase();
    let quality = parts.find_map(|part| {
        let value = part.strip_prefix("q=").or(part.strip_prefix("Q="))?;
        value.parse::<f32>().ok()
    });
    (name, quality.is_none_or(|quality| quality > 0.0))
}

/// Whether `If-None-Match` names the tag (RFC 9110, section 13.1.2).
fn names(headers: &HeaderMap, tag: &str) -> bool {
    items(headers, &header::IF_NONE_MATCH).any(|item| item == "*" || weak(item) == tag)
}

fn weak(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag)
}

/// Items of a list that may stand in several headers.
fn items<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    let values = headers.get_all(name).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(str::trim))
}

#[cfg(test)]
mod tests;
