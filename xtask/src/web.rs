//! The page, built into `web/dist`, from where the service's build takes it.

use std::path::PathBuf;

use crate::host;
use crate::npm;
use crate::run::Result;
use crate::stamp::Stamp;
use crate::wasm;

const SOURCES: [&str; 8] = [
    "wasm/dist",
    "web/build",
    "web/index.html",
    "web/package-lock.json",
    "web/package.json",
    "web/src",
    "web/tsconfig.json",
    "web/vite.config.ts",
];

/// Where the page lies.
pub(crate) fn folder() -> PathBuf {
    host::workspace().join("web")
}

/// Builds the npm package if its sources changed since, then the page.
///
/// # Errors
/// When a build fails, or the first load of the page is over its budget.
pub(crate) fn run() -> Result<()> {
    wasm::fresh()?;
    npm::install(&folder())?;
    let stamp = Stamp::of("web", SOURCES)?;
    npm::script(&folder(), "build")?;
    stamp.keep()
}

/// The page as its sources are now; built only when they changed.
///
/// # Errors
/// As [`run`].
pub(crate) fn fresh() -> Result<()> {
    wasm::fresh()?;
    let built = folder().join("dist/index.html").exists();
    if built && Stamp::of("web", SOURCES)?.is_fresh() {
        return Ok(());
    }
    run()
}
