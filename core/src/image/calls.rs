//! The calls of a declaration with their values checked. Faults name the place within the value as
//! `image.toml` spells it, so that a file and a chain are checked by the same code.

use std::collections::{BTreeMap, BTreeSet};

use super::project::Sync;
use crate::Platform;
use crate::error::{ErrorCode, Fault, SpecError, each};
use crate::requirement::normalise_list;
use crate::spec::{Base, Step, check};
use crate::spelling::nearest;

/// The version of Python that `debian_slim()` means.
pub(crate) const DEFAULT_PYTHON: &str = "3.12";

/// A checked call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Call {
    /// `debian_slim`, `base`.
    Base(Base),
    Dockerfile(DockerfileText, DockerfileOptions),
    Install(Installer, Vec<String>, StepOptions),
    Requirements(Installer, String, StepOptions),
    UvSync(Sync),
    Run(Vec<String>, StepOptions),
    /// Instructions and the path of their context.
    Instructions(Vec<String>, Option<String>, StepOptions),
    AddFile(Local),
    AddDir(Local),
    /// A step that no other call makes: its files are known by digest only, or it is an instruction
    /// in canonical form.
    Step(Box<Step>),
    Workdir(String),
    Env(Vec<(String, String)>),
    RuntimeEnv(Vec<(String, String)>),
    User(String),
    Labels(Vec<(String, String)>),
    Entrypoint(Vec<String>),
    Cmd(Vec<String>),
    Platform(Platform),
    Name(String),
}

/// Which install step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Installer {
    Pip,
    Uv,
    Apt,
}

/// Where the text of a Dockerfile is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DockerfileText {
    Here(String),
    Path(String),
}

/// A local file or directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Local {
    pub(crate) src: String,
    /// Absolute and normal; a file's own name was added if it was to be.
    pub(crate) dest: String,
    pub(crate) options: LocalOptions,
}

/// Options of a build step: environment, secrets, force.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StepOptions {
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) secrets: BTreeSet<String>,
    pub(crate) force: bool,
}

impl StepOptions {
    /// No options.
    pub fn new() -> Self {
        Self::default()
    }

    /// An environment variable that this step alone sees.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// A secret that the step reads as `/run/secrets/<name>`. Its name counts in the hash, its
    /// value never.
    #[must_use]
    pub fn secret(mut self, name: impl Into<String>) -> Self {
        self.secrets.insert(name.into());
        self
    }

    /// Run the step even when it is cached. Does not count in the hash.
    #[must_use]
    pub fn force(mut self) -> Self {
        self.force = true;
        self
    }

    pub(super) fn checked(self) -> Result<Self, Fault> {
        let mut env = self.env.iter();
        env.try_for_each(|(name, value)| check::env(name, value))
            .map_err(|fault| fault.in_field("env"))?;
        let mut secrets = self.secrets.iter();
        secrets
            .try_for_each(|name| check::secret(name))
            .map_err(|f| f.in_field("secrets"))?;
        Ok(self)
    }
}

/// How a local file or directory gets into a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strategy {
    /// Uploaded and mounted when a sandbox starts; build steps do not see it, and it does not count
    /// in the hash. `volume` is another word for it.
    #[default]
    Mount,
    /// Part of the image.
    Copy,
}

/// A [`Strategy`] with options.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LocalOptions {
    pub(crate) strategy: Strategy,
    pub(crate) mode: Option<u32>,
    pub(crate) exclude: Vec<String>,
}

impl LocalOptions {
    /// Mounted when a sandbox starts.
    pub fn mount() -> Self {
        Strategy::Mount.into()
    }

    /// Part of the image.
    pub fn copy() -> Self {
        Strategy::Copy.into()
    }

    /// Permission bits of a copied file, in place of those on the disk.
    #[must_use]
    pub fn mode(mut self, bits: u32) -> Self {
        self.mode = Some(bits);
        self
    }

    /// Leaves out what a glob matches below a directory, besides what ignore files name.
    #[must_use]
    pub fn exclude(mut self, glob: impl Into<String>) -> Self {
        self.exclude.push(glob.into());
        self
    }
}

impl Strategy {
    /// The strategy that a declaration calls so: `mount`, `volume` or `copy`.
    pub(crate) fn of(word: &str) -> Result<Self, Fault> {
        match word {
            "mount" | "volume" => Ok(Self::Mount),
            "copy" => Ok(Self::Copy),
            other => {
                let fault = Fault::new(ErrorCode::Value, format_args!("`{other}` is no strategy"));
                Err(
                    fault.hint(match nearest(other, &["mount", "copy", "volume"]) {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => "write `mount` or `copy`".to_owned(),
                    }),
                )
            }
        }
    }
}

impl std::str::FromStr for Strategy {
    type Err = SpecError;

    fn from_str(word: &str) -> Result<Self, SpecError> {
        Self::of(word).map_err(|fault| fault.in_field("strategy").into_error())
    }
}

impl From<Strategy> for LocalOptions {
    fn from(strategy: Strategy) -> Self {
        Self {
            strategy,
            ..Self::default()
        }
    }
}

/// Options of a whole Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DockerfileOptions {
    pub(crate) context: Option<String>,
    pub(crate) args: BTreeMap<String, String>,
    pub(crate) target: Option<String>,
    /// Name of the Dockerfile when it is itself the declaration: for `<file>.dockerignore`.
    pub(crate) file: Option<String>,
}

impl DockerfileOptions {
    /// No options.
    pub fn new() -> Self {
        Self::default()
    }

    /// The directory that `COPY` and `ADD` read from.
    #[must_use]
    pub fn context(mut self, path: impl Into<String>) -> Self {
        self.context = Some(path.into());
        self
    }

    /// A build argument (`--build-arg`).
    #[must_use]
    pub fn arg(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.args.insert(name.into(), value.into());
        self
    }

    /// The stage to build, by name or number; the last one unless set.
    #[must_use]
    pub fn target(mut self, stage: impl Into<String>) -> Self {
        self.target = Some(stage.into());
        self
    }
}

/// One text or several, so that `run_commands("make")` and `run_commands(["make", "make install"])`
/// both read well.
pub trait Texts {
    /// All of them.
    fn into_texts(self) -> Vec<String>;
}

impl Texts for &str {
    fn into_texts(self) -> Vec<String> {
        vec![self.to_owned()]
    }
}

impl Texts for String {
    fn into_texts(self) -> Vec<String> {
        vec![self]
    }
}

impl<T: Into<String>, const N: usize> Texts for [T; N] {
    fn into_texts(self) -> Vec<String> {
        self.into_iter().map(Into::into).collect()
    }
}

impl<T: Into<String>> Texts for Vec<T> {
    fn into_texts(self) -> Vec<String> {
        self.into_iter().map(Into::into).collect()
    }
}

impl<T: AsRef<str>> Texts for &[T] {
    fn into_texts(self) -> Vec<String> {
        self.iter().map(|text| text.as_ref().to_owned()).collect()
    }
}

impl Call {
    pub(crate) fn debian_slim(version: Option<&str>) -> Result<Self, Fault> {
        let version = version.unwrap_or(DEFAULT_PYTHON);
        check::python_version(version)?;
        Self::base(&format!("python:{version}-slim-bookworm"))
    }

    pub(crate) fn base(reference: &str) -> Result<Self, Fault> {
        if reference == "scratch" {
            return Ok(Self::Base(Base::Scratch));
        }
        check::base_image(reference).map(|image| Self::Base(Base::Image(image)))
    }

    pub(crate) fn dockerfile_text(text: &str, options: DockerfileOptions) -> Result<Self, Fault> {
        Ok(Self::Dockerfile(
            DockerfileText::Here(text.to_owned()),
            options.checked()?,
        ))
    }

    pub(crate) fn dockerfile_path(path: &str, options: DockerfileOptions) -> Result<Self, Fault> {
        let path = local_path(path).map_err(|fault| fault.in_field("path"))?;
        Ok(Self::Dockerfile(
            DockerfileText::Path(path),
            options.checked()?,
        ))
    }

    pub(crate) fn install(
        installer: Installer,
        packages: Vec<String>,
        options: StepOptions,
    ) -> Result<Self, Fault> {
        let packages = match installer {
            Installer::Pip | Installer::Uv => normalise_list(packages)?,
            Installer::Apt => check::apt_packages(packages)?,
        };
        Ok(Self::Install(installer, packages, options.checked()?))
    }

    pub(crate) fn requirements(
        installer: Installer,
        path: &str,
        options: StepOptions,
    ) -> Result<Self, Fault> {
        Ok(Self::Requirements(
            installer,
            local_path(path)?,
            options.checked()?,
        ))
    }

    pub(crate) fn run(commands: Vec<String>, options: StepOptions) -> Result<Self, Fault> {
        if commands.is_empty() {
            return Err(Fault::new(ErrorCode::Empty, "the list is empty").hint("write a command"));
        }
        each(&commands, |command| check::command(command))?;
        Ok(Self::Run(commands, options.checked()?))
    }

    pub(crate) fn instructions(
        instructions: Vec<String>,
        context: Option<&str>,
        options: StepOptions,
    ) -> Result<Self, Fault> {
        if instructions.is_empty() {
            let fault = Fault::new(ErrorCode::Empty, "the list is empty");
            return Err(fault.hint("write an instruction such as `EXPOSE 8080`"));
        }
        each(&instructions, |instruction| check::command(instruction))?;
        let context = context.map(local_path).transpose()?;
        Ok(Self::Instructions(
            instructions,
            context,
            options.checked()?,
        ))
    }

    pub(crate) fn add_file(src: &str, dest: &str, options: LocalOptions) -> Result<Self, Fault> {
        let src = local_path(src).map_err(|fault| fault.in_field("src"))?;
        let name = src.rsplit('/').next().unwrap_or_default();
        if matches!(name, "" | "." | "..") {
            let fault = Fault::new(ErrorCode::Path, format_args!("`{src}` names no file"));
            return Err(fault
                .hint("for a directory use `add_local_dir`")
                .in_field("src"));
        }
        let mut place = dest.to_owned();
        if dest.ends_with('/') {
            place.push_str(name);
        }
        let dest = check::image_path(&place).map_err(|fault| fault.in_field("dest"))?;
        if !options.exclude.is_empty() {
            let fault = Fault::new(ErrorCode::Conflict, "one file has nothing to exclude");
            return Err(fault.hint("remove it").in_field("exclude"));
        }
        if options.mode.is_some() && options.strategy == Strategy::Mount {
            let fault = Fault::new(ErrorCode::Conflict, "a mounted file keeps its mode");
            return Err(fault.hint("use the strategy `copy`").in_field("mode"));
        }
        if options.mode.is_some_and(|mode| mode > 0o7777) {
            let fault = Fault::new(ErrorCode::Value, "not permission bits");
            return Err(fault
                .hint("write three or four octal digits")
                .in_field("mode"));
        }
        Ok(Self::AddFile(Local { src, dest, options }))
    }

    pub(crate) fn add_dir(src: &str, dest: &str, options: LocalOptions) -> Result<Self, Fault> {
        let src = local_path(src).map_err(|fault| fault.in_field("src"))?;
        let dest = check::image_path(dest).map_err(|fault| fault.in_field("dest"))?;
        if options.mode.is_some() {
            let fault = Fault::new(
                ErrorCode::Conflict,
                "the files of a directory keep their modes",
            );
            let hint = "remove it, or change modes by `run_commands`";
            return Err(fault.hint(hint).in_field("mode"));
        }
        Ok(Self::AddDir(Local { src, dest, options }))
    }

    pub(crate) fn workdir(path: &str) -> Result<Self, Fault> {
        check::image_path(path).map(Self::Workdir)
    }

    pub(crate) fn env(pairs: Vec<(String, String)>) -> Result<Self, Fault> {
        pairs
            .iter()
            .try_for_each(|(name, value)| check::env(name, value))?;
        Ok(Self::Env(pairs))
    }

    pub(crate) fn runtime_env(pairs: Vec<(String, String)>) -> Result<Self, Fault> {
        pairs
            .iter()
            .try_for_each(|(name, value)| check::env(name, value))?;
        Ok(Self::RuntimeEnv(pairs))
    }

    pub(crate) fn user(user: &str) -> Result<Self, Fault> {
        check::user(user)?;
        Ok(Self::User(user.to_owned()))
    }

    pub(crate) fn labels(pairs: Vec<(String, String)>) -> Result<Self, Fault> {
        pairs
            .iter()
            .try_for_each(|(name, value)| check::label(name, value))?;
        Ok(Self::Labels(pairs))
    }

    pub(crate) fn entrypoint(arguments: Vec<String>) -> Result<Self, Fault> {
        check::arguments(&arguments, "ENTRYPOINT")?;
        Ok(Self::Entrypoint(arguments))
    }

    pub(crate) fn cmd(arguments: Vec<String>) -> Result<Self, Fault> {
        check::arguments(&arguments, "CMD")?;
        Ok(Self::Cmd(arguments))
    }

    pub(crate) fn platform(platform: &str) -> Result<Self, Fault> {
        check::platform(platform).map(Self::Platform)
    }

    pub(crate) fn name(name: &str) -> Result<Self, Fault> {
        check::image_name(name)?;
        Ok(Self::Name(name.to_owned()))
    }
}

impl DockerfileOptions {
    fn checked(self) -> Result<Self, Fault> {
        let mut args = self.args.iter();
        args.try_for_each(|(name, value)| check::env(name, value))
            .map_err(|fault| fault.in_field("args"))?;
        let path = |path: &String| local_path(path).map(drop);
        self.context
            .as_ref()
            .map_or(Ok(()), path)
            .map_err(|fault| fault.in_field("context"))?;
        Ok(self)
    }
}

/// A path on the declaring machine: any text that a file can have as its path.
pub(crate) fn local_path(path: &str) -> Result<String, Fault> {
    if path.is_empty() {
        return Err(Fault::new(ErrorCode::Empty, "the path is empty").hint("name a local path"));
    }
    if path.contains('\0') {
        return Err(Fault::new(
            ErrorCode::Path,
            "the path holds a NUL character",
        ));
    }
    Ok(path.to_owned())
}
