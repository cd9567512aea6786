//! Typed installs: `pip_install` by uv where it can do what pip was asked, else by pip;
//! `uv_pip_install` and `uv_sync` by uv; `apt_install` by apt-get. Downloads are kept in cache directories that
//! are mounted for the time of the step and never part of a layer.

mod bytecode;
mod project;
mod requirements;
mod tidy;
pub(super) mod uv;

use std::collections::BTreeMap;
use std::path::PathBuf;

use chalk_core::lower::{Install, Installed, Installer};
use chalk_sandbox::Mount;
use serde::Deserialize;

use super::chain::blocking;
use super::run::{Call, Runner, StepError};
use super::surroundings::{PRIVATE_DIR, file};
use crate::settings;

/// Prints facts about the Python that runs it, as JSON.
const PROBE: &str = include_str!("probe.py");
/// Oldest Python that uv installs into.
const OLDEST_PYTHON: (u32, u32) = (3, 8);

const REQUIREMENTS: &str = "/run/chalk/requirements.txt";
const UV_DIR: &str = "/run/chalk/uv";
const CACHE_DIR: &str = "/run/chalk/cache";
/// Variable that dates files (<https://reproducible-builds.org/specs/source-date-epoch/>).
const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";
/// 1980-01-01, the first day that a zip archive can hold.
const EPOCH: i64 = 315_532_800;
/// Installers leave locks and half-built wheels in their temporary directory.
const TEMP_DIR: &str = "/run/chalk/tmp";

/// `apt-get` with its lists and archives in the cache directory. Image makers set `Dir::Cache`
/// and hooks that empty `/var/cache/apt`; options here come after all configuration files.
const APT: &str = r#"set -e
apt() {
    apt-get -q -y \
        -o Dir::State::Lists="$cache/lists" \
        -o Dir::Cache="$cache" \
        -o Dir::Cache::Archives="$cache/archives" \
        -o Dir::Cache::PkgCache=pkgcache.bin \
        -o Dir::Cache::SrcPkgCache=srcpkgcache.bin \
        -o APT::Keep-Downloaded-Packages=true \
        -o Acquire::Languages=none \
        -o Acquire::GzipIndexes=false \
        -o Acquire::Retries=3 \
        -o Dpkg::Use-Pty=0 \
        "$@"
}
cache=/run/chalk/cache
mkdir -p "$cache/lists" "$cache/archives"
apt update
apt install --no-install-recommends -- "$@"
"#;

/// What the probe tells of the Python found on the `PATH`.
#[derive(Debug, Clone, Deserialize)]
struct Python {
    version: (u32, u32),
    executable: String,
    implementation: String,
    writable: bool,
    pip: bool,
    config: BTreeMap<String, String>,
}

/// Carries an install out in the root of `runner`.
///
/// # Errors
/// When the installer is missing or fails.
pub(super) async fn install(runner: &mut Runner<'_>, install: &Install) -> Result<(), StepError> {
    match &install.what {
        Installed::Packages(Installer::Apt, packages) => apt(runner, install, packages).await?,
        Installed::Packages(installer, packages) => {
            python(runner, install, *installer, packages).await?;
        }
        Installed::Project { project, dir } => {
            project::sync(runner, install, project, dir).await?;
        }
    }
    let (upper, epoch) = (runner.upper.clone(), epoch(&install.env));
    blocking(move || tidy::tidy(&upper, epoch)).await
}

/// The latest time that files of an install have: what the spec says, else [`EPOCH`].
fn epoch(env: &[(String, String)]) -> i64 {
    let told = env.iter().find(|(name, _)| name == SOURCE_DATE_EPOCH);
    let told = told.and_then(|(_, value)| value.parse().ok());
    told.filter(|epoch| *epoch >= 0).unwrap_or(EPOCH)
}

/// Has installers leave the same files behind whenever they install the same packages.
fn reproducibly(call: &mut Call) {
    let fixed = [
        // Python compiles to checked-hash `.pyc` where this is set (PEP 552), which hold no time.
        (SOURCE_DATE_EPOCH, EPOCH.to_string()),
        // Else what installers happen to import is compiled along, by its time.
        ("PYTHONDONTWRITEBYTECODE", "1".to_owned()),
        // Before Python 3.11 the order of sets went into bytecode.
        ("PYTHONHASHSEED", "0".to_owned()),
    ];
    for (name, value) in fixed {
        if !call.env.iter().any(|(other, _)| other == name) {
            call.set(name, &value);
        }
    }
}

async fn apt(
    runner: &mut Runner<'_>,
    install: &Install,
    packages: &[String],
) -> Result<(), StepError> {
    let mut call = Call::new(install, ["/bin/sh", "-c", APT, "apt_install"]);
    call.args.extend(packages.iter().cloned());
    if !install
        .env
        .iter()
        .any(|(name, _)| name == "DEBIAN_FRONTEND")
    {
        call.set("DEBIAN_FRONTEND", "noninteractive");
    }
    reproducibly(&mut call);
    // apt locks its directories and fails when it cannot.
    let cache = runner.exclusive_cache("apt", &install.user).await?;
    call.mounts.push(bind(cache.path(), CACHE_DIR, false));
    runner.run(call).await
}

async fn python(
    runner: &mut Runner<'_>,
    install: &Install,
    installer: Installer,
    packages: &[String],
) -> Result<(), StepError> {
    let request = requirements::parse(packages).map_err(StepError::failed)?;
    let python = probe(runner, install).await?;
    let uv = match installer {
        Installer::Uv => {
            let dir = runner.uv().await;
            let dir = dir.map_err(|why| StepError::failed(format!("uv is needed, but {why}")))?;
            let call = requirements::UvCall {
                args: request.uv_args(),
                env: Vec::new(),
                compile: true,
            };
            Ok((dir, call))
        }
        _ => choose_uv(runner, install, &request, &python).await,
    };
    let requirements = request.file().map(|text| file(REQUIREMENTS, text));
    let has_requirements = requirements.is_some();
    let mut ours = false;
    let mut call = match uv {
        Ok((dir, uv)) => {
            let mut call = Call::new(install, [format!("{UV_DIR}/uv").as_str(), "pip", "install"]);
            call.args.push(format!("--python={}", python.executable));
            ours = uv.compile && bytecode::is_ours(&python, &uv.args);
            if uv.compile && !ours {
                call.args.push("--compile-bytecode".to_owned());
            }
            if installer == Installer::Pip {
                // pip looks at all indexes and takes the best version there is.
                call.args
                    .push("--index-strategy=unsafe-best-match".to_owned());
            }
            call.args.extend(uv.args);
            for (name, value) in uv.env {
                call.set(&name, &value);
            }
            if installer == Installer::Pip {
                call.set("UV_NO_CONFIG", "1");
            }
            bring_uv(runner, install, dir, &mut call).await?;
            call
        }
        Err(why) => {
            runner.log.note(&format!("uv is not used: {why}"));
            if !python.pip {
                return Err(StepError::failed(format!(
                    "uv is not used ({why}), and {} has no pip; install it, or take another base",
                    python.executable
                )));
            }
            let mut call = Call::new(
                install,
                [python.executable.as_str(), "-m", "pip", "install"],
            );
            call.args.extend(request.pip_args());
            // The user's own "no cache" is there to keep the cache out of the layer; ours never is.
            call.env.retain(|(name, _)| name != "PIP_NO_CACHE_DIR");
            call.set("PIP_CACHE_DIR", CACHE_DIR);
            call.set("PIP_ROOT_USER_ACTION", "ignore");
            call.set("PIP_DISABLE_PIP_VERSION_CHECK", "1");
            call.set("PIP_PROGRESS_BAR", "off");
            call.mounts.push(bind(
                runner.shared_cache("pip", &install.user).await?,
                CACHE_DIR,
                false,
            ));
            bring_temp_dir(runner, &mut call)?;
            call
        }
    };
    call.mounts.extend(requirements);
    if has_requirements {
        call.args.extend(["-r".to_owned(), REQUIREMENTS.to_owned()]);
    }
    runner.run(call).await?;
    match ours {
        true => bytecode::compile(runner, install, &python.executable).await,
        false => Ok(()),
    }
}

/// Gives a process the builder's uv, in the directory `uv`, with its cache.
async fn bring_uv(
    runner: &Runner<'_>,
    install: &Install,
    uv: PathBuf,
    call: &mut Call,
) -> Result<(), StepError> {
    call.set("UV_CACHE_DIR", CACHE_DIR);
    // The cache is another mount, to which nothing can be linked.
    call.set("UV_LINK_MODE", "copy");
    call.set("UV_PYTHON_DOWNLOADS", "never");
    call.set("UV_NO_PROGRESS", "1");
    call.set("PYC_INVALIDATION_MODE", "CHECKED_HASH");
    call.mounts.push(bind(uv, UV_DIR, true));
    let cache = runner.shared_cache("uv", &install.user).await?;
    call.mounts.push(bind(cache, CACHE_DIR, false));
    bring_temp_dir(runner, call)
}

fn bring_temp_dir(runner: &Runner<'_>, call: &mut Call) -> Result<(), StepError> {
    reproducibly(call);
    call.set("TMPDIR", TEMP_DIR);
    call.mounts.push(bind(runner.temp_dir()?, TEMP_DIR, false));
    Ok(())
}

/// uv's directory and call for a `pip_install`, or why pip has to do it.
async fn choose_uv(
    runner: &Runner<'_>,
    install: &Install,
    request: &requirements::Request,
    python: &Python,
) -> Result<(PathBuf, requirements::UvCall), String> {
    if runner.installer() == settings::Installer::Pip {
        return Err("the setting `build.installer` is `pip`".to_owned());
    }
    let (major, minor) = python.version;
    if python.version < OLDEST_PYTHON {
        return Err(format!("it does not know Python {major}.{minor}"));
    }
    if !matches!(
        python.implementation.as_str(),
        "cpython" | "pypy" | "graalpy"
    ) {
        return Err(format!(
            "it does not know the Python called {}",
            python.implementation
        ));
    }
    if !python.writable {
        return Err("the step's user may not write to Python's packages, and only pip then installs into the home directory".to_owned());
    }
    let call = requirements::for_uv(request, &install.env, &python.config)?;
    Ok((runner.uv().await?, call))
}

/// Looks at the first of `python3` and `python` on the `PATH`.
async fn probe(runner: &mut Runner<'_>, install: &Install) -> Result<Python, StepError> {
    for name in ["python3", "python"] {
        let call = Call::new(install, [name, "-I", "-B", "-c", PROBE]);
        match runner.capture(call).await? {
            None => {}
            Some(output) => {
                return serde_json::from_slice(output.trim_ascii()).map_err(|_| {
                    StepError::failed(format!(
                        "the base's `{name}` does not run: {}",
                        String::from_utf8_lossy(&output).trim()
                    ))
                });
            }
        }
    }
    Err(StepError::failed(
        "the base has no `python3` or `python` on its PATH to install into; take a base with Python, or install it in an earlier step",
    ))
}

fn bind(source: impl Into<PathBuf>, target: &str, read_only: bool) -> Mount {
    debug_assert!(target.starts_with(PRIVATE_DIR));
    Mount::Bind {
        source: source.into(),
        target: target.into(),
        read_only,
    }
}
