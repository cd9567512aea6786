//! Words of `chalk token`.

use chalk_core::wire::Role;
use clap::Subcommand;

/// Verbs of `chalk token`.
#[derive(Debug, Subcommand)]
pub(crate) enum ClientToken {
    /// Make a token and print it; it is shown only this once
    Create {
        /// What it is for
        #[arg(long)]
        name: String,
        /// What it allows, each of them looking, too: `read`, `build` (images, volumes,
        /// sandboxes), `warm`, `admin` (may be repeated) [default: build]
        #[arg(long = "role", value_name = "ROLE", value_delimiter = ',')]
        roles: Vec<Role>,
        /// Project that it belongs to [default: default]
        #[arg(long)]
        project: Option<String>,
        /// When it ends: in a length of time such as `90d`, or at a time such as
        /// 2030-01-01T00:00:00Z [default: never]
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
    },
    /// List tokens
    #[command(visible_alias = "list")]
    Ls,
    /// Revoke tokens, and the access tokens that were made for them
    Revoke {
        /// Identifiers
        #[arg(required = true)]
        ids: Vec<String>,
    },
}
