//! From the operations of a lowered spec to a definition for BuildKit.
//!
//! A stage goes on from the deepest of its steps that the step cache has, as an image of the regional
//! registry, else from its base, which is brought into the registry first; so builders need no other
//! registry and no other login. What only a look into a stage's files can tell (who `USER app` is,
//! which Python there is) is asked of the builder while the definition grows.

mod ask;
mod copy;
mod exec;
mod install;

use std::collections::BTreeMap;
use std::sync::Arc;

use bollard_buildkit_proto::pb;
use chalk_core::Digest;
use chalk_core::lower::{Action, Op};
use chalk_core::spec::StageBase;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::llb::{About, Graph, Output, State};
use super::solve::{Attempt, Halt};
use super::watch::{OpId, Watch, vertex_name};
use super::{BuildKitSettings, address::Address};
use crate::engine::Compression;
use crate::engine::EngineError;
use crate::engine::embedded::build::{Build, stages_read};
use crate::engine::embedded::install::command::Private;
use crate::engine::embedded::resume::{Unusable, entry_of};
use crate::engine::embedded::steps::{Entry, Place};
use crate::engine::embedded::storage;
use crate::places::STEPS;

/// Where our own files are while a step runs: in `/dev`, which is memory of the step alone, so that no
/// mount point is left in a layer.
const PRIVATE: Private = Private("/dev/chalk");

/// What a stage has come to.
#[derive(Debug, Clone)]
pub(super) struct Stage {
    /// Layers that were there before.
    pub(super) start: Entry,
    /// Operations that a builder has to carry out on them, those of earlier stages first.
    pub(super) parts: Vec<Part>,
    /// The filesystem after them.
    pub(super) state: State,
}

/// An operation of a stage, and the number of its vertexes, each of which makes a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) op: OpId,
    pub(super) vertexes: usize,
}

/// A definition that grows.
pub(super) struct Lowering<'a, 'w> {
    pub(super) build: &'a Build<'a>,
    pub(super) attempt: &'w Attempt<'a>,
    pub(super) watch: &'w mut Watch<'a>,
    pub(super) graph: Graph,
    pub(super) settings: &'a BuildKitSettings,
    stages: BTreeMap<usize, Stage>,
    /// `/etc/passwd` and `/etc/group` by filesystem.
    users: BTreeMap<State, (Vec<u8>, Vec<u8>)>,
    uv: State,
}

impl<'a, 'w> Lowering<'a, 'w> {
    /// Begins with nothing.
    pub(super) fn new(
        build: &'a Build<'a>,
        attempt: &'w Attempt<'a>,
        watch: &'w mut Watch<'a>,
        settings: &'a BuildKitSettings,
    ) -> Self {
        Self {
            build,
            attempt,
            watch,
            graph: Graph::new(&build.job.spec.platform),
            settings,
            stages: BTreeMap::new(),
            users: BTreeMap::new(),
            uv: None,
        }
    }

    /// The operations that were lowered, and all that builders have to do with.
    pub(super) fn finish(self) -> (Graph, Vec<Part>) {
        let mut parts: Vec<Part> = Vec::new();
        for part in self.stages.into_values().flat_map(|stage| stage.parts) {
            if !parts.contains(&part) {
                parts.push(part);
            }
        }
        (self.graph, parts)
    }

    /// Lowers a stage and what it needs.
    pub(super) fn stage(&mut self, index: usize) -> BoxFuture<'_, Result<Stage, Halt>> {
        async move {
            if let Some(known) = self.stages.get(&index) {
                return Ok(known.clone());
            }
            let build = self.build;
            let stage = build.stages.get(index);
            let stage =
                stage.ok_or_else(|| EngineError::Spec(format!("there is no stage {index}")))?;
            let (next, mut made) = self.start(index).await?;
            build.check_secrets(&stage.ops[next..])?;
            for (at, op) in stage.ops.iter().enumerate().skip(next) {
                let vertexes = self.operation((index, at), op, &mut made.state).await?;
                let op = (index, at);
                made.parts.push(Part { op, vertexes });
            }
            self.stages.insert(index, made.clone());
            Ok(made)
        }
        .boxed()
    }

    /// Where a stage goes on: the first operation to carry out, and what is there before it.
    async fn start(&mut self, index: usize) -> Result<(usize, Stage), Halt> {
        let build = self.build;
        let stage = &build.stages[index];
        let forced = build.forced[index].iter().position(|f| *f);
        let forced = forced.unwrap_or(stage.ops.len());
        let mut usable = match build.job.verify {
            true => 0,
            false => forced,
        };
        while let Some((op, entry, place)) = build.deepest(index, usable).await? {
            match build.check_layers(&entry, place).await {
                Ok(()) => {
                    let following = stage.ops[op + 1..forced.max(op + 1)].iter();
                    let config = following
                        .take_while(|op| op.action == Action::Config)
                        .count();
                    build.tell_cached(index, 0, op + 1 + config, place);
                    let key = stage.ops[op].key;
                    let state = match stage.ops[op + 1..]
                        .iter()
                        .any(|op| op.action != Action::Config)
                        || self.is_read(index)
                    {
                        true => Some(self.source(&build.job.cached_as(&key), &entry).await?),
                        false => None,
                    };
                    let made = Stage {
                        start: entry,
                        parts: Vec::new(),
                        state,
                    };
                    return Ok((op + 1, made));
                }
                Err(Unusable::Fatal(error)) => return Err(error.into()),
                Err(Unusable::Blob(why)) => {
                    build.forget(&stage.ops[op].key, &why).await;
                    usable = op;
                }
            }
        }
        let made = match &stage.base {
            StageBase::Scratch => Stage {
                start: Entry::default(),
                parts: Vec::new(),
                state: None,
            },
            StageBase::Stage(earlier) => self.stage(*earlier).await?,
            StageBase::Image(_) => {
                let base = build.bases.get(index).cloned().flatten();
                let base =
                    base.ok_or_else(|| EngineError::Spec(format!("stage {index} has no base")))?;
                let entry = entry_of(&base);
                let state = Some(self.source(&stage.base_key, &entry).await?);
                Stage {
                    start: entry,
                    parts: Vec::new(),
                    state,
                }
            }
        };
        // Changes of the config that come first need nothing run.
        let first = stage.ops[..forced].iter();
        let config = first.take_while(|op| op.action == Action::Config).count();
        build.tell_cached(index, 0, config, Place::Local);
        Ok((0, made))
    }

    /// Whether the files of a stage are wanted by another one.
    fn is_read(&self, index: usize) -> bool {
        index + 1 < self.build.stages.len()
    }

    /// Layers as an image that builders can pull.
    async fn source(&mut self, key: &Digest, entry: &Entry) -> Result<Output, Halt> {
        let build = self.build;
        let (key, entry) = match self.attempt.builder.address {
            // Docker before version 23 reads no zstd.
            Address::Docker(_) => self.without_zstd(key, entry).await?,
            _ => (*key, entry.clone()),
        };
        for layer in &entry.layers {
            build.pusher.push(STEPS, &layer.blob()).await?;
        }
        let shared = build.shared;
        let doing = "offer layers to a builder";
        let failed = |error: &(dyn std::error::Error + 'static)| storage(doing, error);
        let there = shared.regional.head_manifest(STEPS, &key.hex()).await;
        let digest = match there.map_err(|e| failed(&e))? {
            Some(there) => there.digest,
            None => {
                let platform = &build.job.spec.platform;
                shared.steps.put(&key, &entry, platform).await?;
                let there = shared.regional.head_manifest(STEPS, &key.hex()).await;
                let there = there.map_err(|e| failed(&e))?;
                let missing = || EngineError::Storage {
                    doing: doing.to_owned(),
                    cause: "the registry does not have what it took".to_owned(),
                };
                there.ok_or_else(missing)?.digest
            }
        };
        let reference = format!("{}/{STEPS}@{digest}", self.settings.registry);
        let name = format!("image {}", key.hex());
        Ok(self.graph.image(&reference, About::new(name)))
    }

    async fn without_zstd(&self, key: &Digest, entry: &Entry) -> Result<(Digest, Entry), Halt> {
        let is_zstd = |media_type: &str| media_type.ends_with("+zstd");
        let mut entry = entry.clone();
        if !entry
            .layers
            .iter()
            .any(|layer| is_zstd(&layer.descriptor.media_type))
        {
            return Ok((*key, entry));
        }
        for layer in &mut entry.layers {
            if is_zstd(&layer.descriptor.media_type) {
                *layer = self.build.recompressed(layer, Compression::Gzip).await?;
            }
        }
        Ok((Digest::of(format!("gzip {key}").as_bytes()), entry))
    }

    /// Lowers one operation; gives the number of its vertexes.
    async fn operation(&mut self, id: OpId, op: &Op, state: &mut State) -> Result<usize, Halt> {
        for stage in stages_read(&op.action) {
            self.stage(stage).await?;
        }
        let vertexes = match &op.action {
            Action::Config => 0,
            Action::Run(run) => {
                *state = Some(self.run(id, op, state, run).await?);
                1
            }
            Action::Install(install) => self.install(id, op, state, install).await?,
            files => {
                let about = self.about(id, 0, op);
                usize::from(self.files(id, state, files, about).await?)
            }
        };
        self.watch.expect(id, vertexes);
        Ok(vertexes)
    }

    fn about(&self, id: OpId, part: usize, op: &Op) -> About {
        About::new(vertex_name(id, part, &op.title))
    }

    /// Whether an operation is to be carried out although builders may have its result.
    fn is_forced(&self, (stage, op): OpId) -> bool {
        let forced = self.build.forced.get(stage).and_then(|ops| ops.get(op));
        // A builder's own cache knows nothing of projects, whose secrets are in no key.
        let apart = self.build.job.apart.is_some();
        self.build.job.verify || apart || forced.copied().unwrap_or(false)
    }

    /// Ends the build by a fault of an operation that showed before a builder began it.
    fn fault(&mut self, id: OpId, message: &str) -> Halt {
        Halt::Operation(self.watch.fail(id, message))
    }

    /// The filesystem of a stage that an operation reads.
    fn state_of(&self, stage: usize) -> Result<State, Halt> {
        let found = self.stages.get(&stage).map(|stage| stage.state.clone());
        let missing = || EngineError::Spec(format!("stage {stage} is read before it is built"));
        Ok(found.ok_or_else(missing)?)
    }

    fn sharing(sharing: chalk_core::lower::Sharing) -> pb::CacheSharingOpt {
        use chalk_core::lower::Sharing;
        match sharing {
            Sharing::Shared => pb::CacheSharingOpt::Shared,
            Sharing::Private => pb::CacheSharingOpt::Private,
            Sharing::Locked => pb::CacheSharingOpt::Locked,
        }
    }

    /// Name of a cache directory: of the builders, or, where nothing is to be reused, of this build.
    fn cache_id(&self, name: &str) -> String {
        match self.build.job.verify {
            true => format!("chalk/{}/{name}", self.build.job.id),
            false => format!("chalk/{name}"),
        }
    }

    fn blobs(&self) -> chalk_store::BlobStore {
        self.build.shared.blobs.clone()
    }

    fn root_key(&self, stage: usize) -> Digest {
        self.build.stages[self.build.root_stage(stage)].base_key
    }

    fn answers(&self) -> Arc<super::session::Answers> {
        Arc::clone(&self.attempt.answers)
    }
}
