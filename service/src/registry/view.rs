//! What somebody sees of the registry. Who asks is decided outside; whoever decides puts a [`View`]
//! among the extensions of the request. Without one everything is seen.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use axum::http::request::Parts;
use chalk_core::{AnyDigest, Digest};

use super::error::EmbeddedError;
use super::store::Registry;

/// What of a repository is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    /// The list of its tags.
    Tags,
    /// A manifest, by tag or digest.
    Manifest(&'a str),
    /// The list of what refers to a digest.
    Referrers(&'a str),
    /// A blob, by digest.
    Blob(&'a str),
    /// An upload.
    Upload,
}

/// What somebody sees of the registry, and may put into it.
#[async_trait]
pub(crate) trait View: Send + Sync + fmt::Debug {
    /// Whether a repository is in the list of all.
    fn lists(&self, repository: &str) -> bool;

    /// Whether a tag, or a digest that refers to another, is in a list of its repository.
    fn lists_in(&self, repository: &str, name: &str) -> bool;

    /// Whether a part of a repository may be read, or, if `writes`, changed.
    async fn allows(&self, repository: &str, part: Part<'_>, writes: bool) -> bool;

    /// Whether there is room for more bytes in a repository.
    ///
    /// # Errors
    /// Why not.
    fn room(&self, repository: &str, bytes: u64) -> Result<(), String>;

    /// A repository has a blob or manifest from now on.
    fn took(&self, repository: &str, digest: Digest, size: u64);
}

/// As extension of a request.
#[derive(Debug, Clone)]
pub(crate) struct Viewed(pub(crate) Arc<dyn View>);

/// What the sender of a request sees; none for everything.
pub(super) fn of(parts: &Parts) -> Option<Arc<dyn View>> {
    let viewed = parts.extensions.get::<Viewed>();
    viewed.map(|viewed| viewed.0.clone())
}

/// Tells a view of a blob or manifest that came in, by the digest that the registry has it by.
///
/// # Errors
/// `Bucket`, `Blob`: it must not be forgotten, so that whoever sent it is to try again.
pub(super) fn tell(
    view: Option<&Arc<dyn View>>,
    registry: &Registry,
    repository: &str,
    digest: &AnyDigest,
) -> Result<(), EmbeddedError> {
    let Some(view) = view else {
        return Ok(());
    };
    // The store may lack a copy of what was mounted.
    let Some(stored) = registry.resolve(digest)? else {
        return Ok(());
    };
    if let Some(size) = registry.size(&stored.into())? {
        view.took(repository, stored, size);
    }
    Ok(())
}
