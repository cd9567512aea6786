//! How the errors of the service's parts are shown to clients.

use chalk_core::wire::blob_batch::InvalidBatch;
use chalk_core::wire::problem;
use chalk_store::BlobError;
use chalk_store::archive::ArchiveError;

use super::problem::ApiError;
use crate::bases::BaseError;
use crate::builds::BuildsError;
use crate::catalog::CatalogError;
use crate::engine::EngineError;
use crate::gc::CollectError;
use crate::index::IndexError;
use crate::registry::{EmbeddedError, RegionalError};
use crate::resolve::ResolveError;
use crate::secrets::SecretError;
use crate::volumes::VolumeError;

impl From<BaseError> for ApiError {
    fn from(error: BaseError) -> Self {
        error.problem().into()
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        error.problem().into()
    }
}

impl From<BlobError> for ApiError {
    fn from(error: BlobError) -> Self {
        match &error {
            BlobError::Mismatch { .. } => Self::new(
                problem::DIGEST_MISMATCH,
                400,
                "the bytes do not have the digest",
                error.to_string(),
                "send the file again; it may have changed while it was sent",
            ),
            _ => Self::internal("the store failed", &error),
        }
    }
}

impl From<SecretError> for ApiError {
    fn from(error: SecretError) -> Self {
        match &error {
            SecretError::Denied(_) => Self::new(
                problem::FORBIDDEN,
                403,
                "a secret is not for this client",
                error.to_string(),
                "give a value by `--secret NAME`, or add the token's name to the service's setting `secrets.clients`",
            ),
            SecretError::Unreadable { .. } => Self::internal("a secret cannot be read", &error),
            SecretError::TooLarge { .. } => Self::new(
                problem::TOO_LARGE,
                413,
                "the secrets are too large",
                error.to_string(),
                "keep what is large in a file that is encrypted, and its key as the secret",
            ),
        }
    }
}

impl From<InvalidBatch> for ApiError {
    fn from(error: InvalidBatch) -> Self {
        Self::bad_request("the batch of blobs is wrong", error.to_string(), "")
    }
}

impl From<ArchiveError> for ApiError {
    fn from(error: ArchiveError) -> Self {
        let ours = match &error {
            ArchiveError::Io { .. } => true,
            ArchiveError::Blob(blob) => !matches!(blob, BlobError::Mismatch { .. }),
            _ => false,
        };
        if ours {
            return Self::internal("the import failed", &error);
        }
        let hint = match &error {
            ArchiveError::Ambiguous { .. } | ArchiveError::NoSuchName { .. } => {
                "name one of them by the parameter `image`"
            }
            ArchiveError::Platform { .. } => "name one of them by the parameter `platform`",
            _ => "",
        };
        Self::bad_request("the archive cannot be imported", error.to_string(), hint)
    }
}

impl From<IndexError> for ApiError {
    fn from(error: IndexError) -> Self {
        Self::internal("the index failed", &error)
    }
}

impl From<RegionalError> for ApiError {
    fn from(error: RegionalError) -> Self {
        match &error {
            RegionalError::Name { .. } => {
                Self::bad_request("the name is wrong", error.to_string(), "")
            }
            error if error.is_unreachable() => Self::new(
                problem::REGISTRY_UNREACHABLE,
                502,
                "the regional registry cannot be reached",
                error.to_string(),
                "check the service's settings `registry.*`",
            ),
            error if error.is_without_deletes() => Self::new(
                problem::CONFLICT,
                409,
                "the regional registry deletes nothing",
                error.to_string(),
                "allow deletes in the registry's configuration; see docs/registry.md, \"Another registry\"",
            ),
            _ => Self::internal("the regional registry failed", &error),
        }
    }
}

impl From<CatalogError> for ApiError {
    fn from(error: CatalogError) -> Self {
        match error {
            CatalogError::NotFound(what) => Self::not_found("no such image", what),
            CatalogError::Ambiguous(_) => Self::new(
                problem::AMBIGUOUS,
                409,
                "several images fit",
                error.to_string(),
                "give more digits",
            ),
            CatalogError::Registry(error) => error.into(),
            CatalogError::Store(error) => Self::internal("the store failed", &error),
            CatalogError::Index(error) => error.into(),
            CatalogError::Damaged { .. } => Self::internal("the image is damaged", &error),
            CatalogError::Stopping => Self::unavailable("the service stops", ""),
        }
    }
}

impl From<BuildsError> for ApiError {
    fn from(error: BuildsError) -> Self {
        match error {
            BuildsError::Stopping => Self::unavailable("the service stops", error.to_string()),
            BuildsError::Full(_) => Self::unavailable("the queue is full", error.to_string()),
            BuildsError::Quota(problem) => (*problem).into(),
            BuildsError::Unknown(_) => Self::not_found("no such build", error.to_string()),
            BuildsError::Index(error) => error.into(),
            BuildsError::Catalog(error) => error.into(),
            BuildsError::Io { .. } | BuildsError::State(_) => {
                Self::internal("the state directory failed", &error)
            }
        }
    }
}

impl From<ResolveError> for ApiError {
    fn from(error: ResolveError) -> Self {
        match error {
            ResolveError::Base(error) => (*error).into(),
            ResolveError::Engine(error) => (*error).into(),
            ResolveError::Catalog(error) => error.into(),
            ResolveError::Blobs(error) => Self::internal("the store failed", &error),
            ResolveError::Tree { .. } => Self::bad_request(
                "a directory of the spec is not sound",
                error.to_string(),
                "upload the tree as the SDK or `chalk` prints it",
            ),
        }
    }
}

impl From<CollectError> for ApiError {
    fn from(error: CollectError) -> Self {
        match error {
            CollectError::Registry(EmbeddedError::BucketShared { .. }) => Self::new(
                problem::CONFLICT,
                409,
                "garbage is not collected",
                error.to_string(),
                "a bucket is collected by its only service: stop the others for `gc.grace` and an hour; see docs/gc.md, \"Limits\"",
            ),
            CollectError::Stopping => Self::unavailable("the service stops", ""),
            other => Self::internal("garbage collection broke off", &other),
        }
    }
}

impl From<VolumeError> for ApiError {
    fn from(error: VolumeError) -> Self {
        let words = error.to_string();
        match error {
            VolumeError::NoVolume(_) => Self::not_found("no such volume", words),
            VolumeError::NoVersion { .. } => Self::not_found("no such version", words),
            VolumeError::NoRef { .. } => Self::not_found("no such ref", words),
            VolumeError::NoCommit { .. } => Self::not_found("no such commit", words),
            VolumeError::NoFile { .. } => Self::not_found("no such file", words),
            VolumeError::Exists { .. } => {
                Self::new(problem::NAME_TAKEN, 409, "the name is taken", words, "")
            }
            VolumeError::Invalid(_) => Self::bad_request("the request is wrong", words, ""),
            VolumeError::Mismatch { .. } => Self::new(
                problem::DIGEST_MISMATCH,
                400,
                "the bytes do not have the hash",
                words,
                "send them again; a file may have changed while it was sent",
            ),
            VolumeError::Conflict(_) | VolumeError::Empty { .. } | VolumeError::NoObject(_) => {
                Self::new(
                    problem::CONFLICT,
                    409,
                    "what is there does not allow it",
                    words,
                    "",
                )
            }
            VolumeError::TooMany { .. } => {
                Self::new(problem::TOO_LARGE, 413, "a limit is reached", words, "")
            }
            VolumeError::Stopping => Self::unavailable("the service stops", ""),
            // What clients send is checked by its BLAKE3: a blob of other bytes rotted in our store.
            VolumeError::Blobs(_)
            | VolumeError::Broken { .. }
            | VolumeError::Ledger(_)
            | VolumeError::Io { .. } => Self::internal("the volumes failed", &error),
        }
    }
}

#[cfg(test)]
mod tests {
    use chalk_core::Digest;

    use super::*;

    #[test]
    fn what_rotted_in_the_store_is_no_fault_of_who_reads_a_volume() {
        let digest = |bytes: &[u8]| Digest::of(bytes).into();
        let mismatch = || BlobError::Mismatch {
            expected: digest(b"a"),
            actual: digest(b"b"),
            size: 1,
        };
        let status = |error: ApiError| error.problem().status;
        assert_eq!(status(VolumeError::Blobs(mismatch()).into()), 500);
        // One that is uploaded is.
        assert_eq!(status(mismatch().into()), 400);
    }
}
