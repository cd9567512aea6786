//! From a spec as a client sends it to one that can be built: its bases pinned, its files there;
//! and the plan of what a build would do.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use chalk_core::spec::{Base, Instruction, StepKind};
use chalk_core::tree::{InvalidTree, Tree, TreeNode};
use chalk_core::wire::{Plan, PlanBase, PlanState, PlanStep, ResolveRequest};
use chalk_core::{Digest, Platform, Reference, Spec};
use chalk_store::{BlobError, BlobStore};
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::bases::BaseError;
use crate::catalog::{Catalog, CatalogError};
use crate::engine::{Engine, EngineError};

/// Bases that are pinned at once.
const PARALLEL: usize = 8;
/// Largest JSON of a directory tree, in bytes.
const TREE_LIMIT: u64 = 256 << 20;

/// Finds the digest of the platform's manifest behind a base's reference.
#[async_trait]
pub trait PinBases: Send + Sync {
    /// # Errors
    /// When the base is not there, is not for us, has no such platform, or nobody can be asked.
    async fn pin(&self, reference: &Reference, platform: &Platform) -> Result<Digest, BaseError>;
}

/// Why a spec cannot be resolved or planned.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// A base cannot be pinned.
    #[error(transparent)]
    Base(Box<BaseError>),
    /// The engine cannot plan it.
    #[error(transparent)]
    Engine(Box<EngineError>),
    /// The regional registry failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The store failed.
    #[error(transparent)]
    Blobs(#[from] BlobError),
    /// What was uploaded as a directory is none.
    #[error("{digest} is {source}")]
    Tree {
        /// Digest that the spec names.
        digest: Digest,
        /// What is wrong.
        #[source]
        source: InvalidTree,
    },
}

impl From<BaseError> for ResolveError {
    fn from(error: BaseError) -> Self {
        Self::Base(Box::new(error))
    }
}

impl From<EngineError> for ResolveError {
    fn from(error: EngineError) -> Self {
        Self::Engine(Box::new(error))
    }
}

/// Pins every base of a spec that is not pinned.
///
/// # Errors
/// On the first base that cannot be pinned.
pub async fn pin(bases: &dyn PinBases, mut spec: Spec) -> Result<Spec, BaseError> {
    let platform = spec.platform.clone();
    let open: BTreeSet<(Reference, Platform)> = spec
        .base_images()
        .into_iter()
        .filter(|image| image.digest.is_none())
        .map(|image| {
            let platform = image.platform.as_ref().unwrap_or(&platform);
            (image.reference.clone(), platform.clone())
        })
        .collect();
    let pinned: Vec<((Reference, Platform), Digest)> = stream::iter(open)
        .map(|key| async move {
            let digest = bases.pin(&key.0, &key.1).await?;
            Ok::<_, BaseError>((key, digest))
        })
        .buffer_unordered(PARALLEL)
        .try_collect()
        .await?;
    for image in spec.base_images_mut() {
        let wanted = image.platform.as_ref().unwrap_or(&platform);
        let found = pinned
            .iter()
            .find(|((reference, platform), _)| *reference == image.reference && platform == wanted);
        if let (None, Some((_, digest))) = (image.digest, found) {
            image.digest = Some(*digest);
        }
    }
    Ok(spec)
}

/// Plans a spec. A base whose registry cannot be reached leaves the image hash open.
///
/// # Errors
/// When a base is not there, or engine, registry or store fail.
pub async fn plan(
    bases: &dyn PinBases,
    engine: &Arc<dyn Engine>,
    catalog: &Catalog,
    blobs: &BlobStore,
    request: ResolveRequest,
) -> Result<Plan, ResolveError> {
    let ResolveRequest { spec, blobs: sizes } = request;
    let recipe_hash = spec.recipe_hash();
    let mut warnings: Vec<String> = spec.warnings().iter().map(ToString::to_string).collect();
    let pinned = match pin(bases, spec.clone()).await {
        Ok(pinned) => Some(pinned),
        Err(error @ BaseError::Unreachable { .. }) => {
            warnings.push(error.to_string());
            None
        }
        Err(error) => return Err(error.into()),
    };
    let image_hash = pinned.as_ref().and_then(Spec::image_hash);
    let exists = match &image_hash {
        Some(hash) => catalog.find(hash).await?.is_some(),
        None => false,
    };
    // A step that is to run even when it is cached does so even when the whole image is there.
    let reused = exists && !spec.steps.iter().any(|step| step.force);
    let steps = match &pinned {
        Some(pinned) if reused => without_engine(pinned, PlanState::Cached),
        Some(pinned) => engine.plan(pinned).await?,
        None => without_engine(&spec, PlanState::Run),
    };
    let upload_bytes = if reused {
        0
    } else {
        let digests: Vec<Digest> = sizes.keys().copied().collect();
        let absent = missing(blobs, digests).await?;
        absent.iter().filter_map(|digest| sizes.get(digest)).sum()
    };
    let shown = pinned.as_ref().unwrap_or(&spec);
    Ok(Plan {
        recipe_hash,
        image_hash,
        base: PlanBase::of(shown),
        platform: shown.platform.clone(),
        exists,
        steps,
        upload_bytes,
        nodes_warm: Vec::new(),
        warnings,
    })
}

fn without_engine(spec: &Spec, state: PlanState) -> Vec<PlanStep> {
    let steps = spec.steps_with_keys().into_iter();
    let planned = steps.map(|step| PlanStep {
        kind: step.kind.to_owned(),
        key: step.key,
        title: step.title,
        state,
    });
    planned.collect()
}

/// Those of `digests` that the store lacks, sorted, each once.
///
/// # Errors
/// When the store fails.
pub async fn missing(blobs: &BlobStore, digests: Vec<Digest>) -> Result<Vec<Digest>, BlobError> {
    blobs.run(move |store| absent(store, digests)).await
}

fn absent(store: &BlobStore, mut digests: Vec<Digest>) -> Result<Vec<Digest>, BlobError> {
    digests.sort_unstable();
    digests.dedup();
    let mut absent = Vec::new();
    for digest in digests {
        if !store.contains(digest)? {
            absent.push(digest);
        }
    }
    Ok(absent)
}

/// The blobs that a build of the spec needs and the store lacks: files, trees, and the files of
/// those trees that are there.
///
/// # Errors
/// When the store fails, or a blob that stands for a directory is no tree.
pub async fn needed(blobs: &BlobStore, spec: &Spec) -> Result<Vec<Digest>, ResolveError> {
    let (mut files, mut trees) = (Vec::new(), BTreeSet::new());
    if let Base::Dockerfile(dockerfile) = &spec.base {
        let instructions = dockerfile.stages.iter().flat_map(|s| &s.instructions);
        trees.extend(instructions.filter_map(|i: &Instruction| i.context));
    }
    for step in &spec.steps {
        match &step.kind {
            StepKind::AddFile { digest, .. } => {
                files.push(*digest);
            }
            StepKind::UvSync(project) => files.extend([project.pyproject, project.lock]),
            StepKind::AddDir { digest, .. } => {
                trees.insert(*digest);
            }
            StepKind::Dockerfile(instruction) => trees.extend(instruction.context),
            StepKind::PipInstall { .. }
            | StepKind::UvPipInstall { .. }
            | StepKind::AptInstall { .. }
            | StepKind::Run { .. } => {}
        }
    }
    lacking(blobs, files, trees).await
}

/// Those blobs of files, trees and the files of those trees that are there, that the store lacks;
/// sorted.
///
/// # Errors
/// When the store fails, or a blob that stands for a directory is no tree.
pub(crate) async fn lacking(
    blobs: &BlobStore,
    mut files: Vec<Digest>,
    trees: BTreeSet<Digest>,
) -> Result<Vec<Digest>, ResolveError> {
    let lacking = blobs.run(move |store| -> Result<_, ResolveError> {
        let mut lacking = Vec::new();
        for digest in trees {
            // A damaged tree is set aside by the store, so it counts as absent.
            let json = match store.read_small(digest, TREE_LIMIT) {
                Ok(json) => json,
                Err(BlobError::NotFound(_) | BlobError::Mismatch { .. }) => {
                    lacking.push(digest);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let named = Tree::scan(&json, |entry| {
                if let TreeNode::File { digest, .. } = entry.node {
                    files.push(digest);
                }
            });
            named.map_err(|source| ResolveError::Tree { digest, source })?;
        }
        lacking.extend(absent(store, files)?);
        lacking.sort_unstable();
        lacking.dedup();
        Ok(lacking)
    });
    lacking.await
}
