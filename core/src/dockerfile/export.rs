//! From a spec to a Dockerfile that `docker build` makes the same of.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use super::expand::quote;
use super::instruction::{Command, CommandLine, Copying, Pairs, Run, parse, parse_canonical};
use super::lines::{self, Heredoc};
use super::mount::MountFlag;
use crate::spec::{Base, BaseImage, Instruction, Spec, StageBase, Step, StepKind, UvProject};
use crate::{Digest, Platform};

/// Image that brings uv to a step.
const UV_IMAGE: &str = "ghcr.io/astral-sh/uv:latest";

/// Why a spec has no Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExportError {
    /// The syntax of Dockerfiles has no words for it.
    #[error("{what} cannot be written in a Dockerfile: {reason}")]
    Inexpressible {
        /// A field or a step of the spec.
        what: String,
        /// Why not.
        reason: String,
    },
}

/// Prints a spec as a Dockerfile.
///
/// A spec knows files by digest alone: a file that it adds is copied from `sha256/<hex>` of the
/// context, a directory from a directory of that name; instructions of a Dockerfile keep the paths
/// that they were written with. Mounts are no part of a build and become comments.
///
/// # Errors
/// When something has no form in a Dockerfile, such as a line break in a variable.
pub fn export(spec: &Spec) -> Result<String, ExportError> {
    let mut out = Writer::default();
    out.base(spec)?;
    out.facts(spec)?;
    for (i, step) in spec.steps.iter().enumerate() {
        out.step(step, i, spec)?;
    }
    // Steps may have changed what holds for the whole image.
    let changed = |of: fn(&Command) -> bool| {
        spec.steps.iter().any(|step| match &step.kind {
            StepKind::Dockerfile(instruction) => {
                parse_canonical(&instruction.text).is_ok_and(|command| of(&command))
            }
            _ => false,
        })
    };
    if changed(|c| matches!(c, Command::Env(_))) {
        out.env("env", &spec.env)?;
    }
    if changed(|c| matches!(c, Command::Workdir(_))) {
        out.workdir(spec)?;
    }
    if changed(|c| matches!(c, Command::User(_))) {
        out.user(spec)?;
    }
    out.env("runtime_env", &spec.runtime_env)?;
    if !spec.labels.is_empty() {
        let label = |(name, value): (&String, &String)| (quote(name), quote(value));
        let pairs = Pairs {
            pairs: spec.labels.iter().map(label).collect(),
            old_form: false,
        };
        out.command("labels", &Command::Label(pairs))?;
    }
    if let Some(entrypoint) = &spec.entrypoint {
        let line = CommandLine::Exec(entrypoint.clone());
        out.command("entrypoint", &Command::Entrypoint(line))?;
    }
    if let Some(cmd) = &spec.cmd {
        out.command("cmd", &Command::Cmd(CommandLine::Exec(cmd.clone())))?;
    }
    for mount in &spec.mounts {
        out.comment(&format!(
            "Mounted at {} when a sandbox starts, not built: {}",
            mount.dest, mount.src
        ));
    }
    Ok(out.finish())
}

#[derive(Default)]
struct Writer {
    lines: Vec<String>,
    /// Something that the frontend built into old Docker versions does not know.
    is_modern: bool,
    /// A `uv_sync` made an environment that is on the PATH.
    in_environment: bool,
}

impl Writer {
    fn finish(self) -> String {
        let mut text = String::new();
        if self.is_modern {
            text.push_str("# syntax=docker/dockerfile:1\n");
        }
        for line in self.lines {
            text.push_str(&line);
            text.push('\n');
        }
        text
    }

    fn comment(&mut self, text: &str) {
        let line: String = text
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        self.lines.push(format!("# {line}"));
    }

    /// Writes an instruction, and makes sure that it reads back as the same.
    fn command(&mut self, what: &str, command: &Command) -> Result<(), ExportError> {
        let text = command.text();
        let fail = |reason: &str| {
            Err(ExportError::Inexpressible {
                what: what.to_owned(),
                reason: reason.to_owned(),
            })
        };
        let Ok(script) = lines::read(&format!("{text}\n"), "") else {
            return fail("it does not read back");
        };
        let back: Result<Vec<Command>, _> = script
            .statements
            .iter()
            .map(|statement| parse(statement, '\\'))
            .collect();
        if back.ok().as_deref() != Some(std::slice::from_ref(command)) {
            return fail(if text.contains('\n') {
                "a line break ends an instruction"
            } else {
                "it ends in a backslash, which joins it to the next line"
            });
        }
        self.is_modern |= match command {
            Command::Run(run) => {
                !run.heredocs.is_empty() || !run.mounts.is_empty() || run.network.is_some()
            }
            Command::Copy(copying) => {
                copying.chmod.is_some()
                    || copying.link
                    || copying.parents
                    || copying.unpack.is_some()
                    || copying.checksum.is_some()
                    || !copying.exclude.is_empty()
                    || text.contains('\n')
            }
            _ => false,
        };
        self.lines.push(text);
        Ok(())
    }

    fn base(&mut self, spec: &Spec) -> Result<(), ExportError> {
        let from = |image: String, platform: Option<&Platform>, name: Option<String>| {
            Command::From(super::instruction::From {
                platform: platform.map(ToString::to_string),
                image,
                name,
            })
        };
        let platform = |image: &BaseImage| {
            let platform = image
                .platform
                .clone()
                .unwrap_or_else(|| spec.platform.clone());
            (platform != Platform::default()).then_some(platform)
        };
        match &spec.base {
            Base::Scratch => self.command("base", &from("scratch".into(), None, None)),
            Base::Image(image) => {
                let platform = platform(image);
                self.command("base", &from(name(image), platform.as_ref(), None))
            }
            Base::Dockerfile(dockerfile) => {
                for (at, stage) in dockerfile.stages.iter().enumerate() {
                    let what = format!("stage {at}");
                    let is_base = |other: &crate::spec::Stage| other.base == StageBase::Stage(at);
                    let own = dockerfile
                        .stages
                        .iter()
                        .any(is_base)
                        .then(|| stage_name(at));
                    let line = match &stage.base {
                        StageBase::Scratch => from("scratch".into(), None, own),
                        StageBase::Image(image) => from(name(image), platform(image).as_ref(), own),
                        StageBase::Stage(base) => from(stage_name(*base), None, own),
                    };
                    self.command(&what, &line)?;
                    for instruction in &stage.instructions {
                        let command = read(instruction, &what)?;
                        self.command(&what, &command)?;
                    }
                }
                Ok(())
            }
        }
    }

    /// What every step sees.
    fn facts(&mut self, spec: &Spec) -> Result<(), ExportError> {
        self.env("env", &spec.env)?;
        self.workdir(spec)?;
        self.user(spec)
    }

    fn env(&mut self, what: &str, env: &BTreeMap<String, String>) -> Result<(), ExportError> {
        if env.is_empty() {
            return Ok(());
        }
        let pairs = Pairs {
            pairs: env
                .iter()
                .map(|(name, value)| (name.clone(), quote(value)))
                .collect(),
            old_form: false,
        };
        self.command(what, &Command::Env(pairs))
    }

    fn workdir(&mut self, spec: &Spec) -> Result<(), ExportError> {
        match &spec.workdir {
            Some(workdir) => self.command("workdir", &Command::Workdir(quote(workdir))),
            None => Ok(()),
        }
    }

    fn user(&mut self, spec: &Spec) -> Result<(), ExportError> {
        match &spec.user {
            Some(user) => self.command("user", &Command::User(quote(user))),
            None => Ok(()),
        }
    }

    fn step(&mut self, step: &Step, at: usize, spec: &Spec) -> Result<(), ExportError> {
        let what = format!("steps[{at}]");
        let is_root = spec.user.as_deref().is_none_or(is_root);
        match &step.kind {
            StepKind::PipInstall { packages } if !self.in_environment => {
                let mut install = "cd / && python3 -m pip install".to_owned();
                let mut mounts = Vec::new();
                if is_root {
                    mounts.push("type=cache,target=/root/.cache/pip".to_owned());
                } else {
                    install.push_str(" --no-cache-dir");
                }
                self.install(&what, step, mounts, &install, packages)
            }
            StepKind::PipInstall { packages } | StepKind::UvPipInstall { packages } => {
                let (mounts, no_cache) = uv_mounts(is_root);
                // The environment of a `uv_sync` before it is on the PATH; it has no pip.
                let place = match self.in_environment {
                    true => "",
                    false => " --system",
                };
                let install = format!("cd / && uv pip install{place}{no_cache}");
                self.install(&what, step, mounts, &install, packages)
            }
            StepKind::AptInstall { packages } => {
                let cache = |dir: &str| format!("type=cache,target={dir},sharing=locked");
                let mounts = vec![cache("/var/cache/apt"), cache("/var/lib/apt/lists")];
                let install = "apt-get update && DEBIAN_FRONTEND=noninteractive \
                               apt-get install -y --no-install-recommends";
                if !is_root {
                    self.command(&what, &Command::User("root".into()))?;
                }
                self.install(&what, step, mounts, install, packages)?;
                if is_root { Ok(()) } else { self.user(spec) }
            }
            StepKind::UvSync(project) => self.sync(&what, step, project, spec),
            StepKind::Run { command } => self.run(&what, step, Vec::new(), command),
            StepKind::AddFile { dest, digest, mode } => self.file(&what, digest, dest, *mode, None),
            StepKind::AddDir { dest, digest } => {
                let dest = format!("{}/", dest.trim_end_matches('/'));
                let copying = copy(&format!("sha256/{}", digest.hex()), &dest);
                self.command(&what, &Command::Copy(copying))
            }
            StepKind::Dockerfile(instruction) => {
                let mut command = read(instruction, &what)?;
                if let Command::Run(run) = &mut command {
                    add_options(run, step).map_err(|reason| ExportError::Inexpressible {
                        what: what.clone(),
                        reason,
                    })?;
                }
                self.command(&what, &command)
            }
        }
    }

    /// The two files of a project, what uv makes of them, and the environment on the PATH.
    fn sync(
        &mut self,
        what: &str,
        step: &Step,
        project: &UvProject,
        spec: &Spec,
    ) -> Result<(), ExportError> {
        let dir = project.dir(spec.workdir.as_deref());
        let user = spec.user.as_deref().filter(|user| !is_root(user));
        let environment = UvProject::environment(dir);
        let root = environment.trim_end_matches(".venv");
        let (pyproject, lock) = (&project.pyproject, &project.lock);
        self.file(
            what,
            pyproject,
            &format!("{root}pyproject.toml"),
            0o644,
            user,
        )?;
        self.file(what, lock, &format!("{root}uv.lock"), 0o644, user)?;
        let (mounts, no_cache) = uv_mounts(user.is_none());
        let command = format!(
            "cd {} && UV_PROJECT_ENVIRONMENT=.venv uv sync --frozen --no-install-workspace \
             --compile-bytecode --no-python-downloads{no_cache}",
            shell_quote(dir)
        );
        self.run(what, step, mounts, &project.with_extras(&command))?;
        self.in_environment = true;
        let path = format!("{}/bin:$PATH", quote(&environment));
        let pairs = Pairs {
            pairs: vec![
                ("VIRTUAL_ENV".to_owned(), quote(&environment)),
                ("PATH".to_owned(), path),
            ],
            old_form: false,
        };
        self.command(what, &Command::Env(pairs))
    }

    fn file(
        &mut self,
        what: &str,
        digest: &Digest,
        dest: &str,
        mode: u32,
        user: Option<&str>,
    ) -> Result<(), ExportError> {
        let copying = Copying {
            chown: user.map(quote),
            chmod: Some(format!("{mode:04o}")),
            ..copy(&format!("sha256/{}", digest.hex()), dest)
        };
        self.command(what, &Command::Copy(copying))
    }

    /// Requirements as arguments, or as a file where they hold options.
    fn install(
        &mut self,
        what: &str,
        step: &Step,
        mounts: Vec<String>,
        install: &str,
        packages: &[String],
    ) -> Result<(), ExportError> {
        let has_option = |package: &String| package.starts_with('-') || package.contains(" -");
        if !packages.iter().any(has_option) {
            let words = packages
                .iter()
                .map(|package| format!(" {}", shell_quote(package)));
            return self.run(
                what,
                step,
                mounts,
                &format!("{install}{}", words.collect::<String>()),
            );
        }
        let list: String = packages
            .iter()
            .map(|package| format!("{package}\n"))
            .collect();
        let name = delimiter(&list);
        let command = format!("{install} -r /dev/stdin <<'{name}'\n{list}{name}");
        self.run(what, step, mounts, &command)
    }

    /// A shell command: on one line where it can be, else as a heredoc.
    fn run(
        &mut self,
        what: &str,
        step: &Step,
        mounts: Vec<String>,
        command: &str,
    ) -> Result<(), ExportError> {
        let fail = |reason: String| ExportError::Inexpressible {
            what: what.to_owned(),
            reason,
        };
        let exports = step
            .env
            .iter()
            .map(|(name, value)| format!("export {name}={}\n", shell_quote(value)));
        let script = format!("{}{command}", exports.collect::<String>());
        let mut flags = Vec::new();
        for mount in mounts.into_iter().chain(secrets(step)) {
            flags
                .push(MountFlag::parse(&mount).map_err(|fault| fail(fault.problem().to_string()))?);
        }
        let plain = Command::Run(Run {
            mounts: flags.clone(),
            network: None,
            command: CommandLine::Shell(script.trim().to_owned()),
            heredocs: Vec::new(),
        });
        if self.command(what, &plain).is_ok() {
            return Ok(());
        }
        // A first line `#!` would make a program of it.
        let lead = if script.starts_with("#!") { "\n" } else { "" };
        let body = format!("{lead}{script}\n");
        let name = delimiter(&body);
        let heredoc = Command::Run(Run {
            mounts: flags,
            network: None,
            command: CommandLine::Shell(format!("<<'{name}'")),
            heredocs: vec![Heredoc {
                name,
                expand: false,
                strip_tabs: false,
                body,
            }],
        });
        self.command(what, &heredoc)
    }
}

/// What brings uv to a step and keeps its downloads, and the option for a user without a cache.
fn uv_mounts(is_root: bool) -> (Vec<String>, &'static str) {
    let program = format!("from={UV_IMAGE},source=/uv,target=/usr/local/bin/uv");
    match is_root {
        true => {
            let cache = "type=cache,target=/root/.cache/uv".to_owned();
            (vec![program, cache], "")
        }
        false => (vec![program], " --no-cache"),
    }
}

/// A copy of one path.
fn copy(source: &str, dest: &str) -> Copying {
    Copying {
        sources: vec![super::CopyWord::Path(source.to_owned())],
        dest: quote(dest),
        ..Copying::default()
    }
}

/// An instruction of the spec with the images that it reads under their names.
fn read(instruction: &Instruction, what: &str) -> Result<Command, ExportError> {
    let fail = |reason: String| ExportError::Inexpressible {
        what: what.to_owned(),
        reason,
    };
    super::check_canonical(instruction).map_err(|problem| fail(problem.to_string()))?;
    let image = |from: &str| match from.strip_prefix('@') {
        None => Ok(from.to_owned()),
        Some(index) => index
            .parse::<usize>()
            .ok()
            .and_then(|index| instruction.images.get(index))
            .map(name)
            .ok_or_else(|| fail(format!("`{from}` names no image of the instruction"))),
    };
    let mut command =
        parse_canonical(&instruction.text).map_err(|fault| fail(fault.problem().to_string()))?;
    match &mut command {
        Command::Copy(copying) => {
            if let Some(from) = &copying.from {
                copying.from = Some(image(from)?);
            }
        }
        Command::Run(run) => {
            for mount in &mut run.mounts {
                if let Some(from) = mount.from().map(str::to_owned) {
                    mount.set_from(&image(&from)?);
                }
            }
        }
        _ => {}
    }
    Ok(command)
}

/// Gives a `RUN` the variables and secrets of its step.
fn add_options(run: &mut Run, step: &Step) -> Result<(), String> {
    for mount in secrets(step) {
        run.mounts
            .push(MountFlag::parse(&mount).map_err(|fault| fault.problem().to_string())?);
    }
    if step.env.is_empty() {
        return Ok(());
    }
    match &mut run.command {
        CommandLine::Exec(words) => {
            let env = step
                .env
                .iter()
                .map(|(name, value)| format!("{name}={value}"));
            let env: Vec<String> = std::iter::once("env".to_owned()).chain(env).collect();
            words.splice(0..0, env);
            Ok(())
        }
        CommandLine::Shell(text) if run.heredocs.is_empty() => {
            let exports = step
                .env
                .iter()
                .map(|(name, value)| format!("export {name}={} && ", shell_quote(value)));
            *text = format!("{}{text}", exports.collect::<String>());
            Ok(())
        }
        CommandLine::Shell(_) => Err("variables of a step and a heredoc do not go together".into()),
    }
}

fn secrets(step: &Step) -> impl Iterator<Item = String> {
    let mount = |id: &String| super::syntax::csv_quote(&format!("id={id}"));
    step.secrets
        .iter()
        .map(move |id| format!("type=secret,{},required=true", mount(id)))
}

fn name(image: &BaseImage) -> String {
    match image.digest {
        Some(digest) => image.reference.with_digest(digest).to_string(),
        None => image.reference.to_string(),
    }
}

fn stage_name(index: usize) -> String {
    format!("stage{index}")
}

fn is_root(user: &str) -> bool {
    matches!(user.split(':').next(), Some("" | "root" | "0"))
}

/// A line that does not stand in `body`.
fn delimiter(body: &str) -> String {
    let mut name = "EOF".to_owned();
    while body.lines().any(|line| line.trim_end_matches('\r') == name) {
        name.push('F');
    }
    name
}

/// A word of `sh`.
fn shell_quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:,=+@%^".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}
