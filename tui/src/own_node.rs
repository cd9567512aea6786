//! A node inside this process: for one-shot commands, `chalk serve --node` and `chalk node`.

use std::path::{Path, PathBuf};

use chalk_core::wire::exit;
use chalk_node::agent::AgentError;
use chalk_node::{ContainerdSettings, Join, Node, NodeError, NodeSettings, RunningNode};
use chalk_service::settings::{CacheForm, Runtime, Settings};

use crate::error::Failure;

/// Name of the node inside a command or service.
pub(crate) const LOCAL: &str = "local";

/// The settings of a node that joins `server` by `join`.
pub(crate) fn settings(settings: &Settings, server: &str, join: Join) -> NodeSettings {
    let node = &settings.node;
    let state = &settings.state.dir;
    let name = node.name.clone().unwrap_or_else(host_name);
    let mut made = NodeSettings::new(server, join, &name, dir(node.dir.as_deref(), state));
    made.region = node.region.clone();
    made.labels = node.labels.clone();
    made.runtime = match node.runtime {
        Runtime::Chalk => chalk_node::Runtime::Chalk,
        Runtime::Containerd => chalk_node::Runtime::Containerd(ContainerdSettings {
            address: node.containerd.address.clone(),
            namespace: node.containerd.namespace.clone(),
            snapshotter: node.containerd.snapshotter.clone(),
            hosts_dir: node.containerd.hosts_dir.clone(),
        }),
    };
    made.cache_size = node.cache_size.as_u64();
    made.cache_form = match node.cache_form {
        CacheForm::Auto => chalk_node::CacheForm::Auto,
        CacheForm::Erofs => chalk_node::CacheForm::Erofs,
        CacheForm::Directory => chalk_node::CacheForm::Directory,
    };
    made.parallel = node.parallel;
    made.memory = node.memory.as_u64();
    made.mirror_listen = node.mirror_listen;
    made.mirror_advertise = node.mirror_advertise.clone();
    made.mirror_size = node.mirror_size.as_u64();
    made.registry_mirrors = node.registry_mirrors.clone();
    made.insecure = node.insecure.clone();
    made.ca_bundle = node.ca_bundle.clone();
    made.credentials = node.credentials.clone();
    made.metrics_listen = node.metrics_listen;
    made.sandbox_disk = node.sandbox_disk.as_u64();
    made.log_limit = node.log_limit.as_u64();
    made.cdi_dirs = node.cdi_dirs.clone();
    made.stop_timeout = node.stop_timeout;
    made
}

/// The settings of the node inside a command or service: it has a fixed name and serves no others.
pub(crate) fn local(all: &Settings, server: &str, token: &str) -> NodeSettings {
    let mut made = settings(all, server, Join::Token(token.to_owned()));
    if all.node.name.is_none() {
        LOCAL.clone_into(&mut made.name);
    }
    made
}

fn dir(set: Option<&Path>, state: &Path) -> PathBuf {
    set.map_or_else(|| state.join("node"), Path::to_owned)
}

/// The first word of the host's name, of letters that the name of a node may have.
fn host_name() -> String {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy();
    let first = name.split('.').next().unwrap_or_default();
    let sound = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let name: String = first
        .to_lowercase()
        .chars()
        .filter(sound)
        .take(63)
        .collect();
    let name = name.trim_matches(['-', '_']);
    if name.is_empty() { "node" } else { name }.to_owned()
}

/// Starts a node on the tokio runtime of the caller.
///
/// # Errors
/// When its directory is in use or not usable.
pub(crate) async fn start(settings: NodeSettings) -> Result<RunningNode, NodeError> {
    Node::start(settings).await
}

/// What a node's error is to the user.
pub(crate) fn failure(error: &NodeError) -> Failure {
    let what = error.to_string();
    match error {
        NodeError::Settings(_) => Failure::usage("bad setting").why(what),
        NodeError::Agent(AgentError::NoToken(_)) => Failure::usage(what).hint(
            "make a token with `chalk compute node token create` and give it by --join-token-file or CHALK_NODE_JOIN_TOKEN",
        ),
        NodeError::Agent(AgentError::TokenFile { .. }) => Failure::usage(what),
        NodeError::Agent(AgentError::Refused(_)) => Failure::new(exit::UNREACHABLE, what).hint(
            "make a fresh token with `chalk compute node token create`; `chalk compute node ls` shows names that are taken",
        ),
        NodeError::Locked(_) => Failure::new(exit::UNREACHABLE, what),
        _ => Failure::new(exit::UNREACHABLE, "the node cannot run").why(what),
    }
}
