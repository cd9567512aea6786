//! Torture of the service: faults at work, and what is left after them (docs/durability.md).

use std::fs;
use std::path::PathBuf;

use crate::compile;
use crate::host::{self, Package, package};
use crate::run::{self, Result, at};

/// What trials use: disks of their own, a tiny base, and the peer.
const PACKAGES: [Package; 4] = [
    package("busybox-static", "/bin/busybox"),
    package("docker-registry", "/usr/bin/docker-registry"),
    package("e2fsprogs", "/sbin/mke2fs"),
    package("mount", "/usr/bin/mount"),
];

#[derive(clap::Args)]
pub(crate) struct Options {
    /// What the harness is told, such as `--seed 1 --trials 1000`; `-- --help` lists it all.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

/// Builds the service with its failpoints, and tortures it.
///
/// # Errors
/// When something cannot be built, or a promise was broken.
pub(crate) fn run(options: &Options) -> Result<()> {
    if let Err(failure) = host::install(&PACKAGES) {
        // Without the peer it goes on; the harness says what it lacks.
        eprintln!("{failure}");
    }
    let (chalk, harness) = build()?;
    let mut torture = host::as_root(&harness.display().to_string(), [])?;
    torture
        .args(&options.words)
        .current_dir(host::workspace())
        .env("CHALK_TEST_BIN", chalk)
        .env("CARGO_TARGET_DIR", host::target());
    run::run(&mut torture)
}

/// Builds the command with the feature `failpoints`, and the harness.
fn build() -> Result<(PathBuf, PathBuf)> {
    let built = compile::programs("dev", &["chalk-torture"], &["failpoints"])?;
    // Aside, so that nobody takes this `chalk` for the one without failpoints.
    let folder = host::target().join("torture");
    fs::create_dir_all(&folder).map_err(at(&folder))?;
    for program in ["chalk", "chalk-torture"] {
        let to = folder.join(program);
        // An old one may run: it is not overwritten.
        let _ = fs::remove_file(&to);
        fs::copy(built.join(program), &to).map_err(at(&to))?;
    }
    Ok((folder.join("chalk"), folder.join("chalk-torture")))
}
