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

/// Builds the page, and prints the sizes of what its first load fetches.
///
/// # Errors
/// When a build fails, or the first load is over its budget.
pub(crate) fn run() -> Result<()> {
    wasm::fresh()?;
    build()?;
    sizes()
}

/// As [`run()`], but builds only when sources changed.
///
/// # Errors
/// As [`run()`].
pub(crate) fn check() -> Result<()> {
    fresh()?;
    sizes()
}

/// The page as its sources are now; built only when they changed.
///
/// # Errors
/// When a build fails.
pub(crate) fn fresh() -> Result<()> {
    wasm::fresh()?;
    npm::install(&folder())?;
    let built = folder().join("dist/index.html").exists();
    if built && Stamp::of("web", SOURCES)?.is_fresh() {
        return Ok(());
    }
    build()
}

fn build() -> Result<()> {
    npm::install(&folder())?;
    let stamp = Stamp::of("web", SOURCES)?;
    npm::script(&folder(), "build")?;
    stamp.keep()
}

fn sizes() -> Result<()> {
    npm::script(&folder(), "sizes")
}
