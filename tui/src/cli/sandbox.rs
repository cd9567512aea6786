//! Words of `chalk compute sandbox`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::DockerfileFlags;

/// Verbs of `chalk compute sandbox`.
#[derive(Debug, Subcommand)]
pub(crate) enum Sandbox {
    /// Run a command on an image; what it writes is gone with it
    Run(Box<Run>),
    /// List sandboxes
    #[command(visible_alias = "list")]
    Ls {
        /// Ended ones too
        #[arg(long, short)]
        all: bool,
        /// Only on this node
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
        /// Only of this image
        #[arg(long)]
        image: Option<String>,
    },
    /// Show one sandbox
    Show {
        /// Prefix of its id, or its name
        sandbox: String,
    },
    /// Run a further command in a running sandbox
    Exec(Exec),
    /// Copy a file into or out of a running sandbox
    Cp {
        /// `FILE`, `SANDBOX:PATH`, or `-` for standard input
        #[arg(value_name = "SRC")]
        from: String,
        /// `SANDBOX:PATH`, `FILE`, or `-` for standard output
        #[arg(value_name = "DEST")]
        to: String,
    },
    /// Print what a sandbox printed
    Logs {
        /// Prefix of its id, or its name
        sandbox: String,
        /// Go on until it ends
        #[arg(long, short)]
        follow: bool,
        /// Only what came after this event
        #[arg(long, value_name = "N", default_value_t = 0)]
        since_seq: u64,
        /// Process of the sandbox
        #[arg(long, value_name = "ID", default_value = "main")]
        process: String,
    },
    /// Follow a running sandbox, and give it input
    Attach {
        /// Prefix of its id, or its name
        sandbox: String,
        /// Show only what came after this event
        #[arg(long, value_name = "N", default_value_t = 0)]
        since_seq: u64,
        /// Give it no input
        #[arg(long)]
        no_stdin: bool,
    },
    /// Stop sandboxes: the image's stop signal, then the kill
    Stop {
        /// Prefixes of their ids, or their names
        #[arg(required = true)]
        sandboxes: Vec<String>,
        /// Time between signal and kill [default: 10s]
        #[arg(long, value_name = "TIME")]
        grace: Option<String>,
    },
    /// Forget ended sandboxes and their output
    Rm {
        /// Prefixes of their ids, or their names
        #[arg(required = true)]
        sandboxes: Vec<String>,
        /// Kill those that run
        #[arg(long, short)]
        force: bool,
    },
}

/// A sandbox to run.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Hash prefix, name or reference of an image, or a declaration file: its mounted files are
    /// taken along
    #[arg(long, value_name = "IMAGE")]
    pub(crate) image: String,
    /// Command [default: that of the image]
    #[arg(last = true, value_name = "CMD")]
    pub(crate) args: Vec<String>,
    #[command(flatten)]
    pub(crate) process: Process,
    /// Run no command: the sandbox waits for `exec` and `cp` until it is stopped
    #[arg(long, conflicts_with_all = ["args", "entrypoint", "interactive", "tty"])]
    pub(crate) idle: bool,
    /// Name to find it by, as long as it lives
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Tag (may be repeated)
    #[arg(long = "tag", value_name = "K=V")]
    pub(crate) tags: Vec<String>,
    /// Over the image's entrypoint; empty takes it away
    #[arg(long, value_name = "WORDS")]
    pub(crate) entrypoint: Option<String>,
    /// File or directory over the image; read-only without `:rw`
    #[arg(long = "mount", value_name = "SRC:DEST[:rw]")]
    pub(crate) mounts: Vec<String>,
    /// Processor cores, such as 0.5
    #[arg(long, visible_alias = "cpus", value_name = "N")]
    pub(crate) cpu: Option<f64>,
    /// Memory, such as 512m or 2GiB
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<String>,
    /// Processes and threads
    #[arg(long, value_name = "N")]
    pub(crate) pids: Option<u32>,
    /// What it may write [default: setting of the node]
    #[arg(long, value_name = "SIZE")]
    pub(crate) disk: Option<String>,
    /// Time until it is stopped
    #[arg(long, value_name = "TIME")]
    pub(crate) timeout: Option<String>,
    /// Network inside
    #[arg(long, value_enum, default_value_t = Network::Host)]
    pub(crate) network: Network,
    /// GPUs: `all` or a number
    #[arg(long, value_name = "all|N")]
    pub(crate) gpus: Option<String>,
    /// Further device by its CDI name
    #[arg(long = "device", value_name = "VENDOR/CLASS=NAME")]
    pub(crate) devices: Vec<String>,
    /// Print the id and leave it running
    #[arg(long, short)]
    pub(crate) detach: bool,
    /// Only on this node
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,
    /// Only in this region
    #[arg(long)]
    pub(crate) region: Option<String>,
    /// Only on nodes with this label (may be repeated)
    #[arg(long = "label", value_name = "K=V")]
    pub(crate) labels: Vec<String>,
    /// Make `/` read-only
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Host name inside [default: the sandbox's id]
    #[arg(long, value_name = "NAME")]
    pub(crate) hostname: Option<String>,
    #[command(flatten)]
    pub(crate) dockerfile: DockerfileFlags,
}

/// A further command.
#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// Prefix of the sandbox's id, or its name
    pub(crate) sandbox: String,
    /// Command
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) args: Vec<String>,
    /// Time after which it is killed
    #[arg(long, value_name = "TIME")]
    pub(crate) timeout: Option<String>,
    #[command(flatten)]
    pub(crate) process: Process,
}

/// What every process may be given.
#[derive(Debug, Args)]
pub(crate) struct Process {
    /// Variable; a name alone takes its value from the environment
    #[arg(long = "env", short, value_name = "K[=V]")]
    pub(crate) env: Vec<String>,
    /// File with a variable a line
    #[arg(long = "env-file", value_name = "FILE")]
    pub(crate) env_files: Vec<PathBuf>,
    /// Working directory
    #[arg(long, short = 'w', value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// User: name or number, and `:group`
    #[arg(long, short = 'u')]
    pub(crate) user: Option<String>,
    /// Pass standard input on
    #[arg(long, short)]
    pub(crate) interactive: bool,
    /// Give it a terminal
    #[arg(long, short)]
    pub(crate) tty: bool,
}

/// Network of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Network {
    /// That of the node
    Host,
    /// Nothing but loopback
    None,
}
