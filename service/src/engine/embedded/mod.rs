//! The embedded engine: builds in this process, without any daemon.
//!
//! `build` resolves the stages of a lowered spec against the step cache (`steps`) and runs
//! what is left: processes in the sandbox (`run`, `install`), copies straight into the layer
//! (`copy`). A layer is packed and pushed while the next step runs (`stage`), and
//! `publish` puts the image together. Layer directories (`layers`, `chain`, `merge`) are
//! shared between builds.

pub(in crate::engine) mod build;
mod caches;
pub(in crate::engine) mod chain;
pub(in crate::engine) mod copy;
mod disk;
pub(in crate::engine) mod download;
pub(in crate::engine) mod files;
mod groups;
pub(in crate::engine) mod install;
mod join;
pub(in crate::engine) mod layers;
mod merge;
pub(in crate::engine) mod output;
pub(in crate::engine) mod owners;
mod publish;
pub(in crate::engine) mod push;
pub(in crate::engine) mod resume;
pub(in crate::engine) mod run;
pub(in crate::engine) mod scratch;
pub(in crate::engine) mod stage;
pub(in crate::engine) mod steps;
pub(in crate::engine) mod surroundings;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chalk_core::spec::Base as SpecBase;
use chalk_core::wire::{PlanState, PlanStep};
use chalk_core::{Digest, Spec};
use chalk_store::snapshots::Snapshots;
use chalk_store::uses::Horizon;
use chalk_store::{BlobStore, temporary};
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{CacheEntry, CacheKind, Compression, Engine, EngineError, EventSink, Job, Outcome};
use crate::bases::Bases;
use crate::registry::{Regional, RegionalError};
use crate::settings::Installer;

use caches::Caches;
use groups::Groups;
pub use groups::StepLimits;
use install::uv::UvTool;
use layers::LayerDirs;
use steps::StepCache;
use surroundings::Surroundings;

/// Questions that are put to the registry at once.
const PARALLEL: usize = 16;

/// Where uv comes from unless the service's own environment names another index.
const PYPI: &str = "https://pypi.org/simple";

/// Settings of an [`EmbeddedEngine`].
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// Directory that the engine keeps everything in.
    pub dir: PathBuf,
    /// PEM file of authorities that steps trust.
    pub ca_bundle: Option<PathBuf>,
    /// Proxy variables of steps, upper and lower case.
    pub proxies: Vec<(String, String)>,
    /// What carries out `pip_install`.
    pub installer: Installer,
    /// Compression of new layers, unless a build says otherwise.
    pub compression: Compression,
    /// Longest that one step may run.
    pub step_timeout: Duration,
    /// What the processes of one step may use at most.
    pub limits: StepLimits,
    /// Steps that run at once, over all builds.
    pub parallel: usize,
    /// Python package index (PEP 503) that uv itself is fetched from.
    pub python_index: String,
}

impl EngineSettings {
    /// What the settings of the service say, with the engine's directory below `state`.
    pub fn new(build: &crate::settings::Build, state: &Path) -> Self {
        let env = |name| std::env::var(name).ok().filter(|v: &String| !v.is_empty());
        let index = ["UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"];
        Self {
            dir: state.join("engine"),
            ca_bundle: build.effective_ca_bundle(),
            proxies: build.effective_proxies(),
            installer: build.installer,
            compression: build.compression,
            step_timeout: build.step_timeout,
            limits: StepLimits::new(build),
            parallel: build.parallel,
            python_index: index
                .into_iter()
                .find_map(env)
                .unwrap_or_else(|| PYPI.into()),
        }
    }
}

/// The engine. One for each state directory.
#[derive(Debug)]
pub struct EmbeddedEngine {
    shared: Arc<Shared>,
}

/// What all builds of an engine share.
#[derive(Debug)]
pub(in crate::engine) struct Shared {
    pub(in crate::engine) settings: EngineSettings,
    pub(in crate::engine) surroundings: Surroundings,
    pub(in crate::engine) blobs: BlobStore,
    pub(in crate::engine) regional: Arc<dyn Regional>,
    pub(in crate::engine) bases: Arc<Bases>,
    pub(in crate::engine) dirs: LayerDirs,
    pub(in crate::engine) steps: StepCache,
    caches: Caches,
    groups: Groups,
    pub(in crate::engine) uv: UvTool,
    /// Places for running steps.
    slots: Semaphore,
    /// Place for packing: compression takes all cores by itself.
    packing: Semaphore,
    /// Parent of the scratch directories.
    pub(in crate::engine) scratch: PathBuf,
    /// An empty directory, in place of the layers of the empty base.
    pub(in crate::engine) empty: PathBuf,
}

impl EmbeddedEngine {
    /// What its builds share, for an engine that has the work done elsewhere.
    pub(in crate::engine) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Makes an engine that keeps layers in `blobs`, publishes to `regional` and takes bases from
    /// `bases`. Removes what builds that died left behind.
    ///
    /// # Errors
    /// When the directory of the settings cannot be used.
    pub fn new(
        settings: EngineSettings,
        blobs: BlobStore,
        regional: Arc<dyn Regional>,
        bases: Arc<Bases>,
    ) -> Result<Self, EngineError> {
        // Every layer of a long build holds a descriptor, and stacking them opens more.
        raise_descriptor_limit();
        let dir = &settings.dir;
        let failed = |doing: &str, cause: String| EngineError::Storage {
            doing: format!("{doing} {}", dir.display()),
            cause,
        };
        for part in ["steps", "tools", "caches", "empty"] {
            std::fs::create_dir_all(dir.join(part)).map_err(|e| failed("make", e.to_string()))?;
        }
        temporary::sweep(dir).map_err(|e| failed("tidy", e.to_string()))?;
        for part in ["steps", "tools", "caches"] {
            temporary::sweep(&dir.join(part)).map_err(|e| failed("tidy", e.to_string()))?;
        }
        // Layers hold set-user-id programs and secrets of images, which no user of this host may
        // reach, however open the directories above are.
        rustix::fs::chmod(dir, rustix::fs::Mode::RWXU)
            .map_err(|e| failed("close", e.to_string()))?;
        owners::claim(dir)?;
        let scratch = dir.join("scratch");
        scratch::sweep(&scratch)?;
        let snapshots =
            Snapshots::open(dir.join("layers")).map_err(|e| failed("use", e.to_string()))?;
        let shared = Shared {
            surroundings: Surroundings {
                ca_bundle: settings.ca_bundle.clone(),
                proxies: settings.proxies.clone(),
            },
            dirs: LayerDirs::new(snapshots),
            steps: StepCache::new(dir.join("steps"), Arc::clone(&regional), blobs.clone()),
            caches: Caches::new(dir.join("caches")),
            groups: Groups::begin(dir, settings.limits),
            uv: UvTool::new(
                dir.join("tools"),
                &settings.python_index,
                settings.ca_bundle.clone(),
            ),
            slots: Semaphore::new(settings.parallel.max(1)),
            packing: Semaphore::new(1),
            scratch,
            empty: dir.join("empty"),
            settings,
            blobs,
            regional,
            bases,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }
}

fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files stays");
    }
}

#[async_trait]
impl Engine for EmbeddedEngine {
    fn name(&self) -> &str {
        "embedded"
    }

    async fn plan(&self, spec: &Spec) -> Result<Vec<PlanStep>, EngineError> {
        let steps = spec.steps_with_keys();
        let steps_cache = &self.shared.steps;
        let asked: Vec<_> = steps
            .iter()
            .map(|step| steps_cache.has(&step.key).boxed())
            .collect();
        let present: Vec<bool> = stream::iter(asked).buffered(PARALLEL).try_collect().await?;
        let forced = forced(spec, steps.len());
        let mut states = vec![PlanState::Run; steps.len()];
        for chain in chains(spec, steps.len()) {
            // Everything up to the last one that is there is there; so is what changes no file
            // and follows it.
            let usable = chain.clone().find(|i| forced[*i]).unwrap_or(chain.end);
            let last = (chain.start..usable).rev().find(|i| present[*i]);
            let mut end = last.map_or(chain.start, |i| i + 1);
            while end < usable && is_config(&steps[end].title) && steps[end].kind == "dockerfile" {
                end += 1;
            }
            states[chain.start..end].fill(PlanState::Cached);
        }
        Ok(steps
            .into_iter()
            .zip(states)
            .map(|(step, state)| PlanStep {
                kind: step.kind.to_owned(),
                key: step.key,
                title: step.title,
                state,
            })
            .collect())
    }

    async fn caches(&self) -> Result<Vec<CacheEntry>, EngineError> {
        let shared = self.shared.clone();
        let list = move || {
            let entry = |kind, (name, bytes, used)| CacheEntry {
                kind,
                name,
                bytes,
                used,
                blobs: Vec::new(),
            };
            let fault = |e: &(dyn std::error::Error + 'static)| storage("list the caches", e);
            let layers = shared.dirs.list().map_err(|e| fault(&e))?.into_iter();
            let mut found: Vec<CacheEntry> = layers.map(|l| entry(CacheKind::Layer, l)).collect();
            for cache in shared.caches.list().map_err(|e| fault(&e))? {
                let kind = match cache.0.starts_with("mount-") {
                    true => CacheKind::Mount,
                    false => CacheKind::Tool,
                };
                found.push(entry(kind, cache));
            }
            found.extend(shared.steps.notes().map_err(|e| fault(&e))?);
            Ok(found)
        };
        let listed = tokio::task::spawn_blocking(list).await;
        listed.map_err(|e| storage("list the caches", &e))?
    }

    async fn drop_cache(
        &self,
        kind: CacheKind,
        name: &str,
        horizon: &Horizon,
    ) -> Result<bool, EngineError> {
        let (shared, name, horizon) = (self.shared.clone(), name.to_owned(), *horizon);
        let fault = |e: &(dyn std::error::Error + 'static)| storage("remove a cache", e);
        let remove = move || match kind {
            CacheKind::Layer => {
                let dropped = shared.dirs.drop_unused(&name, &horizon);
                dropped.map_err(|e| fault(&e))
            }
            CacheKind::Tool | CacheKind::Mount => {
                let dropped = shared.caches.drop_unused(&name, &horizon);
                dropped.map_err(|e| fault(&e))
            }
            CacheKind::Step => {
                let dropped = shared.steps.drop_note(&name, &horizon);
                dropped.map_err(|e| fault(&e))
            }
            // Of builders only.
            CacheKind::Shared => Ok(false),
        };
        let dropped = tokio::task::spawn_blocking(remove).await;
        dropped.map_err(|e| storage("remove a cache", &e))?
    }

    async fn build(
        &self,
        job: &Job,
        events: &dyn EventSink,
        cancel: &CancellationToken,
    ) -> Result<Outcome, EngineError> {
        build::build(&self.shared, &build::Here, job, events, cancel).await
    }
}

/// Ranges of steps that build upon each other: the stages of a Dockerfile base, and the steps
/// that follow with the last of them.
fn chains(spec: &Spec, count: usize) -> Vec<std::ops::Range<usize>> {
    let mut chains = Vec::new();
    let mut start = 0;
    if let SpecBase::Dockerfile(dockerfile) = &spec.base {
        for stage in &dockerfile.stages {
            let end = start + stage.instructions.len();
            chains.push(start..end);
            start = end;
        }
    }
    match chains.last_mut() {
        Some(last) => last.end = count,
        None => chains.push(0..count),
    }
    chains
}

/// Which steps are to run even when cached, by position in the list of all steps.
fn forced(spec: &Spec, count: usize) -> Vec<bool> {
    let before = count - spec.steps.len().min(count);
    let mut forced = vec![false; before];
    forced.extend(spec.steps.iter().map(|step| step.force));
    forced.truncate(count);
    forced
}

/// Whether a canonical instruction changes only the config.
fn is_config(title: &str) -> bool {
    let keyword = title.split_whitespace().next().unwrap_or_default();
    !matches!(keyword, "RUN" | "COPY" | "ADD" | "WORKDIR")
}

/// What went wrong with the store or the registry.
pub(in crate::engine) fn storage(
    doing: &str,
    error: &(dyn std::error::Error + 'static),
) -> EngineError {
    let regional = error.downcast_ref::<RegionalError>();
    if regional.is_some_and(RegionalError::is_unreachable) {
        return EngineError::Registry {
            doing: doing.to_owned(),
            cause: error.to_string(),
        };
    }
    EngineError::Storage {
        doing: doing.to_owned(),
        cause: error.to_string(),
    }
}

/// Digests of blobs that a spec names and the store lacks.
async fn missing_blobs(blobs: &BlobStore, wanted: Vec<Digest>) -> Result<Vec<Digest>, EngineError> {
    let found = blobs.run(move |blobs| {
        let mut missing = Vec::new();
        for digest in wanted {
            if !blobs.contains(digest)? {
                missing.push(digest);
            }
        }
        Ok::<_, chalk_store::BlobError>(missing)
    });
    found.await.map_err(|e| storage("look for files", &e))
}

#[cfg(test)]
mod tests;
