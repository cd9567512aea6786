//! What volumes can fail with.

use chalk_core::Digest;
use chalk_store::BlobError;

use super::hash::{ContentHash, InvalidHash};
use crate::ledger::LedgerError;

/// Why a call about volumes failed. The texts say what to do where that is not plain.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    /// No volume has that name or identifier.
    #[error("there is no volume `{0}`")]
    NoVolume(String),
    /// The volume has no such version.
    #[error("volume `{volume}` has no version {version}")]
    NoVersion {
        /// Name of the volume.
        volume: String,
        /// The version asked for.
        version: u64,
    },
    /// The volume has no such ref.
    #[error("volume `{volume}` has no ref `{name}`")]
    NoRef {
        /// Name of the volume.
        volume: String,
        /// The ref asked for.
        name: String,
    },
    /// Nothing was committed yet.
    #[error("volume `{volume}` has no version on ref `{name}` yet; commit a file first")]
    Empty {
        /// Name of the volume.
        volume: String,
        /// The ref.
        name: String,
    },
    /// No commit has that identifier.
    #[error("volume `{volume}` has no commit `{commit}`")]
    NoCommit {
        /// Name of the volume.
        volume: String,
        /// The commit asked for.
        commit: String,
    },
    /// Nothing lies at that path.
    #[error("volume `{volume}` has no file `{path}` in version {version}")]
    NoFile {
        /// Name of the volume.
        volume: String,
        /// The path asked for.
        path: String,
        /// The version looked in.
        version: u64,
    },
    /// The name is taken.
    #[error("there is a {kind} `{name}` already")]
    Exists {
        /// `volume` or `ref`.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The request makes sense, but not for what is there.
    #[error("{0}")]
    Conflict(String),
    /// A limit was reached.
    #[error("{what}: {found}, and at most {limit} are allowed")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How much.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// Uploaded bytes are not what was announced.
    #[error(
        "expected {expected} with {expected_size} bytes, but {actual} with {actual_size} bytes came"
    )]
    Mismatch {
        /// Hash that was announced.
        expected: ContentHash,
        /// Size that was announced.
        expected_size: u64,
        /// Hash of what came.
        actual: ContentHash,
        /// Size of what came.
        actual_size: u64,
    },
    /// An object that a commit names was not uploaded, or too long ago.
    #[error(
        "object {0} is not here; uploads are kept for a day only: ask for upload addresses and upload it again"
    )]
    NoObject(ContentHash),
    /// What a version is made of is gone or broken.
    #[error("the listing {manifest} of a version cannot be read: {reason}")]
    Broken {
        /// Digest of the listing.
        manifest: Digest,
        /// Why not.
        reason: String,
    },
    /// The blob store failed.
    #[error(transparent)]
    Blobs(#[from] BlobError),
    /// The database failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The file system failed.
    #[error("failed to {action} an uploaded object: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The service stops.
    #[error("the service stops")]
    Stopping,
}

impl VolumeError {
    /// What a file operation failed with.
    pub(crate) fn io(action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { action, source }
    }
}

impl From<InvalidHash> for VolumeError {
    fn from(error: InvalidHash) -> Self {
        Self::Invalid(error.to_string())
    }
}

/// A result of a call about volumes.
pub(crate) type Result<T, E = VolumeError> = std::result::Result<T, E>;
