//! Why a build failed.

use chalk_core::Digest;
use chalk_core::wire::{Problem, problem};

use crate::bases::BaseError;

/// Why an engine could not plan or build.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The build was cancelled.
    #[error("the build was cancelled")]
    Cancelled,
    /// A step failed; its `StepFailed` event was emitted.
    #[error("step {} ({title}) failed: {message}", step + 1)]
    Step {
        /// Index in the steps.
        step: usize,
        /// Its one-line title.
        title: String,
        /// Exit code of its process, when there was one.
        exit_code: Option<i32>,
        /// Why.
        message: String,
        /// Last lines of its output.
        tail: Vec<String>,
    },
    /// The spec cannot be built as it stands.
    #[error("{0}")]
    Spec(String),
    /// A step names a secret that the build was not given.
    #[error("step {} ({title}) needs the secret `{name}`, which was not given", step + 1)]
    MissingSecret {
        /// Index in the steps.
        step: usize,
        /// Its one-line title.
        title: String,
        /// Name of the secret.
        name: String,
    },
    /// Files that the spec names are not in the store.
    #[error("{} file(s) of the spec are not in the store, first {}", .0.len(), .0.first().map(ToString::to_string).unwrap_or_default())]
    MissingBlobs(Vec<Digest>),
    /// A base cannot be had.
    #[error(transparent)]
    Base(Box<BaseError>),
    /// The regional registry or the store failed.
    #[error("cannot {doing}: {cause}")]
    Storage {
        /// What was tried, in words: `publish the image`.
        doing: String,
        /// What went wrong.
        cause: String,
    },
    /// The regional registry cannot be reached or lets nobody in.
    #[error("cannot {doing}: {cause}")]
    Registry {
        /// What was tried, in words: `publish the image`.
        doing: String,
        /// What went wrong.
        cause: String,
    },
    /// This host cannot run the build.
    #[error("{0}")]
    Host(String),
}

impl From<BaseError> for EngineError {
    fn from(error: BaseError) -> Self {
        Self::Base(Box::new(error))
    }
}

impl EngineError {
    /// The problem document that clients are shown.
    pub fn problem(&self) -> Problem {
        let (kind, status, title, hint) = match self {
            Self::Cancelled => (problem::CANCELLED, 503, "build cancelled", ""),
            Self::Step { .. } => (
                problem::STEP_FAILED,
                422,
                "a build step failed",
                "read the step's last lines; the steps before it are kept",
            ),
            Self::MissingSecret { .. } => (
                problem::BAD_REQUEST,
                400,
                "a secret is missing",
                "build with `--secret NAME`, or give the service one by its settings `secrets.files` and `secrets.env`",
            ),
            Self::Spec(_) => (problem::BAD_REQUEST, 400, "the spec cannot be built", ""),
            Self::MissingBlobs(_) => (
                problem::BAD_REQUEST,
                400,
                "files are missing",
                "upload them first",
            ),
            Self::Base(error) => return error.problem(),
            Self::Storage { .. } => (
                problem::INTERNAL,
                500,
                "the registry or the store failed",
                "see the service's log",
            ),
            Self::Registry { .. } => (
                problem::REGISTRY_UNREACHABLE,
                502,
                "the regional registry cannot be reached",
                "the image was not published; steps that were pushed are found again. Check the service's settings `registry.*`, and build again",
            ),
            Self::Host(_) => (problem::INTERNAL, 500, "this host cannot run the build", ""),
        };
        Problem {
            kind: kind.to_owned(),
            title: title.to_owned(),
            status,
            detail: self.to_string(),
            hint: hint.to_owned(),
        }
    }
}
