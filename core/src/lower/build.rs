//! Stages and steps, one after the other.

use std::collections::{BTreeMap, BTreeSet};

use super::machine::{Machine, Places, StepOptions};
use super::{Action, Build, BuildStage, Copy, CopySource, Install, Installed, Installer, Op, Run};
use crate::config::ImageConfig;
use crate::dockerfile::{Command, Problem, parse_canonical};
use crate::jcs::Json;
use crate::keys::{self, KeyedStep};
use crate::spec::{Base, BaseImage, Instruction, Spec, StageBase, Step, StepKind, UvProject};
use crate::{Digest, Reference};

/// Why a spec cannot be lowered. `E` is what went wrong with a config.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LowerError<E> {
    /// The config of an image could not be had.
    #[error("the config of {image}: {source}")]
    Config {
        /// The image.
        image: String,
        /// Why not.
        source: E,
    },
    /// An instruction cannot be carried out.
    #[error("step {}, `{title}`: {reason}", .step + 1)]
    Instruction {
        /// Position in the list that `hash` and `plan` show.
        step: usize,
        /// Its first line.
        title: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// An `ONBUILD` of a base image cannot be carried out.
    #[error("the base {image} has `ONBUILD {trigger}`: {reason}")]
    Trigger {
        /// The base.
        image: String,
        /// The trigger.
        trigger: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A Dockerfile without stages, or with one that names a later one.
    #[error("not a sound Dockerfile: {0}")]
    Stages(String),
}

/// Lays a spec out as operations, in the order of effect of a build: the config of the base, then
/// the environment, directory and user of the whole image, then the steps, then environment,
/// directory, user, labels, entrypoint and command once more for the config of the result.
///
/// `configs` gives the config of an image that something starts from. Keys are those of
/// [`Spec::steps_with_keys`].
///
/// # Errors
/// When a config cannot be had, or an instruction that only the base's config completes is wrong.
pub fn lower<E>(
    spec: &Spec,
    configs: &mut dyn FnMut(&BaseImage) -> Result<ImageConfig, E>,
) -> Result<Build, LowerError<E>> {
    let mut builder = Builder {
        spec,
        configs,
        keyed: spec.steps_with_keys(),
        step: 0,
        stages: Vec::new(),
        images: BTreeMap::new(),
    };
    let (mut open, mut machine) = builder.base()?;
    if let Some(workdir) = &spec.workdir {
        machine.set_workdir(workdir);
    }
    if let Some(user) = &spec.user {
        machine.set_user(user);
    }
    machine.set_env(&spec.env);
    for step in &spec.steps {
        builder.step(step, &mut open, &mut machine)?;
    }
    open.config = machine.config.clone();
    builder.stages.push(open);
    let author = machine.author.clone();
    Ok(Build {
        stages: builder.stages,
        config: final_config(spec, machine),
        author,
    })
}

/// What the image's own fields make of the config after the last step.
fn final_config(spec: &Spec, mut machine: Machine) -> ImageConfig {
    if let Some(workdir) = &spec.workdir {
        // Not relative to what a step left: it is absolute, or counts from the root.
        machine.set_workdir("/");
        machine.set_workdir(workdir);
    }
    if let Some(user) = &spec.user {
        machine.set_user(user);
    }
    machine.set_env(&spec.env);
    machine.set_env(&spec.runtime_env);
    let mut config = machine.config;
    config.labels.extend(spec.labels.clone());
    if let Some(entrypoint) = &spec.entrypoint {
        config.entrypoint = Some(entrypoint.clone());
        // As in Docker, a new entrypoint makes nothing of the command that the base had.
        if !machine.cmd_set {
            config.cmd = None;
        }
    }
    if let Some(cmd) = &spec.cmd {
        config.cmd = Some(cmd.clone());
    }
    config
}

struct Builder<'a, E> {
    spec: &'a Spec,
    configs: &'a mut dyn FnMut(&BaseImage) -> Result<ImageConfig, E>,
    keyed: Vec<KeyedStep>,
    /// Position of the next operation in `keyed`.
    step: usize,
    stages: Vec<BuildStage>,
    /// Stages of images that are only read from, by what they are.
    images: BTreeMap<(Reference, Option<Digest>, Option<String>), usize>,
}

impl<E> Builder<'_, E> {
    /// Lowers the base. The stage that comes back is not yet in the list: steps follow in it.
    fn base(&mut self) -> Result<(BuildStage, Machine), LowerError<E>> {
        let spec = self.spec;
        let dockerfile = match &spec.base {
            Base::Scratch => {
                let key = keys::base_key(None, &spec.platform);
                return Ok((begin(StageBase::Scratch, key), Machine::on_scratch()));
            }
            Base::Image(image) => {
                let key = keys::base_key(Some(image), &spec.platform);
                let mut stage = begin(StageBase::Image(image.clone()), key);
                let machine = self.on_image(image, &mut stage)?;
                return Ok((stage, machine));
            }
            Base::Dockerfile(dockerfile) => dockerfile,
        };
        let stage_keys = keys::stage_keys(dockerfile, &spec.platform);
        // Index in the build, and the state at its end, of each stage of the Dockerfile.
        let mut places = Vec::new();
        let mut machines: Vec<Machine> = Vec::new();
        for (at, stage) in dockerfile.stages.iter().enumerate() {
            // Stages of images come before the stage that reads them.
            for instruction in &stage.instructions {
                self.image_stages(instruction);
            }
            let key = stage_keys.get(at).and_then(|keys| keys.first()).copied();
            let key = key.ok_or_else(|| LowerError::Stages(format!("stage {at} has no key")))?;
            let mut open = begin(stage.base.clone(), key);
            let mut machine = match &stage.base {
                StageBase::Scratch => Machine::on_scratch(),
                StageBase::Image(image) => self.on_image(image, &mut open)?,
                StageBase::Stage(index) => {
                    let (Some(place), Some(machine)) = (places.get(*index), machines.get(*index))
                    else {
                        return Err(LowerError::Stages(format!(
                            "stage {at} starts from stage {index}, which does not come before it"
                        )));
                    };
                    open.base = StageBase::Stage(*place);
                    machine.next_stage()
                }
            };
            let options = StepOptions {
                env: &BTreeMap::new(),
                secrets: &BTreeSet::new(),
            };
            for instruction in &stage.instructions {
                let op = self.instruction(instruction, &places, &mut machine, &options, false)?;
                open.ops.push(op);
            }
            if at + 1 == dockerfile.stages.len() {
                return Ok((open, machine));
            }
            open.config = machine.config.clone();
            places.push(self.stages.len());
            self.stages.push(open);
            machines.push(machine);
        }
        Err(LowerError::Stages("it has no stage".into()))
    }

    /// The state on an image, its `ONBUILD` triggers carried out.
    fn on_image(
        &mut self,
        image: &BaseImage,
        stage: &mut BuildStage,
    ) -> Result<Machine, LowerError<E>> {
        let config = (self.configs)(image).map_err(|source| LowerError::Config {
            image: image.reference.to_string(),
            source,
        })?;
        let triggers = config.on_build.clone();
        let mut machine = Machine::on(config);
        let mut key = stage.base_key;
        for trigger in triggers {
            key = Json::Map(vec![
                ("prev", Json::digest(&key)),
                ("onbuild", Json::text(trigger.clone())),
            ])
            .hash();
            let op = self
                .trigger(&trigger, key, &mut machine)
                .map_err(|reason| LowerError::Trigger {
                    image: image.reference.to_string(),
                    trigger,
                    reason,
                })?;
            stage.ops.push(op);
        }
        Ok(machine)
    }

    fn trigger(&self, text: &str, key: Digest, machine: &mut Machine) -> Result<Op, String> {
        // Docker writes triggers as they stood in the Dockerfile.
        let command =
            crate::dockerfile::parse_trigger(text).map_err(|f| f.problem().to_string())?;
        let instruction = Instruction {
            text: command.text(),
            ..Instruction::default()
        };
        if let Command::Copy(copying) = &command {
            if copying.from.is_some() {
                return Err(
                    "a trigger that copies from another stage or image is not supported".into(),
                );
            }
            if copying.paths().any(|path| !crate::dockerfile::is_url(path)) {
                return Err(
                    "it copies from the build context, which an image that is built on this base \
                     does not give it: copy the files in a step of your own, and start from a base \
                     without the trigger"
                        .into(),
                );
            }
        }
        let places = Places {
            stages: &[],
            images: Vec::new(),
        };
        let options = StepOptions {
            env: &BTreeMap::new(),
            secrets: &BTreeSet::new(),
        };
        let (action, created_by) =
            machine.instruction(&instruction, &command, &places, &options)?;
        Ok(Op {
            key,
            step: self.step,
            kind: "dockerfile",
            title: format!("ONBUILD {}", instruction.title()),
            created_by,
            force: false,
            action,
        })
    }

    /// Makes a stage of every image that an instruction reads from.
    fn image_stages(&mut self, instruction: &Instruction) {
        for image in &instruction.images {
            let id = image_id(image);
            if !self.images.contains_key(&id) {
                self.images.insert(id, self.stages.len());
                let key = keys::base_key(Some(image), &self.spec.platform);
                self.stages
                    .push(begin(StageBase::Image(image.clone()), key));
            }
        }
    }

    fn places<'p>(&self, instruction: &Instruction, stages: &'p [usize]) -> Places<'p> {
        let images = instruction.images.iter();
        Places {
            stages,
            images: images
                .filter_map(|image| self.images.get(&image_id(image)).copied())
                .collect(),
        }
    }

    fn instruction(
        &mut self,
        instruction: &Instruction,
        stages: &[usize],
        machine: &mut Machine,
        options: &StepOptions<'_>,
        force: bool,
    ) -> Result<Op, LowerError<E>> {
        let places = self.places(instruction, stages);
        let lowered = parse_canonical(&instruction.text)
            .map_err(|fault| match fault.into_parts().0 {
                Problem::UnknownInstruction(word) => format!("unknown instruction `{word}`"),
                problem => problem.to_string(),
            })
            .and_then(|command| machine.instruction(instruction, &command, &places, options));
        match lowered {
            Ok((action, created_by)) => self.op(created_by, force, action),
            Err(reason) => Err(LowerError::Instruction {
                step: self.step,
                title: instruction.title(),
                reason,
            }),
        }
    }

    /// The operation of the next listed step.
    fn op(&mut self, created_by: String, force: bool, action: Action) -> Result<Op, LowerError<E>> {
        let step = self.step;
        let keyed = self
            .keyed
            .get(step)
            .ok_or_else(|| LowerError::Stages(format!("step {step} has no key")))?;
        self.step += 1;
        Ok(Op {
            key: keyed.key,
            step,
            kind: keyed.kind,
            title: keyed.title.clone(),
            created_by,
            force,
            action,
        })
    }

    /// Lowers one of the spec's own steps.
    fn step(
        &mut self,
        step: &Step,
        stage: &mut BuildStage,
        machine: &mut Machine,
    ) -> Result<(), LowerError<E>> {
        let install = |installer: Installer, packages: &[String], machine: &Machine| {
            let install = Install {
                what: Installed::Packages(installer, packages.to_vec()),
                env: machine.env_with(&step.env),
                // Debian's package manager works for root alone.
                user: match installer {
                    Installer::Apt => String::new(),
                    Installer::Pip | Installer::Uv => machine.user.clone(),
                },
                secrets: step.secrets.clone(),
            };
            let created_by = format!("{} {}", step.kind.word(), packages.join(" "));
            (Action::Install(install), created_by)
        };
        let copy = |from: CopySource, source: String, dest: &str| {
            let copy = Copy {
                from,
                sources: vec![source],
                dest: dest.to_owned(),
                chown: None,
                chmod: None,
                parents: false,
                exclude: Vec::new(),
                unpack: false,
            };
            (Action::Copy(copy), format!("{} {dest}", step.kind.word()))
        };
        let (action, created_by) = match &step.kind {
            StepKind::PipInstall { packages } => install(Installer::Pip, packages, machine),
            StepKind::UvPipInstall { packages } => install(Installer::Uv, packages, machine),
            StepKind::AptInstall { packages } => install(Installer::Apt, packages, machine),
            StepKind::UvSync(project) => {
                let dir = project.dir(self.spec.workdir.as_deref()).to_owned();
                let environment = UvProject::environment(&dir);
                let install = Install {
                    what: Installed::Project {
                        project: project.clone(),
                        dir,
                    },
                    env: machine.env_with(&step.env),
                    user: machine.user.clone(),
                    secrets: step.secrets.clone(),
                };
                // As its `activate` does, for all that follows.
                machine.enter_environment(environment);
                (
                    Action::Install(install),
                    project.with_extras(step.kind.word()),
                )
            }
            StepKind::Run { command } => {
                let args = machine.with_shell(command);
                let created_by = format!(
                    "RUN {}{} # buildkit",
                    machine.arguments_text(),
                    args.join(" ")
                );
                let run = Run {
                    args,
                    heredocs: Vec::new(),
                    env: machine.env_with(&step.env),
                    cwd: machine.workdir.clone(),
                    user: machine.user.clone(),
                    mounts: Vec::new(),
                    secrets: step.secrets.clone(),
                    network: true,
                };
                (Action::Run(run), created_by)
            }
            StepKind::AddFile { dest, digest, mode } => {
                // A blob has no name of its own: it is named as it lands.
                let name = dest.rsplit('/').next().unwrap_or_default().to_owned();
                let blob = CopySource::Blob {
                    digest: *digest,
                    mode: *mode,
                };
                copy(blob, name, dest)
            }
            StepKind::AddDir { dest, digest } => copy(CopySource::Tree(*digest), ".".into(), dest),
            StepKind::Dockerfile(instruction) => {
                self.image_stages(instruction);
                let options = StepOptions {
                    env: &step.env,
                    secrets: &step.secrets,
                };
                let op = self.instruction(instruction, &[], machine, &options, step.force)?;
                stage.ops.push(op);
                return Ok(());
            }
        };
        let op = self.op(created_by, step.force, action)?;
        stage.ops.push(op);
        Ok(())
    }
}

fn begin(base: StageBase, base_key: Digest) -> BuildStage {
    BuildStage {
        base,
        base_key,
        ops: Vec::new(),
        config: ImageConfig::default(),
    }
}

fn image_id(image: &BaseImage) -> (Reference, Option<Digest>, Option<String>) {
    let platform = image.platform.as_ref().map(ToString::to_string);
    (image.reference.clone(), image.digest, platform)
}
