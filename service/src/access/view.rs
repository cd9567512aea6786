//! What of the embedded registry each sees ([`crate::registry::View`]).

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use chalk_core::{AnyDigest, Digest};

use super::Principal;
use crate::catalog::Catalog;
use crate::nodes::grants::Grants;
use crate::projects::{Owner, Scope};
use crate::registry::{Part, Registry, View};

/// What the token of a client or administrator sees.
#[derive(Debug)]
pub(crate) struct ProjectView {
    pub(crate) scope: Scope,
    pub(crate) catalog: Arc<Catalog>,
}

fn sha256(text: &str) -> Option<Digest> {
    match text.parse() {
        Ok(AnyDigest::Sha256(digest)) => Some(digest),
        _ => None,
    }
}

/// The image hash that is a tag of the repository of images.
fn hash_of(tag: &str) -> Option<Digest> {
    format!("sha256:{tag}").parse().ok()
}

impl ProjectView {
    /// Whether a part of the repository of images by their hashes may be read.
    async fn reads_image(&self, part: Part<'_>) -> bool {
        match part {
            Part::Tags => true,
            Part::Upload => false,
            Part::Blob(digest) | Part::Referrers(digest) => {
                sha256(digest).is_some_and(|digest| self.scope.has_blob(&digest))
            }
            Part::Manifest(name) if name.contains(':') => {
                sha256(name).is_some_and(|digest| self.scope.has_blob(&digest))
            }
            Part::Manifest(tag) => match hash_of(tag) {
                Some(hash) if self.scope.has_image(&hash) => {
                    // It may have been built anew, by others, too.
                    if let Err(error) = self.catalog.hand_over(&self.scope, &hash).await {
                        tracing::warn!(%hash, %error, "the parts of an image are not known");
                    }
                    true
                }
                _ => self.lists_in_images(tag),
            },
        }
    }

    fn lists_in_images(&self, name: &str) -> bool {
        match (sha256(name), hash_of(name)) {
            (Some(digest), _) => self.scope.has_blob(&digest),
            (None, Some(hash)) => self.scope.has_image(&hash),
            // Where registries without the referrers API keep the list of them.
            (None, None) => name
                .strip_prefix("sha256-")
                .and_then(hash_of)
                .is_some_and(|digest| self.scope.has_blob(&digest)),
        }
    }

    /// The project that pays for what is in a repository.
    fn payer(&self, repository: &str) -> Arc<str> {
        match self.scope.projects().owner(repository) {
            Owner::Project(project) => project,
            _ => self.scope.project().clone(),
        }
    }
}

#[async_trait]
impl View for ProjectView {
    fn lists(&self, repository: &str) -> bool {
        self.scope.is_all() || self.scope.reads(repository)
    }

    fn lists_in(&self, repository: &str, name: &str) -> bool {
        if self.scope.is_all() {
            return true;
        }
        match self.scope.projects().owner(repository) {
            Owner::Images => self.lists_in_images(name),
            _ => self.scope.reads(repository),
        }
    }

    async fn allows(&self, repository: &str, part: Part<'_>, writes: bool) -> bool {
        if self.scope.is_all() {
            return true;
        }
        match self.scope.projects().owner(repository) {
            Owner::Project(owner) => owner == *self.scope.project(),
            Owner::Imports => !writes,
            Owner::Service => false,
            Owner::Images => !writes && self.reads_image(part).await,
        }
    }

    fn room(&self, repository: &str, bytes: u64) -> Result<(), String> {
        let projects = self.scope.projects();
        let room = projects.room(&self.payer(repository), bytes);
        room.map_err(|problem| problem.detail)
    }

    fn took(&self, repository: &str, digest: Digest, size: u64) {
        let projects = self.scope.projects();
        projects.keep_blobs(&self.payer(repository), [(digest, size)]);
    }
}

/// What a node sees: what it was told to have.
#[derive(Debug)]
pub(crate) struct NodeView {
    pub(crate) node: Arc<str>,
    pub(crate) grants: Arc<Grants>,
    pub(crate) registry: Registry,
}

impl NodeView {
    /// The blobs that a manifest names.
    fn named(registry: &Registry, repository: &str, digest: &Digest) -> Option<BTreeSet<Digest>> {
        let blobs = registry.named_by(repository, digest).ok()??;
        let known = blobs.into_iter().filter_map(|blob| match blob {
            AnyDigest::Sha256(digest) => Some(digest),
            AnyDigest::Sha512(_) => None,
        });
        Some(known.collect())
    }
}

#[async_trait]
impl View for NodeView {
    fn lists(&self, _: &str) -> bool {
        false
    }

    fn lists_in(&self, _: &str, _: &str) -> bool {
        false
    }

    async fn allows(&self, repository: &str, part: Part<'_>, writes: bool) -> bool {
        if writes {
            return false;
        }
        match part {
            Part::Manifest(name) => sha256(name)
                .is_some_and(|digest| self.grants.manifest(&self.node, repository, &digest)),
            Part::Blob(text) => {
                let Some(digest) = sha256(text) else {
                    return false;
                };
                let (grants, node) = (self.grants.clone(), self.node.clone());
                let (registry, repository) = (self.registry.clone(), repository.to_owned());
                let look = tokio::task::spawn_blocking(move || {
                    grants.blob(&node, &repository, &digest, |manifest| {
                        Self::named(&registry, &repository, manifest)
                    })
                });
                look.await.unwrap_or(false)
            }
            Part::Tags | Part::Referrers(_) | Part::Upload => false,
        }
    }

    fn room(&self, _: &str, _: u64) -> Result<(), String> {
        Err("nodes only pull".to_owned())
    }

    fn took(&self, _: &str, _: Digest, _: u64) {}
}

/// Whether a principal may read from, write to or delete in a repository of the registry, by its pass
/// alone.
pub(crate) fn pass_allows(who: &Principal, repository: &str, reads: bool, deletes: bool) -> bool {
    let Principal::Registry { repositories, .. } = who else {
        return true;
    };
    repositories.iter().any(|one| {
        one.name == repository
            && match (reads, deletes) {
                (true, _) => one.pull,
                (false, false) => one.push,
                (false, true) => one.delete,
            }
    })
}
