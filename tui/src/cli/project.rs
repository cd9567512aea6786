//! Words of `chalk project` and `chalk audit`.

use clap::{Args, Subcommand};

/// Verbs of `chalk project`.
#[derive(Debug, Subcommand)]
pub(crate) enum Project {
    /// Make a project, whose tokens see and change what is its own and nothing else
    Create {
        /// Name: lower-case letters, digits and hyphens; its images are called `NAME/…`
        name: String,
        #[command(flatten)]
        quotas: Quotas,
    },
    /// List projects with what they take and may take
    #[command(visible_alias = "list")]
    Ls,
    /// Set what a project may take; what is not named stays as it is
    Set {
        /// Name
        name: String,
        #[command(flatten)]
        quotas: Quotas,
    },
    /// Remove projects: their tokens end, and their names are not given again
    Rm {
        /// Names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

/// What a project may take.
#[derive(Debug, Args)]
pub(crate) struct Quotas {
    /// Builds that wait or run at once; `none` for any number
    #[arg(long, value_name = "N")]
    pub(crate) builds: Option<String>,
    /// Bytes of its images, pushes, uploads and volumes, such as `50 GiB`; `none` for any number
    #[arg(long, value_name = "SIZE")]
    pub(crate) storage: Option<String>,
}

/// Options of `chalk audit`.
#[derive(Debug, Args)]
pub(crate) struct Audit {
    /// Most entries to show
    #[arg(long, short = 'n', default_value_t = 50)]
    pub(crate) limit: usize,
    /// Only entries before this number
    #[arg(long, value_name = "NUMBER")]
    pub(crate) before: Option<u64>,
    /// Only of this one: `admin`, `client:ID`, `node:NAME`, or the name of a token
    #[arg(long)]
    pub(crate) who: Option<String>,
    /// Only actions that begin so: `image.delete`, `token.`
    #[arg(long)]
    pub(crate) action: Option<String>,
    /// Only in this project
    #[arg(long)]
    pub(crate) project: Option<String>,
}
