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
    let mut record = host::driver("chalk-record", &chalk)?;
    let docs = host::workspace().join("docs");
    run::run(record.arg(docs).env("CHALK_TEST_BASE", &base))
}
