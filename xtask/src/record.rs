//! The recording of the terminal app and its pictures in the documentation.

use crate::base;
use crate::host::{self, cargo};
use crate::run::{self, Result};

/// Records `docs/app.cast` and draws `docs/app/*.svg`, from the release build.
///
/// # Errors
/// When something cannot be built, or the app does not show what is to be seen.
pub(crate) fn run() -> Result<()> {
    let base = base::stand_in()?;
    let chalk = host::build_chalk("release")?;
    let words = ["--quiet", "--locked", "--release", "--package"];
    let programs = [
        "chalk-tests",
        "--bin",
        "chalk-record",
        "--bin",
        "chalk-simulate",
    ];
    run::run(cargo(["build"]).args(words).args(programs))?;
    let release = host::target().join("release");
    let docs = host::workspace().join("docs").display().to_string();
    let program = release.join("chalk-record").display().to_string();
    // As root, as build steps need it.
    let mut record = host::as_root(&program, [docs.as_str()])?;
    record
        .env("CHALK_TEST_BIN", &chalk)
        .env("CHALK_TEST_SIMULATOR", release.join("chalk-simulate"))
        .env("CHALK_TEST_BASE", &base)
        .env("CARGO_TARGET_DIR", host::target());
    run::run(&mut record)
}
