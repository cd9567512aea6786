//! The engine that has builds carried out by builders of BuildKit: a `buildkitd`, several of them, or
//! the one inside of a Docker Engine.
//!
//! It shares everything with the embedded engine but the work on files: how a spec is laid out as
//! operations, the step cache, what is told, how an image is put together and published. `fleet` picks
//! a builder; `lowering` makes a definition (`llb`) of the operations; `solve` has it solved while
//! `session` answers what the builder asks for, and `watch` makes events of what it tells; `collect`
//! takes the layers, which the builder has pushed to the regional registry.
//!
//! A builder that dies is replaced by the next one, which begins where the step cache ends.

mod address;
mod collect;
mod connect;
mod docker;
mod files;
mod fleet;
mod llb;
mod login;
mod lowering;
mod session;
mod solve;
mod stubs;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bollard_buildkit_proto::pb;
use chalk_core::lower::{Action, Build as Lowered};
use chalk_core::wire::{EventKind, PlanStep, StepState};
use chalk_core::{Digest, Spec};
use chalk_store::uses::Horizon;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::embedded::EmbeddedEngine;
use super::embedded::build::{Build, Executor, Stop, build};
use super::embedded::stage::StageDone;
use super::embedded::storage;
use super::oci::ImageFile;
use super::{CacheEntry, CacheKind, Engine, EngineError, EventSink, Job, Outcome};
use crate::noted::Noted;
use crate::places::{BUILD_CACHE, BUILDS, passing_tag};
use crate::settings::{BuildKit, StepNetwork};

pub use address::{Address, InvalidAddress};
pub use connect::TlsError;
pub use login::LoginSource;

use docker::DockerApi;
use fleet::{Builder, Fleet, place};
use llb::Output;
use login::Login;
use lowering::{Lowering, Part, Stage};
use session::Answers;
use solve::{Attempt, Export, Halt};
use watch::{Failed, Watch};

/// Why the settings make no [`BuildKitEngine`].
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// There is no builder.
    #[error(
        "`build.engine` is `buildkit`, and `build.buildkit.addresses` names no builder: expected for example `unix:///run/buildkit/buildkitd.sock` or `docker:///var/run/docker.sock`"
    )]
    NoBuilder,
    /// An address is none.
    #[error(transparent)]
    Address(#[from] InvalidAddress),
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The directory of notes cannot be made.
    #[error("failed to create {}: {cause}", path.display())]
    Notes {
        /// The directory.
        path: PathBuf,
        /// Why not.
        cause: String,
    },
}

/// What the parts of the engine go by.
#[derive(Debug, Clone)]
struct BuildKitSettings {
    /// `host[:port][/prefix]` of the regional registry, for builders.
    registry: String,
    login: LoginSource,
    network: StepNetwork,
    share_cache: bool,
}

impl BuildKitSettings {
    async fn login(&self) -> Option<Login> {
        let host = self.registry.split('/').next().unwrap_or_default();
        self.login.find(host).await
    }
}

/// The engine.
pub struct BuildKitEngine {
    /// Does all that is no work on files.
    inner: EmbeddedEngine,
    fleet: Fleet,
    settings: BuildKitSettings,
    /// Uses of the caches that builders share, by what they are placed by.
    shared: Arc<Noted>,
}

impl BuildKitEngine {
    /// Makes an engine that publishes as `inner` does. `public` is `host[:port][/prefix]` of the
    /// regional registry, unless the settings say what builders know it by; `login` opens it to them.
    /// Uses of shared caches are noted in `notes`. Reads files; connects to nobody.
    ///
    /// # Errors
    /// When the settings cannot be used.
    pub fn new(
        settings: &BuildKit,
        inner: EmbeddedEngine,
        public: &str,
        login: LoginSource,
        notes: PathBuf,
    ) -> Result<Self, SettingsError> {
        let shared = Noted::open(notes.clone());
        let shared = shared.map_err(|e| SettingsError::Notes {
            path: notes,
            cause: e.to_string(),
        })?;
        let registry = settings.registry.as_deref().unwrap_or(public);
        Ok(Self {
            inner,
            fleet: fleet_of(settings)?,
            settings: BuildKitSettings {
                registry: registry.to_owned(),
                login,
                network: settings.network,
                share_cache: settings.share_cache,
            },
            shared: Arc::new(shared),
        })
    }
}

#[async_trait]
impl Engine for BuildKitEngine {
    fn name(&self) -> &str {
        "buildkit"
    }

    async fn plan(&self, spec: &Spec) -> Result<Vec<PlanStep>, EngineError> {
        self.inner.plan(spec).await
    }

    async fn caches(&self) -> Result<Vec<CacheEntry>, EngineError> {
        let mut found = self.inner.caches().await?;
        let notes = self.shared.clone();
        let listed = tokio::task::spawn_blocking(move || notes.all()).await;
        let listed = listed.map_err(|e| storage("list the caches", &e))?;
        for (place, used) in listed.map_err(|e| storage("list the caches", &e))? {
            found.push(CacheEntry {
                kind: CacheKind::Shared,
                name: place.hex(),
                bytes: 0,
                used,
                blobs: Vec::new(),
            });
        }
        Ok(found)
    }

    async fn drop_cache(
        &self,
        kind: CacheKind,
        name: &str,
        horizon: &Horizon,
    ) -> Result<bool, EngineError> {
        if kind != CacheKind::Shared {
            return self.inner.drop_cache(kind, name, horizon).await;
        }
        let Ok(place) = format!("sha256:{name}").parse::<Digest>() else {
            return Ok(false);
        };
        let unused = !self.shared.is_used(&place, horizon);
        if unused {
            self.shared.forget(&place);
        }
        Ok(unused)
    }

    async fn build(
        &self,
        job: &Job,
        events: &dyn EventSink,
        cancel: &CancellationToken,
    ) -> Result<Outcome, EngineError> {
        build(self.inner.shared(), self, job, events, cancel).await
    }
}

#[async_trait]
impl Executor for BuildKitEngine {
    fn check(&self, _: &Lowered) -> Result<(), EngineError> {
        Ok(())
    }

    async fn run(&self, build: &Build<'_>) -> Result<Arc<StageDone>, Stop> {
        match self.run_stages(build).await {
            Ok(done) => Ok(Arc::new(done)),
            Err(error) => Err(build.stop(error)),
        }
    }
}

impl BuildKitEngine {
    async fn run_stages(&self, build: &Build<'_>) -> Result<StageDone, EngineError> {
        if let Some(done) = all_cached(build).await? {
            return Ok(done);
        }
        let last = build.stages.len().saturating_sub(1);
        let place = place(&build.stages[build.root_stage(last)]);
        let emit = |event: EventKind| build.events.emit(event);
        let mut watch = Watch::new(build, &emit);
        let mut tried = Vec::new();
        for builder in self.fleet.ranked(&place) {
            let checked = tokio::select! {
                checked = builder.check() => checked,
                () = build.cancel.cancelled() => return Err(EngineError::Cancelled),
            };
            let halt = match checked {
                Ok(channel) => {
                    let done = self.attempt(build, builder, channel, &place, &mut watch);
                    match done.await {
                        Ok(done) => return Ok(done),
                        Err(halt) => halt,
                    }
                }
                Err(why) => Halt::Builder(why),
            };
            let why = match halt {
                Halt::Builder(_) if build.cancel.is_cancelled() => {
                    return Err(EngineError::Cancelled);
                }
                Halt::Builder(why) => format!("{}: {why}", builder.address),
                Halt::Operation(failed) => return Err(tell_failure(build, failed)),
                Halt::Build(error) => return Err(error),
            };
            tracing::warn!(build = build.job.id, %why, "a builder failed");
            self.fleet.note_failure(builder);
            watch.forget();
            emit(EventKind::Warning {
                message: format!("a builder failed: {why}"),
            });
            tried.push(why);
        }
        Err(EngineError::Host(format!(
            "no builder of `build.buildkit.addresses` can do the build: {}",
            tried.join("; ")
        )))
    }

    /// Has a builder carry the build out.
    async fn attempt<'a>(
        &'a self,
        build: &'a Build<'a>,
        builder: &'a Builder,
        channel: Channel,
        place: &Digest,
        watch: &mut Watch<'a>,
    ) -> Result<StageDone, Halt> {
        let job = build.job;
        let shared = build.shared;
        let login = self.settings.login().await;
        let answers = Answers::new(job.secrets.clone(), login, shared.blobs.clone());
        let attempt = Attempt::begin(
            builder,
            channel,
            Arc::new(answers),
            &build.cancel,
            shared.settings.step_timeout,
            self.settings.network == StepNetwork::Host,
        );
        let attempt = attempt.await?;
        let mut lowering = Lowering::new(build, &attempt, watch, &self.settings);
        let last = build.stages.len().saturating_sub(1);
        let stage = lowering.stage(last).await?;
        let (graph, parts) = lowering.finish();
        let has_work = stage.parts.iter().any(|part| part.vertexes > 0);
        let output = stage.state.clone().filter(|_| has_work);
        let Some(output) = output else {
            settle(watch, &parts);
            return Ok(collect::collect(build, stage, None).await?);
        };
        let tag = passing_tag(SystemTime::now(), rand::random());
        let order = Order {
            definition: graph.definition(&output),
            stage: &stage,
            place,
            tag: &tag,
        };
        let made = self.made(&attempt, order, build, watch).await;
        let done = match made {
            Ok(()) => {
                settle(watch, &parts);
                let collected = collect::collect(build, stage, Some(&tag)).await;
                collected.map_err(Halt::from)
            }
            Err(halt) => Err(halt),
        };
        if !matches!(done, Err(Halt::Builder(_))) {
            self.clear(builder, &tag, build).await;
        }
        done
    }

    /// Has the result made and brought into the registry.
    async fn made(
        &self,
        attempt: &Attempt<'_>,
        order: Order<'_>,
        build: &Build<'_>,
        watch: &mut Watch<'_>,
    ) -> Result<(), Halt> {
        let Order {
            definition,
            stage,
            place,
            tag,
        } = order;
        let repository = self.repository();
        let mut file = ImageFile::empty(&build.job.spec.platform);
        file.history = collect::ordered_history(stage.start.layers.len(), &stage.parts, |op| {
            build.stages[op.0].ops[op.1].created_by.clone()
        });
        let config = serde_json::to_string(&file);
        let config = config.map_err(|e| storage("order an image", &e))?;
        let mut attrs = vec![
            ("name", format!("{repository}:{tag}")),
            ("containerimage.config", config),
        ];
        let docker = match &attempt.builder.address {
            Address::Docker(path) => Some(DockerApi::new(path).map_err(Halt::Builder)?),
            _ => None,
        };
        if docker.is_none() {
            attrs.push(("push", "true".to_owned()));
            attrs.push(("oci-mediatypes", "true".to_owned()));
        }
        let share = docker.is_none() && self.settings.share_cache && !build.job.verify;
        let export = Export {
            kind: if docker.is_some() { "moby" } else { "image" },
            attrs,
            cache: share
                .then(|| format!("{}/{BUILD_CACHE}:{}", self.settings.registry, place.hex())),
        };
        if share {
            self.shared.note(place);
        }
        attempt.solve(definition, export, watch).await?;
        if let Some(docker) = docker {
            let push = docker.push(&repository, tag, attempt.answers.login.as_ref());
            let pushed = tokio::select! {
                pushed = push => pushed,
                () = build.cancel.cancelled() => return Err(EngineError::Cancelled.into()),
            };
            if let Err(why) = pushed {
                return Err(match attempt.builder.check().await {
                    Err(_) => Halt::Builder(why),
                    Ok(_) => Halt::Build(EngineError::Storage {
                        doing: "push the image from the Docker Engine".to_owned(),
                        cause: why,
                    }),
                });
            }
        }
        Ok(())
    }

    fn repository(&self) -> String {
        format!("{}/{BUILDS}", self.settings.registry)
    }

    /// Takes the image that was on its way out of registry and engine.
    async fn clear(&self, builder: &Builder, tag: &str, build: &Build<'_>) {
        if let Err(error) = build.shared.regional.delete(BUILDS, tag).await {
            tracing::warn!(%error, tag, "an image on its way stays in the registry");
        }
        let Address::Docker(path) = &builder.address else {
            return;
        };
        let cleared = match DockerApi::new(path) {
            Ok(docker) => docker.untag(&self.repository(), tag).await,
            Err(why) => Err(why),
        };
        if let Err(why) = cleared {
            tracing::warn!(%why, tag, "an image on its way stays in the Docker Engine");
        }
    }
}

/// What a builder is to make.
struct Order<'a> {
    definition: pb::Definition,
    stage: &'a Stage,
    /// What the build is placed by.
    place: &'a Digest,
    /// Tag in [`BUILDS`].
    tag: &'a str,
}

/// Tells of the steps that the builder told nothing of.
fn settle(watch: &mut Watch<'_>, parts: &[Part]) {
    for part in parts {
        watch.settle(part.op, part.vertexes == 0);
    }
}

/// Asks every builder of the settings whether it can build: its address, and the platforms that it
/// builds for, or why it cannot.
///
/// # Errors
/// When the settings cannot be used.
pub async fn ask_builders(
    settings: &BuildKit,
) -> Result<Vec<(String, Result<String, String>)>, SettingsError> {
    let fleet = fleet_of(settings)?;
    let asked = fleet.builders().iter().map(|builder| async move {
        let answer = builder.platforms().await;
        (builder.address.to_string(), answer)
    });
    Ok(futures_util::future::join_all(asked).await)
}

fn fleet_of(settings: &BuildKit) -> Result<Fleet, SettingsError> {
    if settings.addresses.is_empty() {
        return Err(SettingsError::NoBuilder);
    }
    let addresses = settings.addresses.iter().map(|address| address.parse());
    let addresses: Vec<Address> = addresses.collect::<Result<_, _>>()?;
    Ok(Fleet::new(addresses, &connect::Tls::new(settings)?))
}

/// The result, where the step cache has all of it, so that no builder is needed.
async fn all_cached(build: &Build<'_>) -> Result<Option<StageDone>, EngineError> {
    let last = build.stages.len().saturating_sub(1);
    let ops = &build.stages[last].ops;
    if build.job.verify || build.forced[last].contains(&true) {
        return Ok(None);
    }
    let Some((at, entry, place)) = build.deepest(last, ops.len()).await? else {
        return Ok(None);
    };
    let following = &ops[at + 1..];
    let only_config = following.iter().all(|op| op.action == Action::Config);
    if !only_config || build.check_layers(&entry, place).await.is_err() {
        return Ok(None);
    }
    build.tell_cached(last, 0, ops.len(), place);
    let part = |op| Part {
        op: (last, op),
        vertexes: 0,
    };
    let stage = Stage {
        start: entry,
        parts: (at + 1..ops.len()).map(part).collect(),
        state: None::<Output>,
    };
    collect::collect(build, stage, None).await.map(Some)
}

/// Tells that a step failed.
fn tell_failure(build: &Build<'_>, failed: Failed) -> EngineError {
    let (stage, at) = failed.op;
    let op = &build.stages[stage].ops[at];
    let next = || op.step.min(build.last_step());
    let step = build.position(op.step, &op.key).unwrap_or_else(next);
    build.record(step, |record| {
        record.state = StepState::Failed;
        record.seconds = failed.seconds;
    });
    build.events.emit(EventKind::StepFailed {
        step,
        exit_code: failed.exit_code,
        message: failed.message.clone(),
        seconds: failed.seconds,
        tail: failed.tail.clone(),
    });
    EngineError::Step {
        step,
        title: op.title.clone(),
        exit_code: failed.exit_code,
        message: failed.message,
        tail: failed.tail,
    }
}
