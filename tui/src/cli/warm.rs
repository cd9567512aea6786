//! Words of `chalk compute image warm`.

use clap::Args;

use super::{DockerfileFlags, Progress};

/// Brings images to nodes, or looks after a warm by its id.
#[derive(Debug, Args)]
#[group(id = "what", required = true, multiple = true, args = ["images", "follow", "cancel", "retry"])]
pub(crate) struct Warm {
    /// Hash prefix or name of an image, or a declaration file (may be repeated)
    #[arg(long = "image", value_name = "IMAGE", conflicts_with_all = ["follow", "cancel", "retry"])]
    pub(crate) images: Vec<String>,
    /// Only this node (may be repeated) [default: every node]
    #[arg(long = "node", value_name = "NAME")]
    pub(crate) nodes: Vec<String>,
    /// Only nodes with this label (may be repeated)
    #[arg(long = "label", value_name = "K=V")]
    pub(crate) labels: Vec<String>,
    /// Only nodes of this region
    #[arg(long)]
    pub(crate) region: Option<String>,
    /// Every node, said aloud
    #[arg(long, conflicts_with_all = ["nodes", "labels", "region"])]
    pub(crate) all: bool,
    /// Keep the images there, whatever else is evicted
    #[arg(long)]
    pub(crate) pin: bool,
    /// Wait until every node is ready or has failed
    #[arg(long)]
    pub(crate) wait: bool,
    /// What is not ready by then has failed [default: 1 day]
    #[arg(long, value_name = "TIME")]
    pub(crate) timeout: Option<String>,
    /// Follow a warm to its end
    #[arg(long, value_name = "ID", conflicts_with_all = ["cancel", "retry"])]
    pub(crate) follow: Option<String>,
    /// Cancel what is not ready of a warm
    #[arg(long, value_name = "ID", conflicts_with = "retry")]
    pub(crate) cancel: Option<String>,
    /// Begin again where a warm failed
    #[arg(long, value_name = "ID")]
    pub(crate) retry: Option<String>,
    /// How progress is shown on standard error
    #[arg(long, value_enum, default_value_t = Progress::Auto, env = "CHALK_PROGRESS")]
    pub(crate) progress: Progress,
    #[command(flatten)]
    pub(crate) dockerfile: DockerfileFlags,
}
