//! Which engine builds, and the builders of BuildKit.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What carries builds out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BuildEngine {
    /// The service itself, without any daemon.
    #[default]
    Embedded,
    /// Builders of BuildKit: `build.buildkit.*`.
    BuildKit,
}

/// `build.buildkit.*`: builders, where `build.engine` is `buildkit`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BuildKit {
    /// `unix:///path`, `tcp://host:port` or `docker:///path/of/docker.sock` of each.
    pub addresses: Vec<String>,
    /// PEM file of the authority of builders that are reached by TCP, which then speak TLS.
    pub ca: Option<PathBuf>,
    /// PEM file of the certificate by which the service shows itself to them.
    pub cert: Option<PathBuf>,
    /// PEM file of its private key.
    pub key: Option<PathBuf>,
    /// `host[:port][/prefix]` under which builders reach the registry of built images; unset, the same
    /// as for everybody else.
    pub registry: Option<String>,
    /// Which network steps have.
    pub network: StepNetwork,
    /// Whether builders keep what they cache in the registry, too, for each other. A Docker Engine
    /// cannot.
    pub share_cache: bool,
}

/// Which network the steps on builders have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepNetwork {
    /// One of their own.
    #[default]
    Sandbox,
    /// The builder's, which has to allow it (entitlement `network.host`).
    Host,
}
