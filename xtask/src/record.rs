//! The recording of the terminal app and its pictures in the documentation.

use crate::run::{self, Result};
use crate::{base, compile, host};

/// Records `docs/app.cast` and draws `docs/app/*.svg`, from the release build.
///
/// # Errors
/// When something cannot be built, or the app does not show what is to be seen.
pub(crate) fn run() -> Result<()> {
    let base = base::stand_in()?;
    compile::programs("release", &["chalk-record", "chalk-simulate"], &[])?;
    let mut record = host::driver("chalk-record")?;
    let docs = host::workspace().join("docs");
    run::run(record.arg(docs).env("CHALK_TEST_BASE", &base))
}
