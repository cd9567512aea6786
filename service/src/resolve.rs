//! From a spec as a client sends it to one that can be built: its bases pinned, its files there;
//! and the plan of what a build would do.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use chalk_core::spec::{Base, Instruction, StepKind};
use chalk_core::tree::{InvalidTree, Tree};
use chalk_core::wire::{DEFAULT_PROJECT, Plan, PlanBase, PlanState, PlanStep, ResolveRequest};
use chalk_core::{Digest, Platform, Reference, Spec};
use chalk_store::{BlobError, BlobStore};
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::bases::BaseError;
use crate::catalog::{Catalog, CatalogError};
use crate::engine::{Engine, EngineError};
use crate::projects::{Owner, Scope};
use crate::regions::Regions;

/// Bases that are pinned at once.
const PARALLEL: usize = 8;
/// Largest JSON of a directory tree, in bytes.
pub(crate) const TREE_LIMIT: u64 = 256 << 20;

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

/// As [`pin`], for somebody who may not see all of the registry: no base is taken from what is hidden
/// from them, whether they name it by a tag or by its digest, in the home registry or in a region's:
/// all hold what is everybody's, and the service's login opens them.
///
/// # Errors
/// On the first base that cannot be pinned, or is not there for them.
pub(crate) async fn pin_seen(
    bases: &dyn PinBases,
    scope: &Scope,
    (catalog, regions): (&Catalog, &Regions),
    blobs: &BlobStore,
    spec: Spec,
) -> Result<Spec, BaseError> {
    if scope.is_all() {
        return pin(bases, spec).await;
    }
    for image in spec.base_images() {
        let reference = &image.reference;
        let Some(repository) = regions.repository(reference) else {
            continue;
        };
        let digest = image.digest.or_else(|| reference.digest());
        let seen = match scope.projects().owner(&repository) {
            Owner::Images => match (digest, reference.tag()) {
                (Some(digest), _) => scope.has_blob(&digest),
                (None, tag) => format!("sha256:{}", tag.unwrap_or_default())
                    .parse()
                    .is_ok_and(|hash| scope.has_image(&hash)),
            },
            _ => scope.reads(&repository),
        };
        if !seen {
            return Err(BaseError::NotFound {
                reference: reference.clone(),
                detail: "this service's own registry has no such image".to_owned(),
            });
        }
    }
    // The digest of an image of ours is no way around: whoever names one that they do not have shows
    // that the base's own registry has it.
    let platform = spec.platform.clone();
    for image in spec.base_images() {
        let Some(digest) = image.digest.filter(|digest| !scope.has_blob(digest)) else {
            continue;
        };
        let platform = image.platform.as_ref().unwrap_or(&platform);
        let pinned = image.reference.with_digest(digest);
        if catalog.is_manifest(&digest) || bases.pin(&pinned, platform).await? != digest {
            return Err(BaseError::NotFound {
                reference: pinned,
                detail: "its registry has no such image for that platform".to_owned(),
            });
        }
    }
    let pinned = pin(bases, spec).await?;
    let found = pinned
        .base_images()
        .into_iter()
        .filter_map(|image| image.digest);
    let found: Vec<Digest> = found.filter(|digest| !scope.has_blob(digest)).collect();
    let sized = blobs.run(move |store| -> Result<Vec<(Digest, u64)>, BlobError> {
        let mut sized = Vec::new();
        for digest in found {
            sized.push((digest, store.size(digest)?.unwrap_or(0)));
        }
        Ok(sized)
    });
    // A store that fails says so when the base is read.
    let sized = sized.await.unwrap_or_default();
    scope.projects().keep_blobs(scope.project(), sized);
    Ok(pinned)
}

/// Plans a spec. A base whose registry cannot be reached leaves the image hash open.
///
/// # Errors
/// When a base is not there, or engine, registry or store fail.
pub(crate) async fn plan(
    bases: &dyn PinBases,
    engine: &Arc<dyn Engine>,
    (catalog, regions): (&Catalog, &Regions),
    blobs: &BlobStore,
    scope: &Scope,
    request: ResolveRequest,
) -> Result<Plan, ResolveError> {
    let ResolveRequest { spec, blobs: sizes } = request;
    let recipe_hash = spec.recipe_hash();
    let mut warnings: Vec<String> = spec.warnings().iter().map(ToString::to_string).collect();
    let pinned = match pin_seen(bases, scope, (catalog, regions), blobs, spec.clone()).await {
        Ok(pinned) => Some(pinned),
        Err(error @ BaseError::Unreachable { .. }) => {
            warnings.push(error.to_string());
            None
        }
        Err(error) => return Err(error.into()),
    };
    let image_hash = pinned.as_ref().and_then(Spec::image_hash);
    let exists = match &image_hash {
        Some(hash) => scope.has_image(hash) && catalog.find(hash).await?.is_some(),
        None => false,
    };
    // A step that is to run even when it is cached does so even when the whole image is there.
    let reused = exists && !spec.steps.iter().any(|step| step.force);
    let steps = match &pinned {
        Some(pinned) if reused => without_engine(pinned, PlanState::Cached),
        Some(pinned) => {
            let mut steps = engine.plan(pinned).await?;
            hide(&mut steps, pinned, scope);
            steps
        }
        None => without_engine(&spec, PlanState::Run),
    };
    let upload_bytes = if reused {
        0
    } else {
        let digests: Vec<Digest> = sizes.keys().copied().collect();
        let absent = missing(blobs, scope, digests).await?;
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

/// Whether steps of a spec read secrets, whose values are not part of any hash.
pub(crate) fn uses_secrets(spec: &Spec) -> bool {
    let stages = match &spec.base {
        Base::Dockerfile(dockerfile) => dockerfile.stages.as_slice(),
        _ => &[],
    };
    let instructions = stages.iter().flat_map(|stage| &stage.instructions);
    let steps = spec.steps.iter().filter_map(|step| match &step.kind {
        StepKind::Dockerfile(instruction) => Some(instruction),
        _ => None,
    });
    instructions
        .chain(steps)
        .any(|instruction| instruction.text.contains("type=secret"))
        || spec.steps.iter().any(|step| !step.secrets.is_empty())
}

/// Says of steps that come after something which the client does not have that they would run:
/// whether others ran them is not theirs to know.
fn hide(steps: &mut [PlanStep], spec: &Spec, scope: &Scope) {
    if scope.is_all() {
        return;
    }
    if &**scope.project() != DEFAULT_PROJECT && uses_secrets(spec) {
        // What others left of them is not for this project.
        for step in steps {
            step.state = PlanState::Run;
        }
        return;
    }
    let (files, trees) = contents(spec);
    if files
        .iter()
        .chain(&trees)
        .all(|digest| scope.has_blob(digest))
    {
        return;
    }
    // Steps of a Dockerfile come first, and any of them may use any of its contexts.
    let own = spec.steps.len().min(steps.len());
    let first = steps.len() - own;
    let hidden = spec.steps.iter().position(|step| {
        let (mut files, mut trees) = (Vec::new(), BTreeSet::new());
        named_by(&step.kind, &mut files, &mut trees);
        files
            .iter()
            .chain(&trees)
            .any(|digest| !scope.has_blob(digest))
    });
    let from = match &spec.base {
        Base::Dockerfile(_) => 0,
        _ => hidden.map_or(steps.len(), |step| first + step),
    };
    for step in &mut steps[from..] {
        step.state = PlanState::Run;
    }
}

/// Those of `digests` that the store lacks, or has for others only; sorted, each once.
///
/// # Errors
/// When the store fails.
pub(crate) async fn missing(
    blobs: &BlobStore,
    scope: &Scope,
    digests: Vec<Digest>,
) -> Result<Vec<Digest>, BlobError> {
    let scope = scope.clone();
    blobs.run(move |store| absent(store, &scope, digests)).await
}

fn absent(
    store: &BlobStore,
    scope: &Scope,
    mut digests: Vec<Digest>,
) -> Result<Vec<Digest>, BlobError> {
    digests.sort_unstable();
    digests.dedup();
    let mut absent = Vec::new();
    for digest in digests {
        if !scope.has_blob(&digest) || !store.contains(digest)? {
            absent.push(digest);
        }
    }
    Ok(absent)
}

/// The blobs that a build of the spec needs and the store lacks, or has for others only: files,
/// trees, and the files of those trees that are there.
///
/// # Errors
/// When the store fails, or a blob that stands for a directory is no tree.
pub(crate) async fn needed(
    blobs: &BlobStore,
    scope: &Scope,
    spec: &Spec,
) -> Result<Vec<Digest>, ResolveError> {
    let (files, trees) = contents(spec);
    lacking(blobs, scope, files, trees).await
}

/// The files and trees that a spec names.
pub(crate) fn contents(spec: &Spec) -> (Vec<Digest>, BTreeSet<Digest>) {
    let (mut files, mut trees) = (Vec::new(), BTreeSet::new());
    if let Base::Dockerfile(dockerfile) = &spec.base {
        let instructions = dockerfile.stages.iter().flat_map(|s| &s.instructions);
        trees.extend(instructions.filter_map(|i: &Instruction| i.context));
    }
    for step in &spec.steps {
        named_by(&step.kind, &mut files, &mut trees);
    }
    (files, trees)
}

fn named_by(step: &StepKind, files: &mut Vec<Digest>, trees: &mut BTreeSet<Digest>) {
    match step {
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

/// Those blobs of files, trees and the files of those trees that are there, that the store lacks or
/// has for others only; sorted.
///
/// # Errors
/// When the store fails, or a blob that stands for a directory is no tree.
pub(crate) async fn lacking(
    blobs: &BlobStore,
    scope: &Scope,
    mut files: Vec<Digest>,
    trees: BTreeSet<Digest>,
) -> Result<Vec<Digest>, ResolveError> {
    let scope = scope.clone();
    let lacking = blobs.run(move |store| -> Result<_, ResolveError> {
        let mut lacking = Vec::new();
        for digest in trees {
            if !scope.has_blob(&digest) {
                lacking.push(digest);
                continue;
            }
            // A damaged tree is set aside by the store, so it counts as absent.
            let json = match store.read_small(digest, TREE_LIMIT) {
                Ok(json) => json,
                Err(BlobError::NotFound(_) | BlobError::Mismatch { .. }) => {
                    lacking.push(digest);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let named = Tree::files(&json);
            files.extend(named.map_err(|source| ResolveError::Tree { digest, source })?);
        }
        lacking.extend(absent(store, &scope, files)?);
        lacking.sort_unstable();
        lacking.dedup();
        Ok(lacking)
    });
    lacking.await
}
