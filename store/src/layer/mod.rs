//! Image layers: tar archives of what a step changed (OCI image-spec, layer.md).
//!
//! [`pack()`] turns an overlayfs upper directory into a layer blob, [`unpack()`] turns a layer
//! into a directory again. Both translate between the two ways to say "this is gone": a layer has
//! a file `.wh.NAME` beside where `NAME` was, and `.wh..wh..opq` in a directory that hides all
//! below it; overlayfs has a character device 0/0 called `NAME`, and an extended attribute
//! `overlay.opaque` on the directory ([`OverlayAttrs`] says in which name space).
//!
//! Framing is read and written here and not by the `tar` crate, whose header type alone is used:
//! its reader buffers extension headers without a limit and splits binary extended attributes at
//! newlines, and a layer is input from strangers.

mod apply;
mod compare;
mod compress;
mod format;
mod pack;
mod parallel_gzip;
mod reader;
mod recompress;
mod root;
mod stream;
mod unpack;

pub use compare::{Difference, Facts, differences, facts};
pub use compress::{Compression, Decompressor, InvalidCompression, decompress};
pub use pack::{PackOptions, PackedLayer, pack, pack_to};
pub use recompress::recompress;
pub use unpack::{
    Devices, Limits, Target, UnpackOptions, Unpacked, inspect, inspect_blob, unpack, unpack_as,
    unpack_blob, unpack_watched,
};

pub(crate) use format::{EntryHeader, Kind};
// What archives of whole images are written by.
#[cfg(feature = "images")]
pub(crate) use format::{write_end, write_header, write_padding};
pub(crate) use pack::names;
pub(crate) use reader::LayerReader;
pub(crate) use root::{file_attr, file_attrs, is_dir, is_whiteout, remove_tree};
pub(crate) use stream::with_stream;
pub(crate) use unpack::{Tally, clean, clean_link};

use std::io;

use chalk_core::Digest;

use crate::blobs::BlobError;

/// Prefix of a whiteout's name.
pub(crate) const WHITEOUT: &[u8] = b".wh.";
/// Prefix of names that are no whiteouts but notes of the old aufs driver.
pub(crate) const AUFS: &[u8] = b".wh..wh.";
/// The file that makes its directory opaque.
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";

/// Name space of overlayfs' own extended attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OverlayAttrs {
    /// `trusted.overlay.*`: mounts by root.
    #[default]
    Trusted,
    /// `user.overlay.*`: mounts with `userxattr`, inside a user namespace.
    User,
}

impl OverlayAttrs {
    /// Those of mounts by root: of the machine, or of a user namespace.
    pub fn by_root(of_namespace: bool) -> Self {
        match of_namespace {
            true => Self::User,
            false => Self::Trusted,
        }
    }

    /// The mark of a directory that hides all of its name in lower layers; its value is `y`.
    pub fn opaque(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.opaque",
            Self::User => "user.overlay.opaque",
        }
    }

    pub(crate) fn redirect(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.redirect",
            Self::User => "user.overlay.redirect",
        }
    }

    pub(crate) fn metacopy(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.metacopy",
            Self::User => "user.overlay.metacopy",
        }
    }
}

/// Extended attributes that belong to the image: what users set and file capabilities. All
/// others speak of this host (overlayfs, SELinux, ACL ids) and neither enter nor leave a layer,
/// as in containerd and BuildKit.
pub(crate) fn is_image_attr(name: &[u8]) -> bool {
    name == b"security.capability"
        || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
}

/// Why a layer could not be packed or unpacked.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// An entry of the archive is refused.
    #[error("layer {layer}: entry `{entry}` {problem}")]
    Entry {
        /// Digest or name of the layer.
        layer: String,
        /// Path of the entry, with odd bytes escaped.
        entry: String,
        /// What is wrong with it.
        problem: EntryProblem,
    },
    /// The archive's framing is broken.
    #[error("layer {layer} is no sound tar archive: {problem} at byte {offset}")]
    Format {
        /// Digest or name of the layer.
        layer: String,
        /// What is wrong.
        problem: &'static str,
        /// Where, in uncompressed bytes.
        offset: u64,
    },
    /// The archive is larger than allowed.
    #[error("layer {layer} exceeds the limit of {limit} {what}")]
    Limit {
        /// Digest or name of the layer.
        layer: String,
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The uncompressed bytes are not those that the image's config names.
    #[error("layer {layer} unpacks to {actual}, but the image's config says {expected}")]
    DiffId {
        /// Digest or name of the layer.
        layer: String,
        /// `rootfs.diff_ids` of the config.
        expected: Digest,
        /// What was found.
        actual: Digest,
    },
    /// Reading the layer failed: the file, the network, or its compression.
    #[error("failed to read layer {layer}")]
    Read {
        /// Digest or name of the layer.
        layer: String,
        /// What the stream said.
        #[source]
        source: io::Error,
    },
    /// A file in the directory that is packed cannot be part of a layer.
    #[error("`{path}` cannot be put into a layer: {problem}")]
    Unpackable {
        /// Path within the directory, with odd bytes escaped.
        path: String,
        /// Why not.
        problem: &'static str,
    },
    /// The file system failed.
    #[error("failed to {action} `{path}`")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Path within the directory, with odd bytes escaped.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The blob store failed, or the layer's bytes do not have its digest.
    #[error(transparent)]
    Blob(#[from] BlobError),
}

/// What is wrong with an entry of a layer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryProblem {
    /// A path with `..` in it.
    #[error("has `..` in its path; a layer must stay inside its root")]
    ParentDir,
    /// A hard link whose target has `..` in it.
    #[error("is a hard link to `{0}`, which leads out of the root")]
    LinkOutside(String),
    /// A hard link whose target is not in this layer.
    #[error("is a hard link to `{0}`, which is not in the layer")]
    LinkTarget(String),
    /// A path or a component of it that no file system takes.
    #[error("has a path of {0} bytes, more than the {1} allowed")]
    PathLength(usize, usize),
    /// A path with a NUL byte, or none at all.
    #[error("has an empty path or one with a NUL byte")]
    PathBytes,
    /// A device node where the policy forbids them.
    #[error("is a device node, which is refused here")]
    Device,
    /// A type of entry that the specification does not know.
    #[error("has type `{0}`, which is no kind of file")]
    Type(String),
    /// `.wh.` with nothing, `.` or `..` behind it.
    #[error("is a whiteout of nothing")]
    Whiteout,
    /// An owner that this process cannot give files to.
    #[error(
        "belongs to user {0}, group {1}, which the user namespace of this process does not have: \
         give its user more ids in /etc/subuid and /etc/subgid"
    )]
    Owner(u32, u32),
    /// A parent that is a file.
    #[error("lies below something that is no directory")]
    NotInDirectory,
    /// The root replaced by something that is no directory.
    #[error("would replace the root")]
    Root,
    /// A number or extension header that cannot be read.
    #[error("has a broken header: {0}")]
    Header(&'static str),
}

/// A result of packing or unpacking.
pub type Result<T, E = LayerError> = std::result::Result<T, E>;

impl LayerError {
    pub(crate) fn io(action: &'static str, path: &[u8], source: impl Into<io::Error>) -> Self {
        Self::Io {
            action,
            path: path.escape_ascii().to_string(),
            source: source.into(),
        }
    }
}
