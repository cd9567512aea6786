//! What the embedded registry refuses, in the words of the distribution specification.

use std::io;
use std::path::PathBuf;

use chalk_core::AnyDigest;
use chalk_core::any_digest::UnsupportedDigest;
use chalk_store::BlobError;
use chalk_store::uploads::UploadError;

/// Refusal or failure of the embedded registry.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddedError {
    /// Not a repository name.
    #[error(
        "`{0}` is no repository: expected lower-case words of letters and digits joined by `.`, `_`, `-` and `/`"
    )]
    NameInvalid(String),
    /// No such repository.
    #[error("repository {0} does not exist")]
    NameUnknown(String),
    /// Neither a tag nor a digest.
    #[error("`{0}` is neither a tag (1 to 128 letters, digits, `_`, `.`, `-`) nor a digest")]
    TagInvalid(String),
    /// Not a digest by an algorithm that is known.
    #[error(transparent)]
    DigestInvalid(#[from] UnsupportedDigest),
    /// Bytes and digest do not fit.
    #[error("expected {expected}, but the content hashes to {actual}")]
    DigestMismatch {
        /// Digest that was announced.
        expected: AnyDigest,
        /// Digest of what came.
        actual: AnyDigest,
    },
    /// The repository has no such blob.
    #[error("blob {0} is not in this repository")]
    BlobUnknown(AnyDigest),
    /// No such manifest.
    #[error("manifest {name} is not in repository {repository}")]
    ManifestUnknown {
        /// Repository.
        repository: String,
        /// Tag or digest.
        name: String,
    },
    /// Not a manifest that can be kept.
    #[error("{0}")]
    ManifestInvalid(String),
    /// The manifest names blobs or manifests that the repository does not have.
    #[error("the manifest names what this repository does not have: {}", list(.0))]
    ManifestBlobUnknown(Vec<AnyDigest>),
    /// What is there is not what the request was made for.
    #[error("the manifest is not, or no longer, the one that the request is conditional on")]
    ConditionFailed,
    /// More tags in one request than allowed.
    #[error("a request can set {0} tags at most")]
    TooManyTags(usize),
    /// Larger than allowed.
    #[error("{what} is larger than the {limit} bytes that are allowed")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Limit in bytes.
        limit: u64,
    },
    /// Announced and actual length differ.
    #[error("{0}")]
    SizeInvalid(String),
    /// No such upload in this repository.
    #[error("upload is not known: it never was, it ended, or it expired")]
    UploadUnknown,
    /// Somebody else writes to this upload.
    #[error("upload is being written by another request")]
    UploadBusy,
    /// The upload broke off.
    #[error("{0}")]
    UploadInvalid(String),
    /// A chunk does not continue the upload.
    #[error("the chunk does not continue the upload, which has {received} bytes")]
    OutOfOrder {
        /// Bytes received so far.
        received: u64,
    },
    /// Whoever asks may not do that.
    #[error("{0}")]
    Denied(String),
    /// Too many uploads are open.
    #[error("{0} uploads are open, which is the limit; try again later")]
    TooManyUploads(usize),
    /// A page size that is no number.
    #[error("`n` must be a number of entries, not `{0}`")]
    PageInvalid(String),
    /// No such operation.
    #[error("{0}")]
    Unsupported(String),
    /// The blob store failed.
    #[error(transparent)]
    Blob(BlobError),
    /// The bucket of the setting `registry.s3` cannot be used as it is set.
    #[error("the bucket cannot be used: {0}; see the settings `registry.s3.*`")]
    BucketSettings(String),
    /// The bucket failed, after all retries.
    #[error(
        "failed to {action} `{key}` in {place}: {detail}; nothing of it counts as done: see that the store can be reached and lets the service in (settings `registry.s3.*`), and try again"
    )]
    Bucket {
        /// What was tried.
        action: &'static str,
        /// Key below the prefix.
        key: String,
        /// Bucket, prefix and end-point.
        place: String,
        /// What the store or the way to it said.
        detail: String,
    },
    /// Garbage of a bucket is not collected while others use it.
    #[error("garbage of {place} is not collected: {detail}")]
    BucketShared {
        /// Bucket, prefix and end-point.
        place: String,
        /// Who uses it.
        detail: String,
    },
    /// The file system failed.
    #[error("failed to {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// File or directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl EmbeddedError {
    pub(super) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}

impl From<BlobError> for EmbeddedError {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::NotFound(digest) => Self::BlobUnknown(digest),
            BlobError::Mismatch {
                expected, actual, ..
            } => Self::DigestMismatch { expected, actual },
            other => Self::Blob(other),
        }
    }
}

impl From<UploadError> for EmbeddedError {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Unknown(_) => Self::UploadUnknown,
            UploadError::Busy(_) => Self::UploadBusy,
            UploadError::OutOfOrder { expected, .. } => Self::OutOfOrder { received: expected },
            UploadError::Blob(blob) => blob.into(),
        }
    }
}

fn list(digests: &[AnyDigest]) -> String {
    let each: Vec<String> = digests.iter().map(ToString::to_string).collect();
    each.join(", ")
}
