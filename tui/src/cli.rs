//! The words of the command.

mod deferred;
mod node;
mod project;
mod sandbox;
mod token;
mod verify;
mod warm;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use deferred::Deferred;
pub(crate) use node::{Agent, Cache, Node, NodeCommand, Prewarm, Token};
pub(crate) use project::{Audit, Project, Quotas};
pub(crate) use sandbox::{Exec, Network, Process, Run, Sandbox};
pub(crate) use token::ClientToken;
pub(crate) use verify::Verify;
pub(crate) use warm::Warm;

/// Build and cache container images for compute workloads.
#[derive(Debug, Parser)]
#[command(name = "chalk", version, disable_help_subcommand = true)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(flatten)]
    pub(crate) app: App,
    /// Without one, the terminal app is opened
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What is meant for the terminal app alone.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Terminal app (without a command)")]
pub(crate) struct App {
    /// Declaration to open [default: the one in this directory]
    #[arg(long, value_name = "FILE")]
    pub(crate) open: Option<PathBuf>,
    /// Change nothing outside the app
    #[arg(long)]
    pub(crate) readonly: bool,
    /// Secret for the steps that name it: `NAME` (from the environment), `NAME=env:VAR` or
    /// `NAME=file:PATH`
    #[arg(long = "secret", value_name = "NAME[=SOURCE]")]
    pub(crate) secrets: Vec<String>,
}

impl App {
    /// A flag of it that was given.
    pub(crate) fn given(&self) -> Option<&'static str> {
        if self.open.is_some() {
            Some("--open")
        } else if self.readonly {
            Some("--readonly")
        } else if self.secrets.is_empty() {
            None
        } else {
            Some("--secret")
        }
    }
}

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    the build or warm failed, images differ (verify), a check failed (doctor), or the sandbox could not go on
  2    bad usage or bad spec
  3    service, registry or node not reachable, or it refused
  4    not found or ambiguous
  5    partly done: some nodes of a warm
  130  interrupted
A sandbox passes its own code on.

Settings come from flags, then CHALK_* variables, then --config FILE, then defaults;
`chalk config show` prints each with where it came from.";

const DOCTOR: &str = "\
Looks at the kernel, overlay and EROFS, namespaces, control groups, the disk of the state directory,
the registry, the clock, proxies and certificates, for the user who runs it. Changes nothing: what it
tries is gone when it ends.

Exit codes: 0 nothing failed (there may be warnings); 1 something fails.";

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// Directory of the service's state [default: XDG state directory, /var/lib/chalk as root]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Address of a running service [default: the one on the state directory, else in this process]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// TOML file with settings
    #[arg(long, global = true, value_name = "FILE", env = "CHALK_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// One setting, over everything else (may be repeated)
    #[arg(long = "set", global = true, value_name = "NAME=VALUE")]
    pub(crate) set: Vec<String>,
    /// Print JSON on standard output
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the build service with its registry
    Serve(Serve),
    /// Print the address of the running service's page, with its token
    Web,
    /// Images, nodes and sandboxes
    #[command(subcommand)]
    Compute(Deferred<Compute>),
    /// Run a node; with a verb short for `chalk compute node`
    Node(Deferred<NodeCommand>),
    /// Short for `chalk compute image`
    #[command(subcommand)]
    Image(Deferred<Image>),
    /// Short for `chalk compute sandbox`
    #[command(subcommand)]
    Sandbox(Deferred<Sandbox>),
    /// Tokens of people and programs that use the service
    #[command(subcommand)]
    Token(Deferred<ClientToken>),
    /// Free what the service keeps and nobody needs, as its settings `gc.*` say
    Gc(Gc),
    /// Projects: what their tokens share, and how much of it
    #[command(subcommand)]
    Project(Deferred<Project>),
    /// Who changed what, newest first; for administrators
    Audit(Audit),
    /// Check whether this host can build and run images, and say what to change
    #[command(after_help = DOCTOR)]
    Doctor,
    /// Settings
    #[command(subcommand)]
    Config(Config),
    /// Print a completion script for a shell
    Completions {
        /// Shell to complete for
        shell: clap_complete::Shell,
    },
    /// Write the manual pages of all commands into a folder, for packages
    #[command(hide = true)]
    ManPages {
        /// Folder that is there
        folder: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Address to listen on [default: 127.0.0.1:7474]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen: Option<String>,
    /// Rebuild the database from the registry before serving
    #[arg(long)]
    pub(crate) reindex: bool,
    /// Run a node in this process, too
    #[arg(long)]
    pub(crate) node: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Gc {
    /// Free nothing: say what would go and what that would free, and why everything else stays
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Say of everything that stays why it does, too
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Compute {
    /// Declare, build, warm and look at images
    #[command(subcommand)]
    Image(Deferred<Image>),
    /// Look after nodes, their caches, and what they keep ready
    #[command(subcommand)]
    Node(Deferred<Node>),
    /// Run commands on images
    #[command(subcommand)]
    Sandbox(Deferred<Sandbox>),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Print every setting, its value and where it came from
    Show,
    /// Check the settings and the terminal app's configuration, with line and field of each mistake
    Check {
        /// Configuration of the app [default: chalk/app.toml in the XDG configuration directory]
        file: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Image {
    /// Build an image, or find that it is there already
    Build(Deferred<Build>),
    /// Print the hash of a declaration
    Hash(Deferred<Hash>),
    /// Show what a build would do, without doing it
    Plan(Deferred<File>),
    /// Compare two declarations or images
    Diff {
        /// Declaration file, hash prefix or name
        a: String,
        /// Declaration file, hash prefix or name
        b: String,
    },
    /// Say why a build would rerun steps, against the last build of that name
    Why(Deferred<Why>),
    /// Pin the base images of a declaration in `image.lock` beside it
    Lock(Deferred<Lock>),
    /// List images
    #[command(visible_alias = "list")]
    Ls {
        /// Only images with this name
        #[arg(long)]
        name: Option<String>,
    },
    /// Show one image
    Show {
        /// Hash prefix or name
        image: String,
    },
    /// Build an image anew and compare it with the published one, file by file
    Verify(Deferred<Verify>),
    /// Print the log of a build
    Logs {
        /// Build id, or hash prefix or name of its image
        build: String,
        /// Only this step (counted from 1)
        #[arg(long)]
        step: Option<usize>,
        /// Go on until the build ends
        #[arg(long, short)]
        follow: bool,
    },
    /// List builds, newest first
    Builds {
        /// At most this many
        #[arg(long, default_value_t = 20)]
        limit: usize,
        /// Only builds under this name
        #[arg(long)]
        name: Option<String>,
    },
    /// Cancel a running build
    Cancel {
        /// Build id
        build: String,
    },
    /// Bring images into the caches of nodes ahead of any sandbox
    Warm(Deferred<Warm>),
    /// List warms, newest first, or show one
    Warms {
        /// Id of a warm
        warm: Option<String>,
        /// At most this many
        #[arg(long, default_value_t = 20)]
        limit: usize,
        /// Only warms of this image
        #[arg(long)]
        image: Option<String>,
    },
    /// Give an image a name
    Tag {
        /// Hash prefix or name
        image: String,
        /// `repository[:tag]`
        name: String,
    },
    /// Remove an image, or only a name of it
    Rm {
        /// Hash prefixes or names
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Bring in a base image: OCI layout or archive, `docker save` tar, root-filesystem tar
    Import {
        /// File or directory; `-` is standard input
        path: PathBuf,
        /// Reference that declarations name as their base
        #[arg(long = "as", value_name = "REF")]
        reference: String,
        /// Platform of the image [default: linux/amd64]
        #[arg(long)]
        platform: Option<String>,
    },
    /// Print a declaration as an equivalent Dockerfile
    Dockerfile {
        /// Declaration file, hash prefix or name
        file: String,
    },
    /// Print a declaration as spec JSON, its local files replaced by digests
    Spec {
        /// Declaration file, hash prefix or name
        file: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct File {
    /// `image.toml`, Dockerfile, spec JSON, or the hash prefix of an image
    pub(crate) file: String,
    #[command(flatten)]
    pub(crate) dockerfile: DockerfileFlags,
}

/// What `docker build` takes for a Dockerfile.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct DockerfileFlags {
    /// Build argument of a Dockerfile
    #[arg(long = "build-arg", value_name = "NAME=VALUE")]
    pub(crate) build_args: Vec<String>,
    /// Stage of a Dockerfile to build
    #[arg(long)]
    pub(crate) target: Option<String>,
    /// Build context of a Dockerfile [default: the directory that it lies in]
    #[arg(long, value_name = "DIR")]
    pub(crate) context: Option<PathBuf>,
    /// Platform of the image, over the declaration's [default: linux/amd64]
    #[arg(long)]
    pub(crate) platform: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Build {
    #[command(flatten)]
    pub(crate) file: File,
    /// How progress is shown on standard error
    #[arg(long, value_enum, default_value_t = Progress::Auto, env = "CHALK_PROGRESS")]
    pub(crate) progress: Progress,
    /// File the image under this name, `repository[:tag]`
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Run every step even when cached
    #[arg(long)]
    pub(crate) force: bool,
    /// Print the id of the build and leave it running
    #[arg(long)]
    pub(crate) detach: bool,
    /// Secret for the steps that name it: `NAME` (from the environment), `NAME=env:VAR` or
    /// `NAME=file:PATH`
    #[arg(long = "secret", value_name = "NAME[=SOURCE]")]
    pub(crate) secrets: Vec<String>,
    /// Compression of new layers: zstd, gzip or none [default: the service's setting]
    #[arg(long)]
    pub(crate) compression: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Progress {
    /// `tty` on a terminal, else `plain`
    Auto,
    /// A live view; needs a terminal
    Tty,
    /// Lines
    Plain,
    /// One JSON event a line
    Rawjson,
    /// Nothing
    Quiet,
}

#[derive(Debug, Args)]
pub(crate) struct Hash {
    #[command(flatten)]
    pub(crate) file: File,
    /// Ask nobody for the digest of the base
    #[arg(long)]
    pub(crate) offline: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Why {
    #[command(flatten)]
    pub(crate) file: File,
    /// Name of the build to compare with [default: the declaration's name, else the last build of
    /// this file's directory name]
    #[arg(long)]
    pub(crate) name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Lock {
    #[command(flatten)]
    pub(crate) file: File,
    /// Look the tags up again even when they are pinned
    #[arg(long)]
    pub(crate) update: bool,
}
