//! Errors as RFC 9457 problem documents.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chalk_core::wire::{Problem, problem};

/// What a handler fails with: a [`Problem`], and what only the log may know.
#[derive(Debug)]
pub(crate) struct ApiError {
    problem: Box<Problem>,
    /// The whole chain of causes of a fault of ours.
    cause: Option<String>,
    /// Whether another token of the same owner would do.
    narrow: bool,
}

pub(crate) type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    pub(crate) fn new(
        kind: &str,
        status: u16,
        title: impl Into<String>,
        detail: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        let problem = Box::new(Problem {
            kind: kind.to_owned(),
            title: title.into(),
            status,
            detail: detail.into(),
            hint: hint.into(),
        });
        Self {
            problem,
            cause: None,
            narrow: false,
        }
    }

    /// The same, where another token of the same owner would do.
    pub(crate) fn narrow(mut self) -> Self {
        self.narrow = true;
        self
    }

    /// Whether another token of the same owner would do.
    pub(crate) fn is_narrow(&self) -> bool {
        self.narrow
    }

    /// The request is wrong.
    pub(crate) fn bad_request(
        title: impl Into<String>,
        detail: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self::new(problem::BAD_REQUEST, 400, title, detail, hint)
    }

    /// Nothing by that name.
    pub(crate) fn not_found(title: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(problem::NOT_FOUND, 404, title, detail, "")
    }

    /// The service cannot take it now.
    pub(crate) fn unavailable(title: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(problem::UNAVAILABLE, 503, title, detail, "try again later")
    }

    /// A body over its limit.
    pub(crate) fn too_large(what: &str, limit: u64, hint: impl Into<String>) -> Self {
        Self::new(
            problem::TOO_LARGE,
            413,
            format!("{what} is too large"),
            format!("at most {limit} bytes are taken"),
            hint,
        )
    }

    /// A fault of the service: the client is told what failed, the log why.
    pub(crate) fn internal(title: impl Into<String>, error: &dyn std::error::Error) -> Self {
        let mut cause = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            cause = format!("{cause}: {error}");
            source = error.source();
        }
        let mut api = Self::new(
            problem::INTERNAL,
            500,
            title,
            error.to_string(),
            "see the service's log",
        );
        api.cause = Some(cause);
        api
    }

    /// What the client is told; the log is told more, where it is a fault of ours.
    pub(crate) fn told(self) -> Problem {
        let Self { problem, cause, .. } = self;
        if problem.status >= 500 {
            let cause = cause.as_deref().unwrap_or(&problem.detail);
            tracing::error!(title = problem.title, cause, "request failed");
        }
        *problem
    }

    #[cfg(test)]
    pub(crate) fn problem(&self) -> &Problem {
        &self.problem
    }
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        Self {
            problem: Box::new(problem),
            cause: None,
            narrow: false,
        }
    }
}

impl From<ApiError> for Problem {
    fn from(error: ApiError) -> Self {
        error.told()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let problem = self.told();
        let status =
            StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}
