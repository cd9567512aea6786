//! Words of `chalk node` and `chalk compute node`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `chalk node`: the agent, or with a verb short for `chalk compute node`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct NodeCommand {
    #[command(subcommand)]
    pub(crate) verb: Option<Node>,
    #[command(flatten)]
    pub(crate) agent: Agent,
}

/// What a node is started with. Every flag is a setting (`chalk config show`, `node.*`).
#[derive(Debug, Default, Args)]
pub(crate) struct Agent {
    /// Name, unique within the service [default: name of the host]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Region [default: the service's home region]
    #[arg(long)]
    pub(crate) region: Option<String>,
    /// Labels by which warms and sandboxes choose nodes
    #[arg(long, visible_alias = "label", value_name = "K=V,K=V")]
    pub(crate) labels: Vec<String>,
    /// What keeps the images: `chalk`, the node itself, which runs sandboxes from them, or
    /// `containerd`, for the containers of Kubernetes or nerdctl [default: chalk]
    #[arg(long, value_name = "WORD")]
    pub(crate) runtime: Option<String>,
    /// Socket of that containerd [default: /run/containerd/containerd.sock]
    #[arg(long, value_name = "PATH")]
    pub(crate) containerd_address: Option<String>,
    /// Most that layers and mounted files may take [default: 200GiB, at most 80 % of the disk]
    #[arg(long, value_name = "SIZE")]
    pub(crate) cache_size: Option<String>,
    /// Token to join by; other users of the host can see it, so better give a file or the variable
    #[arg(
        long,
        value_name = "TOKEN",
        env = "CHALK_NODE_JOIN_TOKEN",
        hide_env_values = true
    )]
    pub(crate) join_token: Option<String>,
    /// File with the token to join by
    #[arg(long, value_name = "FILE", conflicts_with = "join_token")]
    pub(crate) join_token_file: Option<PathBuf>,
    /// Serve blobs to other nodes on this address
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) mirror_listen: Option<String>,
    /// Address under which other nodes reach that
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(crate) mirror_advertise: Option<String>,
    /// Mirrors to ask before a registry: `docker.io=http://mirror:5000`
    #[arg(long = "registry-mirror", value_name = "REGISTRY=URL")]
    pub(crate) registry_mirrors: Vec<String>,
}

impl Agent {
    /// The flags as settings: path, value and flag.
    pub(crate) fn settings(&self) -> Vec<(&'static str, String, &'static str)> {
        let mut set = Vec::new();
        let mut put = |path, value: Option<String>, flag| {
            if let Some(value) = value {
                set.push((path, value, flag));
            }
        };
        let joined = |list: &[String]| (!list.is_empty()).then(|| list.join(","));
        let file = self.join_token_file.as_ref();
        put("node.name", self.name.clone(), "--name");
        put("node.region", self.region.clone(), "--region");
        put("node.labels", joined(&self.labels), "--labels");
        put("node.runtime", self.runtime.clone(), "--runtime");
        put(
            "node.containerd.address",
            self.containerd_address.clone(),
            "--containerd-address",
        );
        put("node.cache_size", self.cache_size.clone(), "--cache-size");
        put(
            "node.join_token_file",
            file.map(|path| path.display().to_string()),
            "--join-token-file",
        );
        put(
            "node.mirror_listen",
            self.mirror_listen.clone(),
            "--mirror-listen",
        );
        put(
            "node.mirror_advertise",
            self.mirror_advertise.clone(),
            "--mirror-advertise",
        );
        put(
            "node.registry_mirrors",
            joined(&self.registry_mirrors),
            "--registry-mirror",
        );
        set
    }
}

/// Verbs of `chalk compute node`.
#[derive(Debug, Subcommand)]
pub(crate) enum Node {
    /// List nodes
    #[command(visible_alias = "list")]
    Ls,
    /// Show one node
    Show {
        /// Name
        node: String,
    },
    /// Give a node no new work; what runs there goes on
    Drain {
        /// Name
        node: String,
    },
    /// Give a drained node work again
    Undrain {
        /// Name
        node: String,
    },
    /// Remove nodes for good; their sandboxes end
    Rm {
        /// Names
        #[arg(required = true)]
        nodes: Vec<String>,
    },
    /// Tokens by which nodes join
    #[command(subcommand)]
    Token(Token),
    /// What the caches of nodes hold, and why
    #[command(subcommand)]
    Cache(Cache),
    /// Base images that every node keeps ready
    #[command(subcommand)]
    Prewarm(Prewarm),
}

/// Verbs of `chalk compute node token`.
#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Make a token and print it; it is shown only this once
    Create {
        /// Only for nodes of this region
        #[arg(long)]
        region: Option<String>,
        /// How long it is good for [default: 1 day]
        #[arg(long, value_name = "TIME")]
        ttl: Option<String>,
        /// How many nodes may join with it [default: any number]
        #[arg(long)]
        uses: Option<u32>,
    },
    /// List tokens, without the tokens themselves
    #[command(visible_alias = "list")]
    Ls,
    /// Take tokens back; nodes that joined with them stay
    Revoke {
        /// Identifiers
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

/// Verbs of `chalk compute node cache`.
#[derive(Debug, Subcommand)]
pub(crate) enum Cache {
    /// List images, or everything with the reason why it is kept
    #[command(visible_alias = "list")]
    Ls {
        /// Name of a node [default: every connected node]
        node: Option<String>,
        /// Everything that takes room: layers, blobs, mounted files
        #[arg(long)]
        all: bool,
    },
    /// Remove an image from a node's cache, its pins included
    Rm {
        /// Name of a node
        node: String,
        /// Hash prefix, name, or digest of the manifest
        image: String,
    },
    /// Let an image go that a warm pinned, once room is needed
    Unpin {
        /// Name of a node
        node: String,
        /// Hash prefix, name, or digest of the manifest
        image: String,
    },
    /// Free what may go
    Gc {
        /// Name of a node [default: every connected node]
        node: Option<String>,
        /// Only say what would go, and why the rest is kept
        #[arg(long)]
        dry_run: bool,
        /// Free only until at most this much is used
        #[arg(long, value_name = "SIZE")]
        target: Option<String>,
    },
}

/// Verbs of `chalk compute node prewarm`.
#[derive(Debug, Subcommand)]
pub(crate) enum Prewarm {
    /// Show the list and what became of each image
    #[command(visible_alias = "list")]
    Ls,
    /// Add images
    Add {
        /// References
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Take images off the list; nodes may then evict them
    Rm {
        /// References
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Replace the list
    Set {
        /// References; none empties the list
        images: Vec<String>,
    },
}
