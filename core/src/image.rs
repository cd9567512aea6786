//! Declaring an image by chained calls.
//!
//! ```
//! use chalk_core::{Image, source::MemoryFiles};
//!
//! let image = Image::debian_slim("3.12")
//!     .pip_install(["requests", "pandas>=2.0"])
//!     .run_commands("apt-get update && apt-get install -y git curl")
//!     .workdir("/app")
//!     .env([("PROJECT_ROOT", "/app")]);
//!
//! let spec = image.resolve(&MemoryFiles::new())?.spec;
//! println!("{}", spec.recipe_hash());
//! # assert_eq!(
//! #     spec.recipe_hash().to_string(),
//! #     "sha256:913a151e52559d4b4ceb6d49c82bc207b3add19de3891688a60fe74d9c54deed"
//! # );
//! # Ok::<(), chalk_core::error::SpecErrors>(())
//! ```

use std::fmt;
use std::sync::Arc;

use crate::Spec;
use crate::error::{Fault, SpecError, SpecErrors, Warning};
use crate::source::Source;
use crate::upload::Upload;

pub(crate) mod calls;
mod from_spec;
pub(crate) mod project;
mod requirements;
mod resolve;

use calls::{Call, Installer};
pub use calls::{DockerfileOptions, LocalOptions, StepOptions, Strategy, Texts};
pub use project::UvSyncOptions;

/// A declared image. Every method gives a new image and leaves its receiver as it was; an image and
/// those made from it share structure, so a call costs the same however long the chain is.
///
/// No call fails: what is wrong is remembered with the number of the call and comes out of
/// [`Image::resolve`], all of it at once.
#[derive(Clone)]
pub struct Image {
    last: Arc<Link>,
}

/// Most errors that are told at once.
const ERROR_LIMIT: usize = 100;

/// One call and all before it.
pub(crate) struct Link {
    previous: Option<Arc<Link>>,
    /// Number of the call, the constructor being 1.
    number: usize,
    /// Name of the method.
    word: &'static str,
    call: Result<Call, Fault>,
    place: Option<Place>,
}

/// Where a call stands in the file that it was read from.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The text that it was read from, and the offset in it. Line and column are counted only when
    /// there is something wrong.
    pub(crate) at: Option<(Arc<str>, usize)>,
    /// Field, such as `step[2].run_commands`.
    pub(crate) path: String,
}

/// An image with every local file read: what is hashed and sent, and what goes up with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The spec.
    pub spec: Spec,
    /// Contents that the spec names by digest, each once.
    pub uploads: Vec<Upload>,
    /// Things that are probably not meant.
    pub warnings: Vec<Warning>,
}

impl Image {
    pub(crate) fn begin(word: &'static str, call: Result<Call, Fault>) -> Self {
        let link = Link {
            previous: None,
            number: 1,
            word,
            call,
            place: None,
        };
        Self {
            last: Arc::new(link),
        }
    }

    pub(crate) fn push(&self, word: &'static str, call: Result<Call, Fault>) -> Self {
        let link = Link {
            previous: Some(self.last.clone()),
            number: self.last.number + 1,
            word,
            call,
            place: None,
        };
        Self {
            last: Arc::new(link),
        }
    }

    /// The same image, its last call having been read from `place`.
    pub(crate) fn read_at(mut self, place: Place) -> Self {
        if let Some(link) = Arc::get_mut(&mut self.last) {
            link.place = Some(place);
        }
        self
    }

    /// The links in the order of the calls.
    fn links(&self) -> Vec<&Link> {
        let mut links = Vec::with_capacity(self.last.number);
        let mut next = Some(&self.last);
        while let Some(link) = next {
            links.push(&**link);
            next = link.previous.as_ref();
        }
        links.reverse();
        links
    }

    /// The calls in order, or everything that is wrong with them.
    pub(crate) fn calls(&self) -> Result<Vec<(&Link, &Call)>, SpecErrors> {
        let mut errors = Vec::new();
        let mut calls = Vec::with_capacity(self.last.number);
        for link in self.links() {
            if errors.len() == ERROR_LIMIT {
                break;
            }
            match &link.call {
                Ok(call) => calls.push((link, call)),
                Err(fault) => errors.push(link.error(fault.clone())),
            }
        }
        if errors.is_empty() {
            Ok(calls)
        } else {
            Err(SpecErrors(errors))
        }
    }

    /// Number of calls that made the image, the constructor being the first.
    pub fn length(&self) -> usize {
        self.last.number
    }

    /// What is wrong with the last call, for languages in which a wrong call should fail at once.
    pub fn fault(&self) -> Option<SpecError> {
        let fault = self.last.call.as_ref().err()?;
        Some(self.last.error(fault.clone()))
    }

    /// Reads the local files that the image names and gives the spec.
    ///
    /// # Errors
    /// Everything that is wrong with the calls, or with the files they name.
    pub fn resolve(&self, source: &dyn Source) -> Result<Resolved, SpecErrors> {
        resolve::resolve(self, source)
    }
}

/// Where an image starts.
impl Image {
    /// `python:<version>-slim-bookworm`; `None` means Python 3.12.
    pub fn debian_slim<'a>(version: impl Into<Option<&'a str>>) -> Self {
        Self::begin("debian_slim", Call::debian_slim(version.into()))
    }

    /// Any image of an OCI registry, by tag or digest: `node:22-slim`, `ghcr.io/org/image:tag`.
    /// `scratch` is the empty base.
    pub fn base(reference: &str) -> Self {
        Self::begin("base", Call::base(reference))
    }

    /// The empty base.
    pub fn scratch() -> Self {
        Self::base("scratch")
    }

    /// A whole Dockerfile by its text, with the directory that its `COPY` and `ADD` read from.
    pub fn from_dockerfile<'a>(text: &str, context: impl Into<Option<&'a str>>) -> Self {
        let mut options = DockerfileOptions::new();
        options.context = context.into().map(str::to_owned);
        Self::from_dockerfile_with(text, options)
    }

    /// [`Image::from_dockerfile`] with build arguments and target.
    pub fn from_dockerfile_with(text: &str, options: DockerfileOptions) -> Self {
        Self::begin("from_dockerfile", Call::dockerfile_text(text, options))
    }

    /// A Dockerfile that is read when the image is resolved. Its context is the directory that it
    /// lies in unless `options` name another.
    pub fn from_dockerfile_path(path: &str, options: DockerfileOptions) -> Self {
        Self::begin("from_dockerfile", Call::dockerfile_path(path, options))
    }
}

/// Build steps.
impl Image {
    /// Installs Python packages, given as requirement specifiers or pip options.
    #[must_use]
    pub fn pip_install(&self, packages: impl Texts) -> Self {
        self.pip_install_with(packages, StepOptions::new())
    }

    /// [`Image::pip_install`] with options of the step.
    #[must_use]
    pub fn pip_install_with(&self, packages: impl Texts, options: StepOptions) -> Self {
        self.push(
            "pip_install",
            Call::install(Installer::Pip, packages.into_texts(), options),
        )
    }

    /// Installs what a requirements file lists; its lines count, not its path.
    #[must_use]
    pub fn pip_install_from_requirements(&self, path: &str) -> Self {
        self.pip_install_from_requirements_with(path, StepOptions::new())
    }

    /// [`Image::pip_install_from_requirements`] with options of the step.
    #[must_use]
    pub fn pip_install_from_requirements_with(&self, path: &str, options: StepOptions) -> Self {
        let call = Call::requirements(Installer::Pip, path, options);
        self.push("pip_install_from_requirements", call)
    }

    /// Installs Python packages by uv, whatever the service would choose.
    #[must_use]
    pub fn uv_pip_install(&self, packages: impl Texts) -> Self {
        self.uv_pip_install_with(packages, StepOptions::new())
    }

    /// [`Image::uv_pip_install`] with options of the step.
    #[must_use]
    pub fn uv_pip_install_with(&self, packages: impl Texts, options: StepOptions) -> Self {
        self.push(
            "uv_pip_install",
            Call::install(Installer::Uv, packages.into_texts(), options),
        )
    }

    /// Installs what a requirements file lists, by uv.
    #[must_use]
    pub fn uv_pip_install_from_requirements(&self, path: &str) -> Self {
        self.uv_pip_install_from_requirements_with(path, StepOptions::new())
    }

    /// [`Image::uv_pip_install_from_requirements`] with options of the step.
    #[must_use]
    pub fn uv_pip_install_from_requirements_with(&self, path: &str, options: StepOptions) -> Self {
        let call = Call::requirements(Installer::Uv, path, options);
        self.push("uv_pip_install_from_requirements", call)
    }

    /// Installs Debian packages, `name` or `name=version` each.
    #[must_use]
    pub fn apt_install(&self, packages: impl Texts) -> Self {
        self.apt_install_with(packages, StepOptions::new())
    }

    /// [`Image::apt_install`] with options of the step.
    #[must_use]
    pub fn apt_install_with(&self, packages: impl Texts, options: StepOptions) -> Self {
        self.push(
            "apt_install",
            Call::install(Installer::Apt, packages.into_texts(), options),
        )
    }

    /// Runs shell commands, each a step of its own.
    #[must_use]
    pub fn run_commands(&self, commands: impl Texts) -> Self {
        self.run_commands_with(commands, StepOptions::new())
    }

    /// [`Image::run_commands`] with options of each step.
    #[must_use]
    pub fn run_commands_with(&self, commands: impl Texts, options: StepOptions) -> Self {
        self.push("run_commands", Call::run(commands.into_texts(), options))
    }

    /// Carries out Dockerfile instructions, each a step of its own. `COPY` and `ADD` of local files
    /// need a context: see [`Image::dockerfile_commands_with`].
    #[must_use]
    pub fn dockerfile_commands(&self, instructions: impl Texts) -> Self {
        self.dockerfile_commands_with(instructions, None, StepOptions::new())
    }

    /// [`Image::dockerfile_commands`] with the directory that `COPY` and `ADD` read from, and options
    /// of each step.
    #[must_use]
    pub fn dockerfile_commands_with<'a>(
        &self,
        instructions: impl Texts,
        context: impl Into<Option<&'a str>>,
        options: StepOptions,
    ) -> Self {
        let call = Call::instructions(instructions.into_texts(), context.into(), options);
        self.push("dockerfile_commands", call)
    }

    /// Puts a local file at the absolute path `dest` (below it, by its own name, when `dest` ends
    /// with a slash): mounted when a sandbox starts, or with [`Strategy::Copy`] part of the image.
    #[must_use]
    pub fn add_local_file(&self, src: &str, dest: &str, options: impl Into<LocalOptions>) -> Self {
        self.push("add_local_file", Call::add_file(src, dest, options.into()))
    }

    /// Puts the contents of a local directory into the directory `dest`, as
    /// [`Image::add_local_file`] does. What `.gitignore` and `.chalkignore` name is left out, and
    /// `.git` always.
    #[must_use]
    pub fn add_local_dir(&self, src: &str, dest: &str, options: impl Into<LocalOptions>) -> Self {
        self.push("add_local_dir", Call::add_dir(src, dest, options.into()))
    }
}

/// Facts of the whole image, wherever they stand in the chain; later calls win.
impl Image {
    /// Working directory of every step and of the image.
    #[must_use]
    pub fn workdir(&self, path: &str) -> Self {
        self.push("workdir", Call::workdir(path))
    }

    /// Environment that every step and the image see.
    #[must_use]
    pub fn env<N: Into<String>, V: Into<String>>(
        &self,
        env: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        let pairs = env.into_iter().map(|(n, v)| (n.into(), v.into())).collect();
        self.push("env", Call::env(pairs))
    }

    /// Environment of the image that no step sees, so that changing it rebuilds nothing.
    #[must_use]
    pub fn runtime_env<N: Into<String>, V: Into<String>>(
        &self,
        env: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        let pairs = env.into_iter().map(|(n, v)| (n.into(), v.into())).collect();
        self.push("runtime_env", Call::runtime_env(pairs))
    }

    /// User of every step and of the image, `user[:group]`.
    #[must_use]
    pub fn user(&self, user: &str) -> Self {
        self.push("user", Call::user(user))
    }

    /// A label of the image.
    #[must_use]
    pub fn label(&self, name: &str, value: &str) -> Self {
        self.push(
            "label",
            Call::labels(vec![(name.to_owned(), value.to_owned())]),
        )
    }

    /// Entrypoint of the image.
    #[must_use]
    pub fn entrypoint(&self, arguments: impl Texts) -> Self {
        self.push("entrypoint", Call::entrypoint(arguments.into_texts()))
    }

    /// Command of the image.
    #[must_use]
    pub fn cmd(&self, arguments: impl Texts) -> Self {
        self.push("cmd", Call::cmd(arguments.into_texts()))
    }

    /// Platform of the image, `linux/amd64` unless set.
    #[must_use]
    pub fn platform(&self, platform: &str) -> Self {
        self.push("platform", Call::platform(platform))
    }

    /// Name to file the image under, `repository[:tag]`. Does not count in the hash.
    #[must_use]
    pub fn name(&self, name: &str) -> Self {
        self.push("name", Call::name(name))
    }
}

impl Link {
    /// The error of a fault in this call.
    pub(crate) fn error(&self, fault: Fault) -> SpecError {
        let mut error = fault.into_error();
        let (place, position) = match &self.place {
            Some(Place { at, path }) => {
                let position = at
                    .as_ref()
                    .map(|(text, at)| crate::input::position(text, *at));
                (path.clone(), position)
            }
            None => (format!("call {}: {}", self.number, self.word), None),
        };
        error.path = match error.path.as_str() {
            "" => place,
            field if field.starts_with('[') => format!("{place}{field}"),
            field => format!("{place}.{field}"),
        };
        error.position = error.position.or(position);
        error
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let calls = self.links().into_iter().map(|link| (link.word, &link.call));
        f.debug_list().entries(calls).finish()
    }
}

impl Drop for Link {
    /// Frees a long chain link by link: the compiler's own way would recurse once per call.
    fn drop(&mut self) {
        let mut next = self.previous.take();
        while let Some(mut link) = next.and_then(Arc::into_inner) {
            next = link.previous.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::MemoryFiles;
    use crate::spec::{Base, StepKind};
    use crate::upload::Contents;

    fn resolve(image: &Image) -> Result<Resolved, String> {
        let files = MemoryFiles::new()
            .file("app.py", "app")
            .executable("run.sh", "run")
            .file("src/a", "app")
            .file("src/.git/HEAD", "x")
            .file("docker/Dockerfile", "FROM alpine\nCOPY app.py /\n")
            .file("docker/app.py", "other");
        image.resolve(&files).map_err(|errors| errors.to_string())
    }

    #[test]
    fn the_example_of_the_page_has_this_hash() {
        let image = Image::debian_slim(None)
            .env([("PROJECT_ROOT", "/app")])
            .workdir("/app")
            .pip_install(["pandas >= 2.0", "Requests"])
            .run_commands(["apt-get update && apt-get install -y git curl"]);
        let spec = resolve(&image).unwrap().spec;
        assert_eq!(
            spec.recipe_hash().to_string(),
            "sha256:913a151e52559d4b4ceb6d49c82bc207b3add19de3891688a60fe74d9c54deed"
        );
        assert_eq!(spec.image_hash(), None);
    }

    #[test]
    fn a_wrong_call_can_be_told_at_once() {
        let image = Image::scratch().workdir("app");
        let fault = image.fault().map(|error| error.to_string());
        assert_eq!(
            fault.as_deref(),
            Some("call 2: workdir: `app` is not an absolute path; begin with `/`, such as `/app`")
        );
        assert_eq!(image.run_commands("true").fault(), None);
    }

    #[test]
    fn branches_leave_their_trunk_as_it_was() {
        let trunk = Image::scratch().run_commands("a");
        let one = trunk.run_commands("b").env([("A", "1")]);
        let two = trunk.run_commands("c");
        let commands = |image: &Image| {
            let command = |step: crate::spec::Step| match step.kind {
                StepKind::Run { command } => command,
                other => other.word().to_owned(),
            };
            let steps = resolve(image).unwrap().spec.steps;
            steps.into_iter().map(command).collect::<Vec<_>>()
        };
        assert_eq!(commands(&trunk), ["a"]);
        assert_eq!(commands(&one), ["a", "b"]);
        assert_eq!(commands(&two), ["a", "c"]);
        assert!(resolve(&two).unwrap().spec.env.is_empty());
    }

    #[test]
    fn every_wrong_call_is_named() {
        let image = Image::base("Python")
            .run_commands(["ok", ""])
            .env([("A=B", "")])
            .workdir("app")
            .add_local_file("app.py", "../app.py", Strategy::Copy)
            .apt_install_with("git", StepOptions::new().secret("a/b"))
            .entrypoint(Vec::<String>::new());
        let errors = resolve(&image).unwrap_err();
        let place = |line: &str| line.splitn(3, ": ").take(2).collect::<Vec<_>>().join(": ");
        assert_eq!(
            errors.lines().map(place).collect::<Vec<_>>(),
            [
                "call 1: base",
                "call 2: run_commands[1]",
                "call 3: env.A=B",
                "call 4: workdir",
                "call 5: add_local_file.dest",
                "call 6: apt_install.secrets",
                "call 7: entrypoint",
            ]
        );
    }

    #[test]
    fn files_are_uploaded_once_and_mounts_never() {
        let image = Image::scratch()
            .add_local_file("app.py", "/app/", LocalOptions::copy())
            .add_local_file("./run.sh", "/run", Strategy::Copy)
            .add_local_dir("src", "/src", Strategy::Copy)
            .add_local_file("app.py", "/mounted/", Strategy::Mount)
            .run_commands(["cat /mounted/app.py", "true"])
            .dockerfile_commands("RUN ls /mounted/app.py")
            .add_local_dir("src", "/late", Strategy::default())
            .workdir("/mounted");
        let resolved = resolve(&image).unwrap();
        let uploads: Vec<_> = resolved
            .uploads
            .iter()
            .map(|upload| match &upload.contents {
                Contents::File(path) => path.clone(),
                Contents::Bytes(bytes) => String::from_utf8_lossy(&bytes[..10]).into_owned(),
            })
            .collect();
        assert_eq!(uploads, ["app.py", "./run.sh", "[{\"digest\""]);
        let warned: Vec<_> = resolved.warnings.iter().map(|w| w.path.as_str()).collect();
        assert_eq!(warned, ["steps[3]", "steps[5]"]);
        let StepKind::AddFile { dest, mode, .. } = &resolved.spec.steps[0].kind else {
            panic!("{:?}", resolved.spec.steps[0]);
        };
        assert_eq!((dest.as_str(), *mode), ("/app/app.py", 0o644));
        assert_eq!(resolved.spec.mounts[1].after, 6);
    }

    #[test]
    fn a_dockerfile_finds_its_context() {
        let context = |image: Image| match resolve(&image).unwrap().spec.base {
            Base::Dockerfile(dockerfile) => dockerfile.stages[0].instructions[0].context,
            other => panic!("{other:?}"),
        };
        let text = "FROM alpine\nCOPY app.py /\n";
        let path = "docker/Dockerfile";
        let beside = context(Image::from_dockerfile_path(path, DockerfileOptions::new()));
        assert_eq!(beside, context(Image::from_dockerfile(text, "docker")));
        let here = DockerfileOptions::new().context(".");
        let here = context(Image::from_dockerfile_path(path, here));
        assert_ne!(here, beside);
        assert_eq!(here, context(Image::from_dockerfile(text, ".")));
        assert!(resolve(&Image::from_dockerfile(text, None)).is_err());
    }
}
