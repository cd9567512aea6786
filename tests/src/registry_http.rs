//! A registry by plain requests of the OCI distribution specification, with no code of ours but
//! the digests in between.

use chalk_core::AnyDigest;
use chalk_core::any_digest::Algorithm;
use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::service::Service;

/// Media type of an image manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an image index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of the empty descriptor (OCI image specification, `manifest.md`).
pub const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// An answer, with all of its body.
#[derive(Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Header fields.
    pub headers: HeaderMap,
    /// Body.
    pub body: Vec<u8>,
}

impl Reply {
    /// Expects a status.
    #[track_caller]
    pub fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}\n{}", self.text());
        self
    }

    /// A header field, empty when it is not there.
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().expect("plain text"))
    }

    /// Expects a header field.
    #[track_caller]
    pub fn has(self, name: &str, value: &str) -> Self {
        assert_eq!(self.header(name), value, "{name} of {self:?}");
        self
    }

    /// Where it sends the client.
    #[track_caller]
    pub fn location(&self) -> String {
        let location = self.header("location");
        assert!(!location.is_empty(), "no Location: {self:?}");
        location.to_owned()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        match serde_json::from_slice(&self.body) {
            Ok(value) => value,
            Err(error) => panic!("no JSON ({error}): {self:?}"),
        }
    }

    /// Expects an error of the specification's form and of this code (spec.md, "Error Codes").
    #[track_caller]
    pub fn error(&self, code: &str) {
        let errors = self.json();
        let errors = errors["errors"].as_array().expect("a list of errors");
        assert!(!errors.is_empty(), "{self:?}");
        for error in errors {
            assert_eq!(error["code"], code, "{}", self.text());
            let message = error["message"].as_str().unwrap_or_default();
            assert!(!message.is_empty(), "{}", self.text());
        }
    }
}

/// A client of one registry.
#[derive(Debug)]
pub struct RegistryHttp {
    base: String,
    token: Option<String>,
    http: reqwest::Client,
    runtime: Runtime,
}

impl RegistryHttp {
    /// Of a service's registry, with its token.
    pub fn of(service: &Service) -> Self {
        Self::at(service.url(), Some(service.token()))
    }

    /// Of the registry at `base` (`http://host:port`), with a bearer token or none.
    pub fn at(base: &str, token: Option<&str>) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let redirect = reqwest::redirect::Policy::none();
        let http = reqwest::Client::builder().no_proxy().redirect(redirect);
        Self {
            base: base.to_owned(),
            token: token.map(str::to_owned),
            http: http.build().expect("a client"),
            runtime: runtime.expect("a runtime"),
        }
    }

    /// Sends a request to a path, or to an address that the registry gave.
    #[track_caller]
    pub fn ask(
        &self,
        method: &str,
        at: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Reply {
        match self.try_ask(method, at, headers, body) {
            Ok(reply) => reply,
            Err(error) => panic!("{method} {at}: {error:?}"),
        }
    }

    /// As [`ask`](Self::ask), where the answer may break off.
    ///
    /// # Errors
    /// When it does.
    pub fn try_ask(
        &self,
        method: &str,
        at: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> reqwest::Result<Reply> {
        let url = match at.starts_with('/') {
            true => format!("{}{at}", self.base),
            false => at.to_owned(),
        };
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let mut request = self.http.request(method, url).body(body);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.runtime.block_on(async {
            let answer = request.send().await?;
            Ok(Reply {
                status: answer.status().as_u16(),
                headers: answer.headers().clone(),
                body: answer.bytes().await?.to_vec(),
            })
        })
    }

    /// Sends a body of unknown length.
    #[track_caller]
    pub fn stream(
        &self,
        method: &str,
        at: &str,
        headers: &[(&str, &str)],
        parts: &[&[u8]],
    ) -> Reply {
        let parts: Vec<std::io::Result<Vec<u8>>> =
            parts.iter().map(|part| Ok(part.to_vec())).collect();
        let body = reqwest::Body::wrap_stream(futures_util::stream::iter(parts));
        self.ask(method, at, headers, body)
    }

    /// `GET` without anything else.
    #[track_caller]
    pub fn get(&self, at: &str) -> Reply {
        self.ask("GET", at, &[], "")
    }

    /// `HEAD` without anything else.
    #[track_caller]
    pub fn head(&self, at: &str) -> Reply {
        self.ask("HEAD", at, &[], "")
    }

    /// `DELETE` without anything else.
    #[track_caller]
    pub fn delete(&self, at: &str) -> Reply {
        self.ask("DELETE", at, &[], "")
    }

    /// Opens an upload; where it goes on.
    #[track_caller]
    pub fn upload(&self, repository: &str) -> String {
        let path = format!("/v2/{repository}/blobs/uploads/");
        self.ask("POST", &path, &[], "").is(202).location()
    }

    /// Pushes a blob that is named by `algorithm`.
    #[track_caller]
    pub fn push_blob_as(&self, repository: &str, bytes: &[u8], algorithm: Algorithm) -> AnyDigest {
        let digest = AnyDigest::of(algorithm, bytes);
        let end = with(&self.upload(repository), &format!("digest={digest}"));
        self.ask("PUT", &end, &[], bytes.to_vec()).is(201);
        digest
    }

    /// Pushes a blob.
    #[track_caller]
    pub fn push_blob(&self, repository: &str, bytes: &[u8]) -> AnyDigest {
        self.push_blob_as(repository, bytes, Algorithm::Sha256)
    }

    /// Pushes a manifest under a tag or a digest.
    #[track_caller]
    pub fn push_manifest(&self, repository: &str, name: &str, kind: &str, text: &str) -> Reply {
        let path = format!("/v2/{repository}/manifests/{name}");
        self.ask("PUT", &path, &[("content-type", kind)], text.to_owned())
    }

    /// Pushes an image of one layer under a tag; its digest, and its text.
    #[track_caller]
    pub fn push_image(&self, repository: &str, tag: &str) -> (AnyDigest, String) {
        let text = self.image(repository, Algorithm::Sha256).to_string();
        self.push_manifest(repository, tag, MANIFEST, &text).is(201);
        (AnyDigest::of(Algorithm::Sha256, text.as_bytes()), text)
    }

    /// Pushes the blobs of an image of one layer that no other has; its manifest.
    #[track_caller]
    pub fn image(&self, repository: &str, algorithm: Algorithm) -> Value {
        let mark = crate::world::unique();
        let config = json!({"os": "linux", "architecture": "amd64", "author": mark});
        let push = |kind: &str, bytes: &[u8]| {
            let digest = self.push_blob_as(repository, bytes, algorithm);
            descriptor(kind, &digest, bytes.len())
        };
        let config = push(
            "application/vnd.oci.image.config.v1+json",
            config.to_string().as_bytes(),
        );
        let layer = push(
            "application/vnd.oci.image.layer.v1.tar",
            format!("layer {mark}").as_bytes(),
        );
        json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config,
            "layers": [layer],
        })
    }
}

/// A descriptor (OCI image specification, `descriptor.md`).
pub fn descriptor(kind: &str, digest: &AnyDigest, size: usize) -> Value {
    json!({"mediaType": kind, "digest": digest, "size": size})
}

/// A location with one more parameter.
pub fn with(location: &str, parameter: &str) -> String {
    let joint = if location.contains('?') { '&' } else { '?' };
    format!("{location}{joint}{parameter}")
}
