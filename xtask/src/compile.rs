//! Compiling what the tasks run.
//!
//! Cargo unites the features of all packages that are chosen, so that every other choice compiles tokio, all above
//! it and our own crates once more. The suites choose the whole workspace with its tests; what is measured or
//! recorded is chosen with `chalk` and without tests; `chalk` alone is what users build.

use std::path::PathBuf;

use serde_json::Value;

use crate::host::{cargo, target};
use crate::run::{self, Failure, Result};

/// Builds the `chalk` command in a profile and returns its path; in the profile `dev`, as the suites use it.
///
/// # Errors
/// When it does not compile.
pub(crate) fn chalk(profile: &str) -> Result<PathBuf> {
    if profile == "dev" {
        return for_suites(["--bin", "chalk"], "chalk");
    }
    let words = [
        "build",
        "--quiet",
        "--locked",
        "--package",
        "chalk",
        "--profile",
        profile,
    ];
    run::run(&mut cargo(words))?;
    Ok(folder(profile).join("chalk"))
}

/// Builds an example of any crate as the suites use it, and returns the path of its program.
///
/// # Errors
/// When it does not compile.
pub(crate) fn example(name: &str) -> Result<PathBuf> {
    for_suites(["--example", name], name)
}

/// Builds the whole-system tests, and returns the path of their program.
///
/// # Errors
/// When they do not compile.
pub(crate) fn system_tests() -> Result<PathBuf> {
    for_suites([], "system")
}

/// Builds `chalk` and programs of `chalk-tests` in a profile, with features of `chalk`, and returns the folder
/// that they lie in.
///
/// # Errors
/// When one does not compile.
pub(crate) fn programs(profile: &str, names: &[&str], features: &[&str]) -> Result<PathBuf> {
    let words = ["build", "--quiet", "--locked", "--profile", profile];
    let mut build = cargo(words);
    build.args(["--package", "chalk", "--package", "chalk-tests"]);
    build.args(["--features", "chalk-tests/programs"]);
    for feature in features {
        build.args(["--features", &format!("chalk/{feature}")]);
    }
    build.args(["--bin", "chalk"]);
    for name in names {
        build.args(["--bin", name]);
    }
    run::run(&mut build)?;
    Ok(folder(profile))
}

/// Builds the whole-system tests and `more`, and returns the path of the program of the target `name`.
fn for_suites<'a>(more: impl IntoIterator<Item = &'a str>, name: &str) -> Result<PathBuf> {
    let words = [
        "build",
        "--quiet",
        "--locked",
        "--workspace",
        "--test",
        "system",
    ];
    let mut build = cargo(words);
    build
        .args(more)
        .arg("--message-format=json-render-diagnostics");
    let messages = run::capture_stdout(&mut build)?;
    let messages = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let programs = messages.filter(|message| message["target"]["name"] == name);
    let mut paths =
        programs.filter_map(|message| message["executable"].as_str().map(PathBuf::from));
    paths
        .next()
        .ok_or_else(|| Failure::Other(format!("cargo names no program {name}")))
}

/// Where cargo files what it builds in a profile: `dev` under `debug`.
fn folder(profile: &str) -> PathBuf {
    target().join(if profile == "dev" { "debug" } else { profile })
}
