//! Words of `chalk compute image verify`.

use clap::Args;

use super::Progress;

/// Arguments of `verify`.
#[derive(Debug, Args)]
#[command(after_help = "\
Every step runs again from empty caches, on the same bases; nothing is kept or published. Steps of
their own words (`pip_install`, `apt_install`, `add_local_dir` ...) give the same files whenever they
install the same versions; what `run_commands` leaves behind is up to the commands.

Exit codes: 0 identical; 1 different, or the build failed.")]
pub(crate) struct Verify {
    /// Hash prefix or name
    pub(crate) image: String,
    /// How progress is shown on standard error
    #[arg(long, value_enum, default_value_t = Progress::Auto, env = "CHALK_PROGRESS")]
    pub(crate) progress: Progress,
    /// Secret for the steps that name it: `NAME` (from the environment), `NAME=env:VAR` or
    /// `NAME=file:PATH`
    #[arg(long = "secret", value_name = "NAME[=SOURCE]")]
    pub(crate) secrets: Vec<String>,
}
