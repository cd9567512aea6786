//! Refusals as the distribution specification words them (spec.md, "Error Codes").

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::registry::error::EmbeddedError;

/// Status, code and details of a refusal.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    errors: Vec<Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refusal {
    fn new(status: StatusCode, code: &str, message: &str) -> Self {
        Self {
            status,
            errors: vec![json!({"code": code, "message": message})],
            headers: Vec::new(),
        }
    }
}

impl From<EmbeddedError> for Refusal {
    fn from(error: EmbeddedError) -> Self {
        use EmbeddedError as E;
        let message = error.to_string();
        let plain = |status, code| Self::new(status, code, &message);
        match &error {
            E::NameInvalid(_) => plain(StatusCode::BAD_REQUEST, "NAME_INVALID"),
            E::NameUnknown(_) => plain(StatusCode::NOT_FOUND, "NAME_UNKNOWN"),
            E::TagInvalid(_) | E::ManifestInvalid(_) => {
                plain(StatusCode::BAD_REQUEST, "MANIFEST_INVALID")
            }
            E::DigestInvalid(_) | E::DigestMismatch { .. } => {
                plain(StatusCode::BAD_REQUEST, "DIGEST_INVALID")
            }
            E::BlobUnknown(_) => plain(StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
            E::ManifestUnknown { .. } => plain(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
            E::ManifestBlobUnknown(missing) => {
                let mut refusal = plain(StatusCode::NOT_FOUND, "MANIFEST_BLOB_UNKNOWN");
                let each = missing.iter().map(|digest| {
                    let message = "the manifest names what this repository does not have";
                    json!({
                        "code": "MANIFEST_BLOB_UNKNOWN",
                        "message": message,
                        "detail": {"digest": digest},
                    })
                });
                refusal.errors = each.collect();
                refusal
            }
            E::Denied(_) => plain(StatusCode::FORBIDDEN, "DENIED"),
            E::ConditionFailed => plain(StatusCode::PRECONDITION_FAILED, "DENIED"),
            E::TooManyTags(_) => plain(StatusCode::URI_TOO_LONG, "SIZE_INVALID"),
            E::TooLarge { .. } => plain(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID"),
            E::SizeInvalid(_) => plain(StatusCode::BAD_REQUEST, "SIZE_INVALID"),
            E::UploadUnknown => plain(StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN"),
            E::UploadInvalid(_) => plain(StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID"),
            E::UploadBusy => {
                let mut refusal = plain(StatusCode::SERVICE_UNAVAILABLE, "BLOB_UPLOAD_INVALID");
                refusal.headers = vec![(header::RETRY_AFTER, HeaderValue::from_static("1"))];
                refusal
            }
            E::OutOfOrder { .. } => plain(StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID"),
            E::TooManyUploads(_) => {
                let mut refusal = plain(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS");
                refusal.headers = vec![(header::RETRY_AFTER, HeaderValue::from_static("5"))];
                refusal
            }
            E::PageInvalid(_) => plain(StatusCode::BAD_REQUEST, "UNSUPPORTED"),
            E::Unsupported(_) => plain(StatusCode::NOT_FOUND, "UNSUPPORTED"),
            E::Bucket { .. } => {
                tracing::error!(%error, "the bucket of the embedded registry failed");
                let message = "the store behind the registry cannot be reached; try again later";
                let mut refusal =
                    Self::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", message);
                refusal.headers = vec![(header::RETRY_AFTER, HeaderValue::from_static("5"))];
                refusal
            }
            E::Blob(_) | E::BucketSettings(_) | E::BucketShared { .. } | E::Io { .. } => {
                // Paths of this machine are nobody's business.
                tracing::error!(%error, "the embedded registry failed");
                let message = "the registry failed; its log says why";
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", message)
            }
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(json!({"errors": self.errors}))).into_response();
        response.headers_mut().extend(self.headers);
        response
    }
}

/// A method that a path does not have.
pub(super) fn not_allowed(allow: &'static str) -> Response {
    let message = format!("this path only takes {allow}");
    let mut refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", &message);
    refusal.headers = vec![(header::ALLOW, HeaderValue::from_static(allow))];
    refusal.into_response()
}
