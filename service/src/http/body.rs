//! Request bodies: JSON of bounded size with errors that name the field, and byte streams.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use chalk_core::wire::problem;
use futures_util::StreamExt;
use serde::de::DeserializeOwned;

use super::problem::ApiError;
use crate::service::Service;

/// How long a client may take for a whole JSON body.
const JSON_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a client may be silent while it sends a stream.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// A JSON body of at most `limits.request` bytes.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Arc<Service>> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, service: &Arc<Service>) -> Result<Self, ApiError> {
        let limit = service.settings().limits.request.as_u64();
        let mut stream = Stream::new(request.headers(), limit, "limits.request")?;
        let mut body = request.into_body().into_data_stream();
        let whole = async {
            let mut bytes = Vec::new();
            while let Some(chunk) = stream.next(&mut body).await? {
                bytes.extend_from_slice(&chunk);
            }
            Ok::<_, ApiError>(bytes)
        };
        let bytes = match tokio::time::timeout(JSON_TIMEOUT, whole).await {
            Ok(bytes) => bytes?,
            Err(_) => return Err(too_slow()),
        };
        parse(&bytes).map(Json)
    }
}

/// Reads JSON; errors name field, line and column.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    // Following the path costs time, so only what is wrong is read once more.
    if let Ok(value) = serde_json::from_slice(bytes) {
        return Ok(value);
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let wrong = |detail: String| ApiError::bad_request("the request is wrong", detail, "");
    let value: T = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        if path == "." || inner.is_syntax() || inner.is_eof() {
            wrong(inner.to_string())
        } else {
            wrong(format!("{path}: {inner}"))
        }
    })?;
    deserializer
        .end()
        .map_err(|error| wrong(error.to_string()))?;
    Ok(value)
}

/// Parameters behind the `?`.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match axum::extract::Query::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(error) => Err(ApiError::bad_request(
                "the parameters are wrong",
                error.body_text(),
                "GET /v1/openapi.json describes every call",
            )),
        }
    }
}

/// Parameters in the path.
pub(super) struct Path<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(error) => Err(ApiError::bad_request(
                "the path is wrong",
                error.body_text(),
                "",
            )),
        }
    }
}

/// A body that is read chunk by chunk.
pub(super) struct Stream {
    left: u64,
    limit: u64,
    hint: String,
    announced: u64,
}

impl Stream {
    /// A body of at most `limit` bytes, the value of `setting`; refused at once if it says that it
    /// is longer.
    pub(super) fn new(headers: &HeaderMap, limit: u64, setting: &str) -> Result<Self, ApiError> {
        Self::with_hint(headers, limit, limited_by(setting))
    }

    /// A body of at most `limit` bytes; the hint says what to do with a longer one.
    pub(super) fn with_hint(
        headers: &HeaderMap,
        limit: u64,
        hint: impl Into<String>,
    ) -> Result<Self, ApiError> {
        let says = headers.get(header::CONTENT_LENGTH);
        let says = says.and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        let stream = Self {
            left: limit,
            limit,
            hint: hint.into(),
            announced: says.unwrap_or(0),
        };
        match says {
            Some(length) if length > limit => Err(stream.too_large()),
            _ => Ok(stream),
        }
    }

    /// Bytes that the client says it sends; 0 when it does not say.
    pub(super) fn announced(&self) -> u64 {
        self.announced
    }

    /// The next chunk; `None` at the end.
    pub(super) async fn next(
        &mut self,
        body: &mut axum::body::BodyDataStream,
    ) -> Result<Option<Bytes>, ApiError> {
        let Ok(chunk) = tokio::time::timeout(IDLE_TIMEOUT, body.next()).await else {
            return Err(too_slow());
        };
        let chunk = match chunk {
            None => return Ok(None),
            Some(Ok(chunk)) => chunk,
            Some(Err(error)) => {
                let detail = error.to_string();
                return Err(ApiError::bad_request("the body broke off", detail, ""));
            }
        };
        let length = chunk.len() as u64;
        self.left = self
            .left
            .checked_sub(length)
            .ok_or_else(|| self.too_large())?;
        Ok(Some(chunk))
    }

    fn too_large(&self) -> ApiError {
        ApiError::too_large("the body", self.limit, self.hint.as_str())
    }
}

/// The hint for what is over the limit of a setting.
pub(super) fn limited_by(setting: &str) -> String {
    format!("the service's setting `{setting}` sets the limit")
}

fn too_slow() -> ApiError {
    ApiError::new(
        problem::BAD_REQUEST,
        408,
        "the body came too slowly",
        "the client stopped sending",
        "",
    )
}

/// The stream of a request's body.
pub(super) fn data(body: Body) -> axum::body::BodyDataStream {
    body.into_data_stream()
}

#[cfg(test)]
mod tests {
    use chalk_core::wire::BlobList;

    use super::*;

    #[test]
    fn errors_name_the_field() {
        let check = |json: &str, expect: &str| {
            let error = parse::<BlobList>(json.as_bytes()).err().unwrap();
            assert_eq!(error.problem().status, 400);
            assert_eq!(error.problem().detail, expect);
        };
        check("", "EOF while parsing a value at line 1 column 0");
        check(
            "{\"digests\": [",
            "EOF while parsing a list at line 1 column 13",
        );
        check("{}", "missing field `digests` at line 1 column 2");
        check(
            "{\"digests\":\n [\"x\"]}",
            "digests[0]: `x` is not a digest: expected `sha256:` and 64 lower-case hex digits at line 2 column 6",
        );
        check(
            "{\"digests\": []} x",
            "trailing characters at line 1 column 17",
        );
    }
}
