//! The spec: a whole declaration with every local file replaced by its digest.
//!
//! A [`Spec`] is what is sent to the service, printed as spec JSON and hashed. The hashed document
//! (`docs/hash-v1.md`) is the spec JSON without the fields that do not count.

use std::collections::{BTreeMap, BTreeSet};

use crate::jcs::Json;
use crate::{Digest, Platform, Reference};

pub mod check;
pub(crate) mod document;
pub(crate) mod project;
pub(crate) mod read;
mod warnings;

use document::Form;
pub use project::UvProject;

/// Name of the document format that is hashed.
pub const SCHEMA: &str = "chalk.image/v1";

/// A whole declaration. See `docs/hash-v1.md` for its JSON form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Platform of the image; `linux/amd64` unless set.
    pub platform: Platform,
    /// What the first step starts from.
    pub base: Base,
    /// Build steps in order. One command, one instruction, one install list or one copy each.
    pub steps: Vec<Step>,
    /// Environment that every step and the image see.
    pub env: BTreeMap<String, String>,
    /// Environment of the image's config that no step sees.
    pub runtime_env: BTreeMap<String, String>,
    /// Working directory of every step and of the image.
    pub workdir: Option<String>,
    /// User of every step and of the image, `user[:group]`.
    pub user: Option<String>,
    /// Labels of the image's config.
    pub labels: BTreeMap<String, String>,
    /// Entrypoint of the image's config; never empty.
    pub entrypoint: Option<Vec<String>>,
    /// Command of the image's config; never empty.
    pub cmd: Option<Vec<String>>,
    /// Name to file the image under, `repository[:tag]`. Does not count in the hash.
    pub name: Option<String>,
    /// Files that are uploaded when a sandbox starts. Do not count in the hash.
    pub mounts: Vec<Mount>,
}

/// What an image starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// The empty base, `"scratch"`.
    Scratch,
    /// An image in a registry, `{"ref": …, "digest": …}`.
    Image(BaseImage),
    /// A whole Dockerfile, `{"dockerfile": …}`.
    Dockerfile(Dockerfile),
}

/// An image in a registry, pinned or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseImage {
    /// Normalised reference without a digest.
    pub reference: Reference,
    /// Digest of the platform's manifest. Pins the base.
    pub digest: Option<Digest>,
    /// Platform to take from the image index when it is not the spec's (`FROM --platform=…`). Only
    /// Dockerfiles set it.
    pub platform: Option<Platform>,
}

/// A Dockerfile by its meaning: the stages that the result needs, in order; the last is the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    /// Needed stages. An instruction refers to an earlier stage as `--from=<index in this list>`.
    pub stages: Vec<Stage>,
}

/// One stage of a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// What `FROM` names.
    pub base: StageBase,
    /// Instructions after `FROM`, canonical.
    pub instructions: Vec<Instruction>,
}

/// What a stage starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "a Dockerfile has few stages, and a box would be in the way of every match"
)]
pub enum StageBase {
    /// `FROM scratch`.
    Scratch,
    /// `FROM image`.
    Image(BaseImage),
    /// `FROM earlier-stage`: index in [`Dockerfile::stages`].
    Stage(usize),
}

/// One Dockerfile instruction in canonical form.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Instruction {
    /// Keyword in capitals, continuations joined, heredoc bodies kept byte for byte; `ARG` with the
    /// value it has; `--from=<n>` for a stage and `--from=@<n>` (and `from=@<n>` in a `--mount`)
    /// for `images[n]`.
    pub text: String,
    /// Digest of the [`crate::tree::Tree`] of the context files that the instruction selects.
    pub context: Option<Digest>,
    /// Images that the instruction reads from.
    pub images: Vec<BaseImage>,
}

/// One build step with its options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What the step does.
    pub kind: StepKind,
    /// Environment of this step alone, over [`Spec::env`].
    pub env: BTreeMap<String, String>,
    /// Names of the secrets that the step may read as `/run/secrets/<name>`.
    pub secrets: BTreeSet<String>,
    /// Run the step even when it is cached. Does not count in the hash.
    pub force: bool,
}

/// What a step does. In JSON the word of the variant stands as `"kind"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepKind {
    /// `pip_install`: requirement specifiers or lines of a requirements file, normalised.
    PipInstall {
        /// Requirements and options.
        packages: Vec<String>,
    },
    /// `uv_pip_install`: the same, always by uv.
    UvPipInstall {
        /// Requirements and options.
        packages: Vec<String>,
    },
    /// `uv_sync`: what the lockfile of a project lists, by uv, in an environment of its own.
    UvSync(UvProject),
    /// `apt_install`: Debian packages, sorted.
    AptInstall {
        /// Package names, `name=version` allowed.
        packages: Vec<String>,
    },
    /// `run`: one shell command.
    Run {
        /// Given to `/bin/sh -c` (or the `SHELL` that an earlier `dockerfile` step set).
        command: String,
    },
    /// `add_file`: one file.
    AddFile {
        /// Absolute path in the image.
        dest: String,
        /// Digest of the contents.
        digest: Digest,
        /// Permission bits.
        mode: u32,
    },
    /// `add_dir`: a directory tree.
    AddDir {
        /// Absolute path in the image.
        dest: String,
        /// Digest of the [`crate::tree::Tree`].
        digest: Digest,
    },
    /// `dockerfile`: one instruction.
    Dockerfile(Instruction),
}

/// A file or directory that is mounted when a sandbox starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Path on the declaring machine, as written.
    pub src: String,
    /// Absolute path in the sandbox.
    pub dest: String,
    /// Whether `src` is a directory.
    pub dir: bool,
    /// Globs that are left out besides ignore files.
    pub exclude: Vec<String>,
    /// How many of [`Spec::steps`] were declared before it.
    pub after: usize,
}

impl Spec {
    /// A spec on `base` with nothing else.
    pub fn new(base: Base) -> Self {
        Self {
            platform: Platform::default(),
            base,
            steps: Vec::new(),
            env: BTreeMap::new(),
            runtime_env: BTreeMap::new(),
            workdir: None,
            user: None,
            labels: BTreeMap::new(),
            entrypoint: None,
            cmd: None,
            name: None,
            mounts: Vec::new(),
        }
    }

    /// Spec JSON, which any SDK prints and the service accepts.
    pub fn to_json(&self) -> Json<'_> {
        self.document(Form::Full)
    }

    /// The canonical document as it stands: bases by digest where pinned, else by reference. It is
    /// what [`Spec::image_hash`] hashes when all are pinned.
    pub fn canonical(&self) -> Json<'_> {
        self.document(Form::Canonical)
    }

    /// Hash with every base by its reference: needs no network, and names no image.
    pub fn recipe_hash(&self) -> Digest {
        self.document(Form::Recipe).hash()
    }

    /// Hash that names the built image; `None` while a base is not pinned.
    pub fn image_hash(&self) -> Option<Digest> {
        let pinned = self
            .base_images()
            .iter()
            .all(|image| image.digest.is_some());
        pinned.then(|| self.canonical().hash())
    }

    /// Every image that the build reads: the base, the bases of needed stages, and those that
    /// instructions name.
    pub fn base_images(&self) -> Vec<&BaseImage> {
        let mut images = Vec::new();
        match &self.base {
            Base::Scratch => {}
            Base::Image(image) => images.push(image),
            Base::Dockerfile(dockerfile) => {
                for stage in &dockerfile.stages {
                    if let StageBase::Image(image) = &stage.base {
                        images.push(image);
                    }
                    images.extend(stage.instructions.iter().flat_map(|i| &i.images));
                }
            }
        }
        for step in &self.steps {
            if let StepKind::Dockerfile(instruction) = &step.kind {
                images.extend(&instruction.images);
            }
        }
        images
    }

    /// The same images, to be pinned in place.
    pub fn base_images_mut(&mut self) -> Vec<&mut BaseImage> {
        let mut images = Vec::new();
        match &mut self.base {
            Base::Scratch => {}
            Base::Image(image) => images.push(image),
            Base::Dockerfile(dockerfile) => {
                for stage in &mut dockerfile.stages {
                    if let StageBase::Image(image) = &mut stage.base {
                        images.push(image);
                    }
                    images.extend(stage.instructions.iter_mut().flat_map(|i| &mut i.images));
                }
            }
        }
        for step in &mut self.steps {
            if let StepKind::Dockerfile(instruction) = &mut step.kind {
                images.extend(&mut instruction.images);
            }
        }
        images
    }

    /// The image that the result is built on, through all stages; `None` when that is empty.
    pub fn result_base(&self) -> Option<&BaseImage> {
        let dockerfile = match &self.base {
            Base::Scratch => return None,
            Base::Image(image) => return Some(image),
            Base::Dockerfile(dockerfile) => dockerfile,
        };
        let mut index = dockerfile.stages.len().checked_sub(1)?;
        loop {
            match &dockerfile.stages.get(index)?.base {
                StageBase::Image(image) => return Some(image),
                StageBase::Stage(earlier) if *earlier < index => index = *earlier,
                StageBase::Scratch | StageBase::Stage(_) => return None,
            }
        }
    }
}

impl Step {
    /// A step without options.
    pub fn new(kind: StepKind) -> Self {
        Self {
            kind,
            env: BTreeMap::new(),
            secrets: BTreeSet::new(),
            force: false,
        }
    }

    /// One line for people, such as `RUN apt-get update` or `pip_install requests`.
    pub fn title(&self) -> String {
        match &self.kind {
            StepKind::PipInstall { packages }
            | StepKind::UvPipInstall { packages }
            | StepKind::AptInstall { packages } => {
                one_line(&format!("{} {}", self.kind.word(), packages.join(" ")))
            }
            StepKind::UvSync(project) => one_line(&project.with_extras("uv_sync")),
            StepKind::Run { command } => one_line(&format!("RUN {command}")),
            StepKind::AddFile { dest, .. } | StepKind::AddDir { dest, .. } => {
                one_line(&format!("{} {dest}", self.kind.word()))
            }
            StepKind::Dockerfile(instruction) => instruction.title(),
        }
    }
}

impl Instruction {
    /// Its first line, for people.
    pub fn title(&self) -> String {
        one_line(&self.text)
    }
}

impl StepKind {
    /// The word that stands as `kind` in JSON.
    pub fn word(&self) -> &'static str {
        match self {
            Self::PipInstall { .. } => "pip_install",
            Self::UvPipInstall { .. } => "uv_pip_install",
            Self::UvSync(_) => "uv_sync",
            Self::AptInstall { .. } => "apt_install",
            Self::Run { .. } => "run",
            Self::AddFile { .. } => "add_file",
            Self::AddDir { .. } => "add_dir",
            Self::Dockerfile(_) => "dockerfile",
        }
    }
}

/// The first line of `text`, without control characters and cut at 200 characters.
fn one_line(text: &str) -> String {
    const LIMIT: usize = 200;
    let line = text.trim().lines().next().unwrap_or_default();
    let mut title: String = line
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(LIMIT)
        .collect();
    if text.trim().chars().nth(title.chars().count()).is_some() {
        title.push('…');
    }
    title
}
