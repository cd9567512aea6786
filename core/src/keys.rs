//! Step keys: the hash chain that names cached layers (`docs/hash-v1.md`, "Step keys").
//!
//! `key(0)` is the base on its platform; `key(i)` is key `i - 1` with everything that step `i` can
//! observe. Whoever plans, lowers or builds takes keys from here and nowhere else.

use std::collections::BTreeMap;

use crate::dockerfile::ReadFrom;
use crate::jcs::Json;
use crate::spec::document::Form;
use crate::spec::{Base, BaseImage, Dockerfile, Instruction, Spec, StageBase, Step, StepKind};
use crate::{Digest, Platform};

/// Name of the document that `key(0)` is the hash of.
pub const SCHEMA: &str = "chalk.step/v1";

/// Version of what the builder makes of a step. Raised whenever the same step would give another
/// layer, so that a new meaning never reuses old layers. Not part of the image hash.
pub const BUILDER_VERSION: &str = "2";

/// The facts of the whole image that its steps see.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// [`Spec::env`].
    pub env: &'a BTreeMap<String, String>,
    /// [`Spec::user`].
    pub user: Option<&'a str>,
    /// [`Spec::workdir`].
    pub workdir: Option<&'a str>,
}

impl<'a> From<&'a Spec> for Surroundings<'a> {
    fn from(spec: &'a Spec) -> Self {
        Self {
            env: &spec.env,
            user: spec.user.as_deref(),
            workdir: spec.workdir.as_deref(),
        }
    }
}

/// One step of the whole build with its key. See [`Spec::steps_with_keys`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyedStep {
    /// Kind word: `pip_install`, `run`, `dockerfile` …
    pub kind: &'static str,
    /// Step key: names the layers up to and including this step.
    pub key: Digest,
    /// One line for people.
    pub title: String,
}

/// `key(0)` of a chain on an image, or on the empty base (`None`).
pub fn base_key(base: Option<&BaseImage>, platform: &Platform) -> Digest {
    let base = match base {
        Some(image) => image.document(Form::Canonical),
        None => Json::text("scratch"),
    };
    Json::Map(vec![
        ("schema", Json::text(SCHEMA)),
        ("builder", Json::text(BUILDER_VERSION)),
        ("base", base),
        ("platform", Json::text(platform.to_string())),
    ])
    .hash()
}

/// Key of a spec's step that follows `prev`.
///
/// An install runs from `/` and leaves `workdir` out, save a `uv_sync` that names no directory of its
/// own; a copy depends on nothing around it and
/// leaves `env`, `user` and `workdir` out.
pub fn step_key(prev: &Digest, step: &Step, around: Surroundings<'_>) -> Digest {
    let mut fields = vec![
        ("prev", Json::digest(prev)),
        ("step", step.document(Form::Canonical)),
    ];
    let (sees_env, sees_workdir) = match &step.kind {
        StepKind::PipInstall { .. }
        | StepKind::UvPipInstall { .. }
        | StepKind::AptInstall { .. } => (true, false),
        StepKind::UvSync(project) => (true, project.workdir.is_none()),
        StepKind::AddFile { .. } | StepKind::AddDir { .. } => (false, false),
        StepKind::Run { .. } | StepKind::Dockerfile(_) => (true, true),
    };
    if sees_env {
        if !around.env.is_empty() {
            fields.push(("env", Json::text_map(around.env)));
        }
        if let Some(user) = around.user {
            fields.push(("user", Json::text(user)));
        }
    }
    if sees_workdir && let Some(workdir) = around.workdir {
        fields.push(("workdir", Json::text(workdir)));
    }
    Json::Map(fields).hash()
}

/// Key of an instruction of a Dockerfile base that follows `prev` and reads from the stages whose
/// last keys are `from`, in the order of [`stages_read`].
pub fn instruction_key(prev: &Digest, instruction: &Instruction, from: &[Digest]) -> Digest {
    let mut fields = vec![
        ("prev", Json::digest(prev)),
        ("step", instruction.step_document()),
    ];
    if !from.is_empty() {
        fields.push(("from", Json::List(from.iter().map(Json::digest).collect())));
    }
    Json::Map(fields).hash()
}

/// The stages that a canonical instruction reads (`--from=<n>` of `COPY` and `ADD`, `from=<n>` in a
/// `--mount` of `RUN`), each once, in the order in which they stand.
pub fn stages_read(instruction: &Instruction) -> Vec<usize> {
    let stage = |read| match read {
        ReadFrom::Stage(index) => Some(index),
        ReadFrom::Image(_) => None,
    };
    let reads = crate::dockerfile::reads(&instruction.text);
    reads.into_iter().filter_map(stage).collect()
}

/// Keys of every stage of a Dockerfile base: `result[stage][0]` is the key of the stage's base and
/// `result[stage][i]` that of its instruction `i - 1`. A stage that is named before it exists
/// (which a checked spec never does) counts as absent.
pub fn stage_keys(dockerfile: &Dockerfile, platform: &Platform) -> Vec<Vec<Digest>> {
    let mut stages: Vec<Vec<Digest>> = Vec::with_capacity(dockerfile.stages.len());
    for stage in &dockerfile.stages {
        let last_key = |index: usize| stages.get(index).and_then(|keys| keys.last()).copied();
        let first = match &stage.base {
            StageBase::Scratch => base_key(None, platform),
            StageBase::Image(image) => base_key(Some(image), platform),
            StageBase::Stage(index) => last_key(*index).unwrap_or_else(|| base_key(None, platform)),
        };
        let mut keys = vec![first];
        let mut prev = first;
        for instruction in &stage.instructions {
            let from: Vec<Digest> = stages_read(instruction)
                .into_iter()
                .filter_map(last_key)
                .collect();
            prev = instruction_key(&prev, instruction, &from);
            keys.push(prev);
        }
        stages.push(keys);
    }
    stages
}

impl Spec {
    /// Every step of the build with its key: the instructions of each stage of a Dockerfile base,
    /// stage by stage, then the spec's own steps.
    pub fn steps_with_keys(&self) -> Vec<KeyedStep> {
        let mut keyed = Vec::new();
        let mut prev = match &self.base {
            Base::Scratch => base_key(None, &self.platform),
            Base::Image(image) => base_key(Some(image), &self.platform),
            Base::Dockerfile(dockerfile) => {
                let keys = stage_keys(dockerfile, &self.platform);
                for (stage, keys) in dockerfile.stages.iter().zip(&keys) {
                    for (instruction, key) in stage.instructions.iter().zip(&keys[1..]) {
                        keyed.push(KeyedStep {
                            kind: "dockerfile",
                            key: *key,
                            title: instruction.title(),
                        });
                    }
                }
                let last = keys.last().and_then(|keys| keys.last()).copied();
                last.unwrap_or_else(|| base_key(None, &self.platform))
            }
        };
        for step in &self.steps {
            prev = step_key(&prev, step, self.into());
            keyed.push(KeyedStep {
                kind: step.kind.word(),
                key: prev,
                title: step.title(),
            });
        }
        keyed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_stages_that_an_instruction_reads() {
        let check = |text: &str, expect: &[usize]| {
            let instruction = Instruction {
                text: text.into(),
                ..Instruction::default()
            };
            assert_eq!(stages_read(&instruction), expect, "{text}");
        };
        check("COPY --from=1 --chmod=755 /a /b", &[1]);
        check("COPY --chmod=755 --from=12 /a /b", &[12]);
        check("COPY --from=@0 /a /b", &[]);
        check("COPY a --from=1", &[]);
        check(
            "RUN --mount=type=bind,from=2,target=/x --mount=from=0,target=/y,type=bind make",
            &[2, 0],
        );
        check(
            "RUN --mount=type=bind,from=2,target=/x --mount=type=cache,target=/c,from=2 x",
            &[2],
        );
        check("RUN echo --from=3", &[]);
        check("WORKDIR /from=1", &[]);
    }
}
