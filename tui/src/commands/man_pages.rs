//! `man-pages`: the manual pages, made from the same table of words that reads the command line.

use std::path::Path;

use chalk_core::wire::exit;
use clap::CommandFactory as _;

use crate::cli::Cli;
use crate::error::Failure;

/// Writes a page of every command that is not hidden, `chalk-compute-image-build.1`.
pub(crate) fn write(folder: &Path) -> Result<(), Failure> {
    clap_mangen::generate_to(Cli::command(), folder).map_err(|e| {
        let what = format!("cannot write manual pages into {}", folder.display());
        Failure::new(exit::FAILED, what).why(e)
    })
}
