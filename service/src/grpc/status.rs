//! Problems of the HTTP API as gRPC statuses.

use chalk_core::wire::{Problem, problem as kinds};
use tonic::{Code, Status};

use crate::http::ApiError;

/// The code that says best what a problem is.
fn code(problem: &Problem) -> Code {
    match &*problem.kind {
        kinds::NOT_RUNNING | kinds::BASE_PLATFORM => return Code::FailedPrecondition,
        kinds::TOO_LARGE => return Code::ResourceExhausted,
        kinds::NAME_TAKEN => return Code::AlreadyExists,
        kinds::TIMED_OUT => return Code::DeadlineExceeded,
        kinds::AMBIGUOUS => return Code::InvalidArgument,
        _ => {}
    }
    match problem.status {
        400 | 405 | 415 => Code::InvalidArgument,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        409 => Code::FailedPrecondition,
        413 | 429 => Code::ResourceExhausted,
        502..=504 => Code::Unavailable,
        _ => Code::Internal,
    }
}

/// What a problem says, in one line.
pub(crate) fn words(problem: &Problem) -> String {
    let mut words = problem.title.clone();
    for more in [&problem.detail, &problem.hint] {
        if !more.is_empty() {
            words = format!("{words}: {more}");
        }
    }
    words
}

/// The status of a problem.
pub(super) fn of(problem: &Problem) -> Status {
    Status::new(code(problem), words(problem))
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let problem = error.told();
        of(&problem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_keep_their_words() {
        let error = ApiError::not_found("no such build", "there is no build `7`");
        let status = Status::from(error);
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(status.message(), "no such build: there is no build `7`");
        let error = ApiError::unavailable("the service stops", "");
        let status = Status::from(error);
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(status.message(), "the service stops: try again later");
    }
}
