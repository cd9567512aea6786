//! What can go wrong between us and a registry.

use std::path::PathBuf;

use chalk_core::{Digest, Platform};

use crate::blobs::BlobError;

/// Failure of a registry operation, told apart by what the user can do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The registry answered that it has no such manifest, blob or repository.
    #[error("{what} does not exist in registry {registry}{notes}")]
    NotFound {
        /// Manifest, blob or repository that was asked for.
        what: String,
        /// Registry that answered, as written in the reference.
        registry: String,
        /// What the registry said, and what mirrors answered before; may be empty.
        notes: String,
    },
    /// The registry asks for a login, or refuses the one it was given.
    #[error(
        "registry {registry} refused access to {what}: {detail} ({credentials}); run `docker login {registry}` or give credentials for it"
    )]
    Denied {
        /// Registry that refused, as `docker login` takes it.
        registry: String,
        /// Manifest, blob or repository that was asked for.
        what: String,
        /// What the registry said.
        detail: String,
        /// Which credentials were used, or where they were looked for.
        credentials: String,
    },
    /// The image exists, but not for the platform that was asked for.
    #[error(
        "{reference} has no image for {wanted}; it has: {}",
        if available.is_empty() { "none".to_owned() } else { available.join(", ") }
    )]
    NoSuchPlatform {
        /// Image that was asked for.
        reference: String,
        /// Platform that was asked for.
        wanted: Platform,
        /// Platforms that the image has, as `os/arch[/variant]`, without repetitions.
        available: Vec<String>,
    },
    /// No connection, or none that lasted, after all retries.
    #[error("registry {host} cannot be reached: {cause}{notes}")]
    Unreachable {
        /// Host and port that were tried.
        host: String,
        /// Innermost cause in words, with a hint where there is one.
        cause: String,
        /// What mirrors answered before, empty or starting with `; `.
        notes: String,
    },
    /// The registry is there, but keeps failing (5xx) or throttling (429) after all retries.
    #[error("registry {host} answered {status} to {what}: {detail}")]
    Unavailable {
        /// Host and port that answered.
        host: String,
        /// Manifest, blob or repository that was asked for.
        what: String,
        /// HTTP status.
        status: u16,
        /// What the registry said.
        detail: String,
    },
    /// The registry sent other bytes than the digest promises.
    #[error("{what} from {host} is corrupt: expected {expected}, received {actual}")]
    DigestMismatch {
        /// Host and port that sent them.
        host: String,
        /// Manifest or blob that was asked for.
        what: String,
        /// Digest that was asked for or announced.
        expected: Digest,
        /// Digest of what came.
        actual: Digest,
    },
    /// An answer exceeds what we are willing to read.
    #[error("{what} from {host} is larger than {limit} bytes")]
    TooLarge {
        /// Host and port that sent it.
        host: String,
        /// Manifest, blob or answer in question.
        what: String,
        /// Limit in bytes.
        limit: u64,
    },
    /// The registry broke the OCI distribution specification, or refused a request as malformed.
    #[error("registry {host}, {what}: {detail}")]
    Protocol {
        /// Host and port that answered.
        host: String,
        /// Manifest, blob or repository that was asked for.
        what: String,
        /// What was expected, what came.
        detail: String,
    },
    /// The registry does not let manifests be deleted. Nothing was changed.
    #[error(
        "registry {registry} does not allow deletes, so {what} stays: set REGISTRY_STORAGE_DELETE_ENABLED=true (docker-registry) or what corresponds to it, or keep the tags"
    )]
    NoDeletes {
        /// Registry that refused, as written in the reference.
        registry: String,
        /// Manifest or tag that was to be deleted.
        what: String,
    },
    /// A setting of the client is unusable.
    #[error("{setting}: {detail}")]
    Setting {
        /// Name of the setting and its value.
        setting: String,
        /// What is wrong and what was expected.
        detail: String,
    },
    /// The CA bundle cannot be used.
    #[error("CA bundle {}: {detail}", path.display())]
    CaBundle {
        /// File of the setting.
        path: PathBuf,
        /// What is wrong and what was expected.
        detail: String,
    },
    /// The local blob store failed.
    #[error(transparent)]
    Store(#[from] BlobError),
    /// A local file failed while it was sent.
    #[error("failed to read {what}")]
    Read {
        /// What was being sent.
        what: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

impl RegistryError {
    /// Adds what mirrors answered before the origin did.
    pub(super) fn with_notes(mut self, mirrors: &[String]) -> Self {
        if let (false, Self::NotFound { notes, .. } | Self::Unreachable { notes, .. }) =
            (mirrors.is_empty(), &mut self)
        {
            notes.push_str(&format!("; tried before: {}", mirrors.join("; ")));
        }
        self
    }
}
