//! Why a base image cannot be had.

use chalk_core::wire::{Problem, problem};
use chalk_core::{Platform, Reference};
use chalk_store::registry::RegistryError;

/// Why a base image cannot be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BaseError {
    /// No registry that was asked has it.
    #[error("base image {reference} does not exist: {detail}")]
    NotFound {
        /// The image.
        reference: Reference,
        /// Who was asked and what was said.
        detail: String,
    },
    /// The registry wants other credentials.
    #[error("base image {reference} needs a login: {detail}")]
    Denied {
        /// The image.
        reference: Reference,
        /// What the registry said.
        detail: String,
    },
    /// The image is there, but not for this platform.
    #[error("base image {reference} has no {wanted}; it has {}", listed(.available))]
    Platform {
        /// The image.
        reference: Reference,
        /// The platform asked for.
        wanted: Platform,
        /// The platforms there are.
        available: Vec<String>,
    },
    /// The registry could not be reached.
    #[error("the registry of base image {reference} cannot be reached: {detail}")]
    Unreachable {
        /// The image.
        reference: Reference,
        /// What went wrong.
        detail: String,
    },
    /// The registry gave something that is no image.
    #[error("base image {reference} is not usable: {detail}")]
    Invalid {
        /// The image.
        reference: Reference,
        /// What is wrong with it.
        detail: String,
    },
    /// Store or regional registry failed.
    #[error("cannot keep base image {reference}: {detail}")]
    Storage {
        /// The image.
        reference: Reference,
        /// What went wrong.
        detail: String,
    },
}

fn listed(platforms: &[String]) -> String {
    match platforms {
        [] => "none that can be named".to_owned(),
        some => some.join(", "),
    }
}

impl BaseError {
    /// The problem document that clients are shown.
    pub fn problem(&self) -> Problem {
        let (kind, status, title, hint) = match self {
            Self::NotFound { .. } => (
                problem::BASE_NOT_FOUND,
                404,
                "base image not found",
                "check its name and tag, or bring it in with `chalk compute image import PATH --as REF`",
            ),
            Self::Denied { .. } => (
                problem::BASE_DENIED,
                403,
                "base image needs a login",
                "log in with `docker login` as the user of the service; the name may also be wrong, since registries hide private images",
            ),
            Self::Platform { .. } => (
                problem::BASE_PLATFORM,
                400,
                "base image has no such platform",
                "choose one of its platforms, or another base",
            ),
            Self::Unreachable { .. } => (
                problem::REGISTRY_UNREACHABLE,
                502,
                "registry cannot be reached",
                "check network, proxy and mirror settings of the service, or bring the image in with `chalk compute image import PATH --as REF`",
            ),
            Self::Invalid { .. } => (
                problem::BAD_REQUEST,
                400,
                "base image is not usable",
                "choose another base",
            ),
            Self::Storage { .. } => (
                problem::INTERNAL,
                500,
                "the registry or the store failed",
                "see the service's log",
            ),
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

impl BaseError {
    /// What a registry's failure means for the base `reference`.
    pub(super) fn of(reference: &Reference, wanted: &Platform, error: &RegistryError) -> Self {
        let reference = reference.clone();
        let detail = error.to_string();
        match error {
            RegistryError::NotFound { .. } => Self::NotFound { reference, detail },
            RegistryError::Denied { .. } => Self::Denied { reference, detail },
            RegistryError::NoSuchPlatform { available, .. } => Self::Platform {
                reference,
                wanted: wanted.clone(),
                available: available.clone(),
            },
            RegistryError::Unreachable { .. }
            | RegistryError::Unavailable { .. }
            | RegistryError::CaBundle { .. }
            | RegistryError::Setting { .. } => Self::Unreachable { reference, detail },
            RegistryError::DigestMismatch { .. }
            | RegistryError::TooLarge { .. }
            | RegistryError::Protocol { .. } => Self::Invalid { reference, detail },
            _ => Self::Storage { reference, detail },
        }
    }
}
