//! What a node can be told when it is started. Plain data.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::containerd::ContainerdSettings;

/// Form in which layers lie on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheForm {
    /// EROFS images where the kernel mounts them from files, else directories.
    #[default]
    Auto,
    /// One EROFS image a layer.
    Erofs,
    /// One directory a layer.
    Directory,
}

/// What keeps a node's images.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Runtime {
    /// The node itself, in a cache of its own, from which it runs sandboxes.
    #[default]
    Chalk,
    /// A containerd, for the containers of Kubernetes or nerdctl.
    Containerd(ContainerdSettings),
}

/// By what a node that has no credentials yet may join.
#[derive(Clone, PartialEq, Eq)]
pub enum Join {
    /// A join token, or the service's own token.
    Token(String),
    /// A file that holds one; read when it is needed.
    File(PathBuf),
    /// Nothing: the node must have joined before.
    Never,
}

impl std::fmt::Debug for Join {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Token(_) => f.write_str("Token"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Never => f.write_str("Never"),
        }
    }
}

/// Settings of a node.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeSettings {
    /// Base URL of the service.
    pub server: String,
    /// How it joins.
    pub join: Join,
    /// Name, unique within the service.
    pub name: String,
    /// Region; the service's home region when absent.
    pub region: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Directory of everything that the node keeps.
    pub dir: PathBuf,
    /// What keeps the images.
    pub runtime: Runtime,
    /// Most bytes that layers and mounted files may take; never more than 80 % of the disk.
    pub cache_size: u64,
    /// Form of layers on the disk.
    pub cache_form: CacheForm,
    /// Layers that are fetched at once.
    pub parallel: usize,
    /// Bytes of memory that pulls may take for buffers.
    pub memory: u64,
    /// Address to serve blobs to other nodes on, if at all.
    pub mirror_listen: Option<SocketAddr>,
    /// `host[:port]` or base URL under which other nodes reach that; the address when absent.
    pub mirror_advertise: Option<String>,
    /// Most bytes of blobs kept for other nodes.
    pub mirror_size: u64,
    /// Registry to the mirrors that are asked before it, in order.
    pub registry_mirrors: BTreeMap<String, Vec<String>>,
    /// Registries that may be spoken to over plain HTTP or with an unknown certificate.
    pub insecure: Vec<String>,
    /// PEM file of certificate authorities for service and registries besides the system's.
    pub ca_bundle: Option<PathBuf>,
    /// Docker's credentials file; `~/.docker/config.json` when absent.
    pub credentials: Option<PathBuf>,
    /// Address to serve metrics on, if at all.
    pub metrics_listen: Option<SocketAddr>,
    /// Bytes that the writable layer of a sandbox may take, unless it says otherwise.
    pub sandbox_disk: u64,
    /// Bytes of output that are kept of one process of a sandbox.
    pub log_limit: u64,
    /// Directories of CDI specs.
    pub cdi_dirs: Vec<PathBuf>,
    /// Longest that a node that ends waits for its sandboxes.
    pub stop_timeout: Duration,
}

impl NodeSettings {
    /// Settings with every default.
    pub fn new(server: &str, join: Join, name: &str, dir: PathBuf) -> Self {
        Self {
            server: server.trim_end_matches('/').to_owned(),
            join,
            name: name.to_owned(),
            region: None,
            labels: BTreeMap::new(),
            dir,
            runtime: Runtime::default(),
            cache_size: 200 << 30,
            cache_form: CacheForm::default(),
            parallel: 4,
            memory: 256 << 20,
            mirror_listen: None,
            mirror_advertise: None,
            mirror_size: 10 << 30,
            registry_mirrors: BTreeMap::new(),
            insecure: Vec::new(),
            ca_bundle: None,
            credentials: None,
            metrics_listen: None,
            sandbox_disk: 10 << 30,
            log_limit: 64 << 20,
            cdi_dirs: vec!["/etc/cdi".into(), "/var/run/cdi".into()],
            stop_timeout: Duration::from_secs(10),
        }
    }
}
