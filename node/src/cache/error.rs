//! What can go wrong with the images of a node.

use std::io;
use std::path::Path;
use std::sync::Arc;

use chalk_core::Digest;
use chalk_core::wire::{Problem, problem};
use chalk_store::layer::LayerError;
use chalk_store::registry::RegistryError;

use crate::agent::PullFailure;

/// Failure of the cache or of a pull. Cheap to clone: several pulls may wait for one layer.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// The image does not fit, even if everything is evicted that may go.
    #[error(
        "{what} needs {needed} bytes, but of the cache's {limit} bytes only {available} can be had: {held} are pinned, in use or being pulled"
    )]
    TooSmall {
        /// Image or layer.
        what: String,
        /// Bytes that it needs at least.
        needed: u64,
        /// Bytes that the cache may hold.
        limit: u64,
        /// Bytes that are free or can be freed.
        available: u64,
        /// Bytes that may not go now.
        held: u64,
    },
    /// The file system has no room left.
    #[error("no room left on the disk of {path} for layer {layer}")]
    DiskFull {
        /// Directory of the cache.
        path: String,
        /// Digest of the layer.
        layer: Digest,
    },
    /// A registry failed.
    #[error(transparent)]
    Registry(Arc<RegistryError>),
    /// The registry has no such image.
    #[error("image {0} is not in the registry")]
    NoImage(String),
    /// A layer is none, or costs more than allowed.
    #[error(transparent)]
    Layer(Arc<LayerError>),
    /// Every server sent other bytes than the digest promises.
    #[error("layer {layer} came damaged from {hosts}: its bytes do not have its digest")]
    Damaged {
        /// Digest that was asked for.
        layer: Digest,
        /// Who sent it.
        hosts: String,
    },
    /// Manifest or config make no sense, or do not fit each other.
    #[error("image {image}: {detail}")]
    Image {
        /// Digest of the manifest.
        image: Digest,
        /// What is wrong.
        detail: String,
    },
    /// The cache's own files failed.
    #[error("failed to {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: String,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// Another process uses the directory.
    #[error("{0} is used by another node: give this one a state directory of its own")]
    Locked(String),
    /// The setting cannot be fulfilled.
    #[error(
        "this kernel mounts no EROFS image from a file ({0}): use form `directory` or `auto`, or Linux 6.12"
    )]
    NoErofs(String),
    /// There is no such image in the cache.
    #[error("image {0} is not in the cache")]
    NotFound(Digest),
    /// The image may not be removed now.
    #[error("image {image} stays: {why}")]
    Kept {
        /// Digest of the manifest.
        image: Digest,
        /// Who holds it.
        why: String,
    },
    /// containerd cannot be reached, or went away in the middle.
    #[error("containerd does not answer at {address}: {detail}")]
    ContainerdGone {
        /// Its socket.
        address: String,
        /// What the system said.
        detail: String,
    },
    /// containerd refused.
    #[error("containerd at {address} failed to {doing}: {detail}")]
    Containerd {
        /// Its socket.
        address: String,
        /// What was asked of it.
        doing: String,
        /// What it said.
        detail: String,
        /// Whether another try may go better.
        transient: bool,
        /// Whether its disk is full.
        disk_full: bool,
    },
    /// A layer that was in containerd before could not be used, and was removed.
    #[error("layer {layer} in containerd could not be used and is fetched anew: {why}")]
    Stale {
        /// Digest of the layer.
        layer: Digest,
        /// What was wrong with it.
        why: String,
    },
    /// The pull was given up.
    #[error("the pull was cancelled")]
    Cancelled,
}

/// A result of the cache.
pub type Result<T, E = CacheError> = std::result::Result<T, E>;

impl From<RegistryError> for CacheError {
    fn from(error: RegistryError) -> Self {
        Self::Registry(Arc::new(error))
    }
}

impl From<LayerError> for CacheError {
    fn from(error: LayerError) -> Self {
        Self::Layer(Arc::new(error))
    }
}

/// Turns what the system said of `path` into an error.
pub(crate) fn failed<'a, E: Into<io::Error>>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(E) -> CacheError + use<'a, E> {
    move |source| CacheError::Io {
        action,
        path: path.display().to_string(),
        source: Arc::new(source.into()),
    }
}

impl CacheError {
    /// Whether another try may go better.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Registry(error) => matches!(
                **error,
                RegistryError::Unreachable { .. } | RegistryError::Unavailable { .. }
            ),
            Self::Containerd { transient, .. } => *transient,
            Self::DiskFull { .. }
            | Self::Io { .. }
            | Self::ContainerdGone { .. }
            | Self::Stale { .. } => true,
            // Also of damage: every source was asked again before it was said.
            _ => false,
        }
    }

    /// As it is told to the agent.
    pub(crate) fn failure(&self) -> PullFailure {
        PullFailure {
            problem: self.problem(),
            transient: self.is_transient(),
        }
    }

    /// As it is told to users.
    pub fn problem(&self) -> Problem {
        let say = |kind: &str, title: &str, status, hint: &str| Problem {
            kind: kind.to_owned(),
            title: title.to_owned(),
            status,
            detail: self.chain(),
            hint: hint.to_owned(),
        };
        match self {
            Self::TooSmall { .. } => say(
                problem::CACHE_TOO_SMALL,
                "the node's cache is too small",
                507,
                "raise the node's `--cache-size`, unpin images or stop sandboxes that hold them",
            ),
            Self::DiskFull { .. }
            | Self::Containerd {
                disk_full: true, ..
            } => say(
                problem::DISK_FULL,
                "the node's disk is full",
                507,
                "free room on the disk, or lower the node's `--cache-size` below what it has",
            ),
            Self::Registry(error) => match **error {
                RegistryError::NotFound { .. } => {
                    say(problem::NOT_FOUND, "not in the registry", 404, "")
                }
                RegistryError::DigestMismatch { .. } | RegistryError::TooLarge { .. } => {
                    say(problem::DAMAGED, "the registry sent wrong bytes", 502, "")
                }
                _ => say(
                    problem::REGISTRY_UNREACHABLE,
                    "the registry cannot be used",
                    502,
                    "",
                ),
            },
            Self::NoImage(_) => say(problem::NOT_FOUND, "not in the registry", 404, ""),
            Self::NotFound(_) => say(problem::NOT_FOUND, "not in the cache", 404, ""),
            Self::Damaged { .. } => say(
                problem::DAMAGED,
                "wrong bytes for a digest",
                502,
                "check the registry's storage; mirrors were passed over already",
            ),
            Self::Layer(_) | Self::Image { .. } => {
                say(problem::BAD_REQUEST, "the image is broken", 400, "")
            }
            Self::Kept { .. } => say(problem::UNAVAILABLE, "the image is needed", 409, ""),
            Self::ContainerdGone { .. } => say(
                problem::NODE_FAILED,
                "the node's containerd cannot be reached",
                503,
                "start containerd on the node, or correct the node's setting `node.containerd.address`",
            ),
            Self::Containerd { .. } | Self::Stale { .. } => say(
                problem::NODE_FAILED,
                "the node's containerd failed",
                500,
                "see containerd's log, and the node's settings `node.containerd.*`",
            ),
            Self::Cancelled => say(problem::CANCELLED, "the pull was cancelled", 409, ""),
            Self::Io { .. } | Self::Locked(_) | Self::NoErofs(_) => {
                say(problem::INTERNAL, "the node's cache failed", 500, "")
            }
        }
    }

    fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            let words = cause.to_string();
            if !text.contains(&words) {
                text = format!("{text}: {words}");
            }
            next = cause.source();
        }
        text
    }
}
