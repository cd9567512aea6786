//! The spec: a whole declaration with every local file replaced by its digest.
//!
//! A [`Spec`] is what is sent to the service, printed as spec JSON and hashed. The hashed document
//! (`docs/hash-v1.md`) is the spec JSON without the fields that do not count.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{Digest, Platform, Reference};

/// Name of the document format that is hashed.
pub const SCHEMA: &str = "chalk.image/v1";

/// A whole declaration. See `docs/hash-v1.md` for its JSON form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Base {
    /// The empty base, `{"scratch": true}`.
    Scratch,
    /// An image in a registry, `{"ref": …, "digest": …}`.
    Image(BaseImage),
    /// A whole Dockerfile, `{"dockerfile": …}`.
    Dockerfile(Dockerfile),
}

/// An image in a registry, pinned or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseImage {
    /// Normalised reference without a digest.
    #[serde(rename = "ref")]
    pub reference: Reference,
    /// Digest of the platform's manifest. Pins the base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

/// A Dockerfile by its meaning: the stages that the result needs, in order; the last is the result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dockerfile {
    /// Needed stages. An instruction refers to an earlier stage as `--from=<index in this list>`.
    pub stages: Vec<Stage>,
}

/// One stage of a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// What `FROM` names.
    pub base: StageBase,
    /// Instructions after `FROM`, canonical.
    pub instructions: Vec<Instruction>,
}

/// What a stage starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StageBase {
    /// `FROM scratch`.
    Scratch,
    /// `FROM image`.
    Image(BaseImage),
    /// `FROM earlier-stage`: index in [`Dockerfile::stages`].
    Stage(usize),
}

/// One Dockerfile instruction in canonical form.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// Path on the declaring machine, as written.
    pub src: String,
    /// Absolute path in the sandbox.
    pub dest: String,
    /// Whether `src` is a directory.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dir: bool,
    /// Globs that are left out besides ignore files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
}
