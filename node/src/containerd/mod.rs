//! The images of a containerd that Kubernetes or nerdctl uses, in place of a cache of the node's own.
//!
//! A pull puts an image there as a pull by the kubelet or by `ctr` would: blobs into the content
//! store, layers unpacked into snapshots, records under the names that pods pull by, and labels by
//! which containerd's garbage collector sees what belongs together. Until the records stand, a lease
//! keeps all of it. All that the node knows of its images (which are its own, pins, last uses) stands
//! in labels of those records, so that either side may be killed at any time: what is in containerd
//! counts.
//!
//! - `client`: the socket, and what its failures mean; `content`, `leases`, `snapshots`, `records`:
//!   containerd's services as they are used here
//! - `pull`: one image on its way in; `view`: what is there; `evict`: what may go
//! - `images`: all that as the agent knows it; `hosts`: containerd's own settings of registries
//! - `sandboxes`: says that such a node runs none

mod client;
mod content;
mod evict;
mod hosts;
mod images;
mod leases;
mod pull;
mod records;
mod sandboxes;
mod snapshots;
mod turns;
mod view;

use std::path::PathBuf;
use std::sync::Arc;

pub(crate) use hosts::{HostsDir, Upstream};

use client::Containerd;
use images::ContainerdImages;
use sandboxes::NoSandboxes;

use crate::node::{NodeError, Parts, Surroundings};
use crate::pull::Sources;
use crate::settings::Runtime;

/// containerd's gRPC services, as far as they are used here (`proto/containerd`).
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    rustdoc::all
)]
mod api {
    include!(concat!(env!("OUT_DIR"), "/containerd.rs"));
}

/// Where containerd is, and what of it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerdSettings {
    /// Its socket.
    pub address: PathBuf,
    /// Namespace of the images; that of the kubelet is `k8s.io`, that of nerdctl `default`.
    pub namespace: String,
    /// Snapshotter that layers are unpacked into.
    pub snapshotter: String,
    /// Directory with a `hosts.toml` for each registry (`config_path` of its CRI plugin).
    pub hosts_dir: PathBuf,
}

impl Default for ContainerdSettings {
    fn default() -> Self {
        Self {
            address: "/run/containerd/containerd.sock".into(),
            namespace: "k8s.io".to_owned(),
            snapshotter: "overlayfs".to_owned(),
            hosts_dir: "/etc/containerd/certs.d".into(),
        }
    }
}

/// What a node with a containerd works with. That one cannot be reached now does not keep the node
/// from starting: it is asked again.
pub(crate) async fn parts(around: Surroundings) -> Result<Parts, NodeError> {
    let Surroundings {
        settings, access, ..
    } = around;
    let Runtime::Containerd(containerd) = &settings.runtime else {
        return Err(NodeError::Settings(
            "the node's runtime is not containerd".to_owned(),
        ));
    };
    if settings.mirror_listen.is_some() {
        return Err(NodeError::Settings(
            "a node with the runtime `containerd` serves no blobs to other nodes: leave out \
             `node.mirror_listen`, and use a mirror such as Spegel, which serves them from containerd"
                .to_owned(),
        ));
    }
    if settings.metrics_listen.is_some() {
        return Err(NodeError::Settings(
            "a node with the runtime `containerd` counts nothing for Prometheus: leave out \
             `node.metrics_listen`, and read the metrics of the service and of containerd itself"
                .to_owned(),
        ));
    }
    for word in [&containerd.namespace, &containerd.snapshotter] {
        let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if word.is_empty() || !word.chars().all(sound) {
            return Err(NodeError::Settings(format!(
                "`{word}` cannot be a namespace or snapshotter of containerd: letters, digits, `.`, \
                 `-` and `_`"
            )));
        }
    }
    let hosts = HostsDir::new(&containerd.hosts_dir, &settings.dir);
    let options = crate::real::options(&settings);
    let images = ContainerdImages::new(
        Containerd::new(containerd.clone()),
        Sources::new(access, options, Some(hosts)),
        settings.cache_size,
        settings.parallel,
    );
    match images.containerd().version().await {
        Ok(version) => tracing::info!(
            version,
            namespace = containerd.namespace,
            snapshotter = containerd.snapshotter,
            "images are kept in containerd"
        ),
        Err(error) => tracing::warn!(%error, "images are to be kept in containerd; trying again"),
    }
    let watching = images.watch();
    Ok(Parts {
        images: Arc::new(images),
        sandboxes: Arc::new(NoSandboxes::default()),
        mirror: None,
        keep: Box::new(watching),
    })
}
