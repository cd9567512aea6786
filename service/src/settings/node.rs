//! Settings of a node: those of `chalk node`, and of the node inside a service or command.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

/// `node.*`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    /// Name, unique within the service; unset, the name of the host.
    pub name: Option<String>,
    /// Region; unset, the service's home region.
    pub region: Option<String>,
    /// Labels by which warms and sandboxes choose nodes.
    pub labels: BTreeMap<String, String>,
    /// Directory of all that the node keeps; unset, `node` in the state directory.
    pub dir: Option<PathBuf>,
    /// File with the token by which the node joins.
    pub join_token_file: Option<PathBuf>,
    /// What keeps the images.
    pub runtime: Runtime,
    /// The containerd of that runtime.
    pub containerd: Containerd,
    /// Most bytes that layers and mounted files may take.
    pub cache_size: ByteSize,
    /// Form in which layers lie on the disk.
    pub cache_form: CacheForm,
    /// Layers that are fetched at once.
    pub parallel: usize,
    /// Memory that pulls may take for buffers.
    pub memory: ByteSize,
    /// Address to serve blobs to other nodes on; unset, the node serves none.
    pub mirror_listen: Option<SocketAddr>,
    /// `host[:port]` or base URL under which other nodes reach that address.
    pub mirror_advertise: Option<String>,
    /// Most bytes of compressed blobs that are kept for other nodes.
    pub mirror_size: ByteSize,
    /// Registry to the mirrors that are asked before it, in order.
    pub registry_mirrors: BTreeMap<String, Vec<String>>,
    /// Registries that may be spoken to over plain HTTP or with a certificate that nobody vouches
    /// for.
    pub insecure: Vec<String>,
    /// PEM file of certificate authorities for service and registries besides the system's.
    pub ca_bundle: Option<PathBuf>,
    /// Docker's credentials file; unset, `$DOCKER_CONFIG/config.json` or
    /// `~/.docker/config.json`.
    pub credentials: Option<PathBuf>,
    /// Address that serves `/metrics` of the node without a token; unset, none does.
    pub metrics_listen: Option<SocketAddr>,
    /// Bytes that the writable layer of a sandbox may take, unless it asks for another limit.
    pub sandbox_disk: ByteSize,
    /// Bytes of output that are kept of one process of a sandbox.
    pub log_limit: ByteSize,
    /// Directories of CDI specs of devices.
    pub cdi_dirs: Vec<PathBuf>,
    /// Longest that a node that ends waits for its sandboxes.
    #[serde(with = "crate::settings::length::required")]
    pub stop_timeout: Duration,
}

/// What keeps a node's images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// The node itself, which runs sandboxes from them.
    #[default]
    Chalk,
    /// A containerd, for the containers of Kubernetes or nerdctl.
    Containerd,
}

impl Runtime {
    /// The words of the setting.
    pub const WORDS: [&str; 2] = ["chalk", "containerd"];
}

/// `node.containerd.*`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Containerd {
    /// Its socket.
    pub address: PathBuf,
    /// Namespace of the images.
    pub namespace: String,
    /// Snapshotter that layers are unpacked into.
    pub snapshotter: String,
    /// Directory of containerd's settings of registries.
    pub hosts_dir: PathBuf,
}

impl Default for Containerd {
    fn default() -> Self {
        Self {
            address: "/run/containerd/containerd.sock".into(),
            namespace: "k8s.io".to_owned(),
            snapshotter: "overlayfs".to_owned(),
            hosts_dir: "/etc/containerd/certs.d".into(),
        }
    }
}

/// Form in which layers lie on a node's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheForm {
    /// EROFS images where the kernel mounts them from files, else directories.
    #[default]
    Auto,
    /// One EROFS image a layer.
    Erofs,
    /// One directory a layer.
    Directory,
}

impl CacheForm {
    /// The words of the setting.
    pub const WORDS: [&str; 3] = ["auto", "erofs", "directory"];
}

impl Default for Node {
    fn default() -> Self {
        Self {
            name: None,
            region: None,
            labels: BTreeMap::new(),
            dir: None,
            join_token_file: None,
            runtime: Runtime::default(),
            containerd: Containerd::default(),
            cache_size: ByteSize::gib(200),
            cache_form: CacheForm::default(),
            parallel: 4,
            memory: ByteSize::mib(256),
            mirror_listen: None,
            mirror_advertise: None,
            mirror_size: ByteSize::gib(10),
            registry_mirrors: BTreeMap::new(),
            insecure: Vec::new(),
            ca_bundle: None,
            credentials: None,
            metrics_listen: None,
            sandbox_disk: ByteSize::gib(10),
            log_limit: ByteSize::mib(64),
            cdi_dirs: vec!["/etc/cdi".into(), "/var/run/cdi".into()],
            stop_timeout: Duration::from_secs(10),
        }
    }
}
