//! Builds against Docker's BuildKit and buildah.
//!
//! All pull the base from one `docker-registry`, and download packages over the same network. A peer
//! pushes to a `docker-registry` of its own, ours to its own registry.

mod base;
mod big_image;
mod copied;
mod declarations;
mod engines;
mod pack;
mod quickstart;
mod same;

pub(crate) use base::measure as base;
pub(crate) use copied::{directory, files};
pub(crate) use pack::measure as pack;
pub(crate) use quickstart::{cold, command, package, unchanged};
