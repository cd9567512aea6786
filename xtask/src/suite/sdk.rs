//! Chalk's own Python SDK, unmodified, against a real service: `tests/sdk`, by pytest.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Options;
use super::python::{environment, program};
use crate::host;
use crate::run::{self, Failure, Result, at, command};
use crate::{base, compile, npm, wasm};

/// The distribution on PyPI.
const SDK: &str = "chalkcompute";
/// Longest that one test may take, in seconds.
const TIMEOUT: &str = "240";

/// Runs the suite with the pinned release, then with the newest one, whose failure is only told.
///
/// # Errors
/// When a test fails with the pinned release, or what the tests need cannot be had.
pub(super) fn check(options: &Options) -> Result<String> {
    wasm::fresh()?;
    npm::check_node()?;
    compile::example("declared_hashes")?;
    let chalk = compile::chalk("dev")?;
    let folder = host::workspace().join("tests/sdk");
    let wanted = fs::read_to_string(folder.join("requirements.txt"))
        .map_err(at(&folder.join("requirements.txt")))?;
    let list = folder.join("requirements.txt").display().to_string();
    let words = ["--require-hashes", "--requirement", &list];
    let pinned = environment(&home(), "pinned", &wanted, &words)?;
    tests(&pinned, &chalk, options)?;

    let own = installed(&pinned)?;
    let Ok(newest) = newest(&pinned) else {
        return Ok(format!("{SDK} {own}; PyPI was not asked for the newest"));
    };
    if newest == own {
        return Ok(format!("{SDK} {own}, the newest"));
    }
    let release = format!("{SDK}=={newest}");
    let words = [release.as_str(), "lz4", "pytest", "pytest-timeout"];
    let outcome = environment(&home(), "newest", &release, &words)
        .and_then(|newest| tests(&newest, &chalk, options));
    match outcome {
        Ok(()) => Ok(format!("{SDK} {own}, and the newest, {newest}")),
        Err(Failure::Interrupted) => Err(Failure::Interrupted),
        Err(failure) => {
            eprintln!("{failure}");
            Ok(format!(
                "{SDK} {own}; the newest, {newest}, FAILS: see above"
            ))
        }
    }
}

/// Where the environments lie.
fn home() -> PathBuf {
    host::target().join("sdk")
}

fn tests(environment: &Path, chalk: &Path, options: &Options) -> Result<()> {
    let pytest = program(environment, "pytest");
    // Mounts, and a docker daemon.
    let mut tests = host::as_root(&pytest, ["tests/sdk", "-q", "-p", "no:cacheprovider"])?;
    tests.args(["--timeout", TIMEOUT, "--durations", "5"]);
    if let Some(filter) = &options.filter {
        tests.args(["-k", filter]);
    }
    let target = host::target();
    tests
        .current_dir(host::workspace())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("CHALK_TEST_BASE", base::stand_in()?)
        .env("CHALK_TEST_BIN", chalk)
        .env(
            "CHALK_TEST_HASHES",
            target.join("debug/examples/declared_hashes"),
        )
        .env("CHALK_TEST_PACKAGE", wasm::folder())
        .env("CHALK_TEST_SCRATCH", target.join("sdk"));
    run::run(&mut tests)
}

/// Version of the SDK in an environment.
fn installed(environment: &Path) -> Result<String> {
    let print = format!("import importlib.metadata as m; print(m.version('{SDK}'))");
    let version = run::capture(&mut command(
        &program(environment, "python"),
        ["-c", &print],
    ))?;
    Ok(version.trim().to_owned())
}

/// The newest version that PyPI offers.
fn newest(environment: &Path) -> Result<String> {
    let words = [
        "install",
        "--quiet",
        "--dry-run",
        "--ignore-installed",
        "--no-deps",
        "--report=-",
        SDK,
    ];
    let report = run::capture(&mut command(&program(environment, "pip"), words))?;
    let report: Value = serde_json::from_str(&report).unwrap_or_default();
    let version = report["install"][0]["metadata"]["version"].as_str();
    let version = version.map(str::to_owned);
    version.ok_or_else(|| Failure::Other(format!("pip tells no version of {SDK}")))
}
