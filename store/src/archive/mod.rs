//! Whole images as files: OCI image layouts (image-layout.md), as directory or archive, the
//! archives of `docker save`, and plain archives of a root file system.
//!
//! [`import`] tells them apart by what is inside, verifies everything and leaves an OCI image in
//! the [`BlobStore`](crate::BlobStore); [`export_layout`], [`export_oci`] and [`export_docker`] write one out again.

mod contents;
mod export;
mod import;
mod resolve;
mod rootfs;

use std::io;
use std::path::PathBuf;

use chalk_core::{Digest, Platform};

pub use export::{export_docker, export_layout, export_oci};
pub use import::{import, import_stream};

use crate::blobs::{Blob, BlobError};
use crate::layer::{Compression, LayerError, Limits};

/// Media type of an OCI image manifest.
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an OCI image index.
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of an OCI image configuration.
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Most bytes of a manifest, index or config.
pub(crate) const DOCUMENT: u64 = 4 << 20;

/// Why an image could not be imported or exported.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Neither an image nor a root file system.
    #[error(
        "{origin} holds no image: expected an OCI layout (index.json), a `docker save` archive (manifest.json) or the files of a root"
    )]
    NotAnImage {
        /// What was read.
        origin: String,
    },
    /// A JSON document of the archive cannot be used.
    #[error("{name} {problem}")]
    Document {
        /// Its name or digest.
        name: String,
        /// What is wrong, in words.
        problem: String,
    },
    /// Something that a document names is not there.
    #[error("{name} names {missing}, which is not in the archive")]
    Missing {
        /// The document.
        name: String,
        /// What it names.
        missing: String,
    },
    /// Several images, and nothing says which.
    #[error("there are several images ({}); say which", available.join(", "))]
    Ambiguous {
        /// Names or digests of all.
        available: Vec<String>,
    },
    /// No image of that name.
    #[error("there is no image called `{wanted}`, only {}", available.join(", "))]
    NoSuchName {
        /// The name asked for.
        wanted: String,
        /// Names of all.
        available: Vec<String>,
    },
    /// No image for the platform.
    #[error("there is no image for {wanted}, only for {}", available.join(", "))]
    Platform {
        /// The platform asked for.
        wanted: Platform,
        /// The platforms that there are.
        available: Vec<String>,
    },
    /// The directory to export to holds something.
    #[error("{} is not empty; an image layout needs a directory of its own", .0.display())]
    NotEmpty(PathBuf),
    /// A layer is refused.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The blob store failed, or bytes do not have their digest.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The file system failed.
    #[error("failed to {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A result of import or export.
pub type Result<T, E = ArchiveError> = std::result::Result<T, E>;

impl ArchiveError {
    fn io(action: &'static str, path: impl std::fmt::Display) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_string();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    fn document(name: impl std::fmt::Display, problem: impl std::fmt::Display) -> Self {
        Self::Document {
            name: name.to_string(),
            problem: problem.to_string(),
        }
    }
}

/// What an image was imported from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OCI image layout, directory or archive.
    Oci,
    /// Archive of `docker save` or `podman save`.
    Docker,
    /// Archive of a root file system.
    RootFs,
}

/// How an image is imported.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// The platform wanted; for a root file system, its platform.
    pub platform: Platform,
    /// Which image, where the archive holds several: its name (`RepoTags`,
    /// `org.opencontainers.image.ref.name`).
    pub name: Option<String>,
    /// Compression for the layer of a root file system that comes uncompressed. Other layers keep
    /// their bytes.
    pub compression: Compression,
    /// `Env` of a root file system's config.
    pub env: Vec<String>,
    /// `Cmd` of a root file system's config.
    pub cmd: Vec<String>,
    /// What each layer, and the archive itself, may cost.
    pub limits: Limits,
    /// What errors call the archive; its path when absent.
    pub origin: Option<String>,
}

impl Default for ImportOptions {
    fn default() -> Self {
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        Self {
            platform: Platform::default(),
            name: None,
            compression: Compression::default(),
            env: vec![path.to_owned()],
            cmd: vec!["/bin/sh".to_owned()],
            limits: Limits::default(),
            origin: None,
        }
    }
}

/// A layer of an imported image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedLayer {
    /// The blob.
    pub blob: Blob,
    /// Media type in the manifest.
    pub media_type: String,
    /// Digest of the uncompressed tar, as found and as the config says.
    pub diff_id: Digest,
}

/// An image that was imported. All its blobs are in the store, verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The OCI image manifest.
    pub manifest: Blob,
    /// The image configuration.
    pub config: Blob,
    /// The layers, lowest first.
    pub layers: Vec<ImportedLayer>,
    /// Platform by the configuration.
    pub platform: Platform,
    /// Names that the archive gives the image.
    pub names: Vec<String>,
    /// What it was.
    pub format: Format,
    /// Digest of the manifest in the archive, where it was Docker's and had to be rewritten.
    pub rewritten_from: Option<Digest>,
}
