//! Typed installs: `pip_install` by uv where it can do what pip was asked, else by pip;
//! `uv_pip_install` and `uv_sync` by uv; `apt_install` by apt-get. Downloads are kept in cache directories that
//! are mounted for the time of the step and never part of a layer.

mod bytecode;
pub(in crate::engine) mod command;
pub(in crate::engine) mod project;
pub(in crate::engine) mod requirements;
pub(in crate::engine) mod tidy;
pub(super) mod uv;

use std::collections::BTreeMap;
use std::path::PathBuf;

use chalk_core::lower::{Install, Installed, Installer};
use chalk_core::spec::UvProject;
use chalk_sandbox::Mount;
use serde::Deserialize;

use super::chain::blocking;
use super::run::{Call, Runner, StepError};
use super::surroundings::{PRIVATE_DIR, file};

use command::{Command, Private};

/// Prints facts about the Python that runs it, as JSON.
const PROBE: &str = include_str!("probe.py");
/// Where the builder's own files are.
const PRIVATE: Private = Private(PRIVATE_DIR);

/// What the probe tells of the Python found on the `PATH`.
#[derive(Debug, Clone, Deserialize)]
pub(in crate::engine) struct Python {
    version: (u32, u32),
    pub(in crate::engine) executable: String,
    implementation: String,
    writable: bool,
    pip: bool,
    config: BTreeMap<String, String>,
}

impl Python {
    /// Programs that are looked for, in order.
    pub(in crate::engine) const NAMES: [&str; 2] = ["python3", "python"];

    /// Arguments that have `program` tell of itself.
    pub(in crate::engine) fn probe(program: &str) -> [&str; 5] {
        [program, "-I", "-B", "-c", PROBE]
    }

    /// Reads what the probe printed.
    ///
    /// # Errors
    /// When it told something else; in words.
    pub(in crate::engine) fn read(program: &str, output: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(output.trim_ascii()).map_err(|_| {
            format!(
                "the base's `{program}` does not run: {}",
                String::from_utf8_lossy(output).trim()
            )
        })
    }
}

/// What is wrong with a base that has none of [`Python::NAMES`].
pub(in crate::engine) const NO_PYTHON: &str = "the base has no `python3` or `python` on its PATH to install into; take a base with Python, or install it in an earlier step";

/// Carries an install out in the root of `runner`.
///
/// # Errors
/// When the installer is missing or fails.
pub(super) async fn install(runner: &mut Runner<'_>, install: &Install) -> Result<(), StepError> {
    match &install.what {
        Installed::Packages(Installer::Apt, packages) => {
            run(runner, install, command::apt(install, packages, PRIVATE)).await?;
        }
        Installed::Packages(installer, packages) => {
            python(runner, install, *installer, packages).await?;
        }
        Installed::Project { project, dir } => {
            sync(runner, install, project, dir).await?;
        }
    }
    let (upper, epoch) = (runner.upper.clone(), command::epoch(&install.env));
    blocking(move || tidy::tidy(&upper, epoch)).await
}

async fn python(
    runner: &mut Runner<'_>,
    install: &Install,
    installer: Installer,
    packages: &[String],
) -> Result<(), StepError> {
    let request = requirements::parse(packages).map_err(StepError::failed)?;
    let python = probe(runner, install).await?;
    let uv = command::for_uv(runner.installer(), installer, install, &request, &python);
    let uv = match (uv, installer) {
        (Ok(call), Installer::Uv) => {
            needs_uv(runner).await?;
            Ok(call)
        }
        (Ok(call), _) => runner.uv().await.map(|_| call),
        (Err(why), _) => Err(why),
    };
    let planned = command::python(install, installer, &request, &python, uv, PRIVATE);
    let planned = planned.map_err(StepError::failed)?;
    if let Some(note) = &planned.note {
        runner.log.note(note);
    }
    run(runner, install, planned.command).await?;
    match planned.compile {
        true => compile(runner, install, &python.executable).await,
        false => Ok(()),
    }
}

/// `uv_sync`: the two files of a project into its directory, and beside them the environment that its
/// lockfile describes.
async fn sync(
    runner: &mut Runner<'_>,
    install: &Install,
    project: &UvProject,
    dir: &str,
) -> Result<(), StepError> {
    let python = probe(runner, install).await?;
    let files = project::files(project, dir, &install.user);
    runner.write_files(&files).await?;
    needs_uv(runner).await?;
    let (command, ours) = command::sync(install, project, dir, &python, PRIVATE);
    run(runner, install, command).await?;
    match ours {
        true => {
            let python = format!("{}/bin/python", UvProject::environment(dir));
            compile(runner, install, &python).await
        }
        false => Ok(()),
    }
}

async fn compile(
    runner: &mut Runner<'_>,
    install: &Install,
    python: &str,
) -> Result<(), StepError> {
    run(runner, install, command::compile(install, python, PRIVATE)).await
}

async fn needs_uv(runner: &Runner<'_>) -> Result<PathBuf, StepError> {
    let uv = runner.uv().await;
    uv.map_err(|why| StepError::failed(format!("uv is needed, but {why}")))
}

/// Runs a process with what it needs.
async fn run(
    runner: &mut Runner<'_>,
    install: &Install,
    command: Command,
) -> Result<(), StepError> {
    let mut call = Call::new(install, command.args);
    call.env = command.env;
    call.cwd = command.cwd;
    if command.uv {
        call.mounts
            .push(bind(needs_uv(runner).await?, &PRIVATE.uv(), true));
    }
    // Held until the process has ended.
    let mut held = None;
    let cache = match command.exclusive {
        true => {
            let cache = runner.exclusive_cache(command.cache, &install.user).await?;
            let path = cache.path().to_owned();
            held = Some(cache);
            path
        }
        false => runner.shared_cache(command.cache, &install.user).await?,
    };
    call.mounts.push(bind(cache, &PRIVATE.cache(), false));
    if command.temp {
        call.mounts
            .push(bind(runner.temp_dir()?, &PRIVATE.temp(), false));
    }
    if let Some(text) = command.requirements {
        call.mounts.push(file(&PRIVATE.requirements(), text));
    }
    let done = runner.run(call).await;
    drop(held);
    done
}

/// Looks at the first of `python3` and `python` on the `PATH`.
async fn probe(runner: &mut Runner<'_>, install: &Install) -> Result<Python, StepError> {
    for name in Python::NAMES {
        let call = Call::new(install, Python::probe(name));
        if let Some(output) = runner.capture(call).await? {
            return Python::read(name, &output).map_err(StepError::failed);
        }
    }
    Err(StepError::failed(NO_PYTHON))
}

fn bind(source: impl Into<PathBuf>, target: &str, read_only: bool) -> Mount {
    debug_assert!(target.starts_with(PRIVATE_DIR));
    Mount::Bind {
        source: source.into(),
        target: target.into(),
        read_only,
    }
}
