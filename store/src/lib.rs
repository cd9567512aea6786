//! Content-addressed blobs, OCI layers, layouts and archives, and the registry client.
//!
//! A blob enters a [`BlobStore`] through a writer that hashes while it writes,
//! and has a name only when all of it is verified and on disk. [`layer::pack()`] turns the upper
//! directory of a finished step into such a blob; [`layer::unpack()`] turns a blob back into a
//! directory that overlayfs can stack, which [`snapshots`] keeps under a name, and [`erofs`] into a
//! file that the kernel mounts. [`stack`] looks
//! into a pile of such directories without mounting it. [`archive`] brings whole images in and
//! out as files, [`registry`] over the network, and [`tree`] lists a local directory.

#[cfg(all(unix, feature = "images"))]
pub mod archive;
pub mod blobs;
#[cfg(unix)]
pub mod erofs;
pub mod failpoint;
mod follow;
#[cfg(unix)]
pub mod layer;
pub mod layout_version;
mod names;
#[cfg(feature = "images")]
pub mod registry;
pub mod sink;
#[cfg(unix)]
pub mod snapshots;
#[cfg(unix)]
pub mod stack;
pub mod temporary;
pub mod tree;
pub mod uploads;
pub mod uses;
mod verify;

pub use blobs::{Blob, BlobBatch, BlobError, BlobStore, BlobWriter, Unused};
pub use follow::Follower;
pub use verify::{VerifiedBlob, VerifyingReader};
