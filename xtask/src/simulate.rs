//! A service with made-up activity, for looking at the terminal app and measuring it under load.

use crate::compile;
use crate::run::{self, Result, command};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Profile to build it in; by `dev` it starts slowly and takes a core.
    #[arg(long, default_value = "release")]
    profile: String,
    /// What the simulator is told, such as `--nodes 1000 --images 10000 --builds 50`; `-- --help`
    /// lists it all.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

/// Builds the simulator and runs it until it is interrupted.
///
/// # Errors
/// When it cannot be built, does not start, or is interrupted.
pub(crate) fn run(options: &Options) -> Result<()> {
    let folder = compile::programs(&options.profile, &["chalk-simulate"], &[])?;
    let program = folder.join("chalk-simulate");
    run::run(&mut command(&program.display().to_string(), &options.words))
}
