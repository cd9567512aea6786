//! Everything that can be set, with its default.
//!
//! [`Settings`] is plain data. Where the values come from (flags, environment, a TOML file) is the
//! business of whoever starts the service; [`Draft`] layers such sources and remembers which one
//! gave each value, and [`TABLE`] lists every setting for help texts and documentation.

mod buildkit;
mod cpus;
mod draft;
mod fleet;
mod gc;
mod length;
mod node;
mod secrets;
mod table;
mod watch;
mod web_origin;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

pub use buildkit::{BuildEngine, BuildKit, StepNetwork};
pub use cpus::Cpus;
pub use draft::{Draft, Origin, Row, SettingsError};
pub use fleet::{InvalidRegistry, Nodes, Prewarm, Regions, RegistryAt, Sandboxes, Warm};
pub use gc::Gc;
pub use node::{CacheForm, Containerd, Node, Runtime};
pub use secrets::Secrets;
pub use table::{Kind, Setting, TABLE, find};
pub use watch::{Log, LogFormat, Metrics, Trace};
pub use web_origin::{AllowedOrigin, InvalidOrigin, WebOrigin};

/// Settings of the service. A path such as `build.parallel` names a field of a section here, a
/// key of the TOML file, and the environment variable `CHALK_BUILD_PARALLEL`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where the service keeps what must last.
    pub state: State,
    /// Where and for whom the service listens.
    pub serve: Serve,
    /// How images are built.
    pub build: Build,
    /// The page.
    pub web: Web,
    /// Where images come from and go to.
    pub registry: Registry,
    /// Regions and their registries.
    pub regions: Regions,
    /// Connections of nodes.
    pub nodes: Nodes,
    /// How images are brought to nodes.
    pub warm: Warm,
    /// Base images that every node keeps ready.
    pub prewarm: Prewarm,
    /// Secrets that the service has for builds.
    pub secrets: Secrets,
    /// Records of sandboxes.
    pub sandboxes: Sandboxes,
    /// Who reads metrics without a token.
    pub metrics: Metrics,
    /// The log.
    pub log: Log,
    /// Traces.
    pub trace: Trace,
    /// What a client may ask for at most.
    pub limits: Limits,
    /// What is kept, and for how long.
    pub gc: Gc,
    /// The node of `chalk node`, or inside this process.
    pub node: Node,
}

/// `state.*`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct State {
    /// Directory of blobs, database, build logs and token.
    pub dir: PathBuf,
}

/// `serve.*`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Serve {
    /// Address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// `host[:port]` that clients and container engines reach the service under; the address
    /// listened on when unset.
    pub advertise: Option<String>,
    /// Further `Host` names that requests may carry; loopback names, the address listened on and
    /// `serve.advertise` are always taken.
    pub hosts: Vec<String>,
    /// Pages of other origins that may talk to the service; no others may, its own page apart.
    pub cors_origins: Vec<AllowedOrigin>,
    /// PEM file of the certificate, with those between it and its authority, for TLS on the same
    /// port; plain connections are then for this host alone.
    pub tls_cert: Option<PathBuf>,
    /// PEM file of its private key.
    pub tls_key: Option<PathBuf>,
    /// How long an access token of Chalk's own SDK lasts at most. The SDK does not renew it.
    #[serde(with = "crate::settings::length::required")]
    pub access_ttl: Duration,
    /// Longest that a stopping service waits for running builds and open connections.
    #[serde(with = "crate::settings::length::required")]
    pub stop_timeout: Duration,
    /// Whether a node runs inside the process of the service.
    pub node: bool,
}

/// `web.*`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Web {
    /// Folder of a built page that is served at `/`, read at the start; unset, the page of the
    /// program.
    pub dir: Option<PathBuf>,
}

/// `build.*`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Build {
    /// What carries builds out.
    pub engine: BuildEngine,
    /// Builders, where that is BuildKit.
    pub buildkit: BuildKit,
    /// PEM file of certificate authorities that steps trust besides those of their image; unset,
    /// the file that the service's own `SSL_CERT_FILE` names, if any.
    pub ca_bundle: Option<PathBuf>,
    /// Proxies of steps.
    pub proxies: Proxies,
    /// What carries out `pip_install`.
    pub installer: Installer,
    /// Compression of new layers.
    pub compression: Compression,
    /// Builds that run at once.
    pub parallel: usize,
    /// Builds that may wait for a place.
    pub queue_limit: usize,
    /// Longest that one step may run.
    #[serde(with = "crate::settings::length::required")]
    pub step_timeout: Duration,
    /// Memory that the processes of one step may use; unset, three quarters of the machine's.
    pub memory: Option<ByteSize>,
    /// Processes and threads of one step; unset, 16384.
    pub pids: Option<usize>,
    /// Processor cores that one step may use; unset, all.
    pub cpus: Option<Cpus>,
    /// Bytes of output that are kept of one build; the rest is dropped with a notice.
    pub log_limit: ByteSize,
    /// Finished builds whose records and logs are kept.
    pub keep: usize,
    /// How long a build that is to end with its clients waits for one to come back.
    #[serde(with = "crate::settings::length::required")]
    pub disconnect_grace: Duration,
}

/// `build.proxies.*`: set for the time of a step, never part of a layer or hash.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Proxies {
    /// `HTTP_PROXY` of steps; unset, the service's own.
    pub http: Option<String>,
    /// `HTTPS_PROXY` of steps; unset, the service's own.
    pub https: Option<String>,
    /// `NO_PROXY` of steps; unset, the service's own.
    pub no: Option<String>,
}

/// `registry.*`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Registry {
    /// `host[:port]` of an external registry for built images, or the URL of its API, which ends with
    /// `/v2`; unset, the embedded one.
    pub url: Option<String>,
    /// Path in front of every repository in the external registry.
    pub prefix: Option<String>,
    /// User name at the external registry; unset, the login of the credentials file.
    pub username: Option<String>,
    /// File with that user's password.
    pub password_file: Option<PathBuf>,
    /// PEM file of the certificate that the service proves itself by to the external registry.
    pub client_cert: Option<PathBuf>,
    /// PEM file of its private key.
    pub client_key: Option<PathBuf>,
    /// Registry to the mirrors that are asked before it, in order.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Registries that may be spoken to over plain HTTP or with a certificate that nobody vouches
    /// for.
    pub insecure: Vec<String>,
    /// PEM file of certificate authorities for registries besides the system's.
    pub ca_bundle: Option<PathBuf>,
    /// Docker's credentials file; unset, `$DOCKER_CONFIG/config.json` or
    /// `~/.docker/config.json`.
    pub credentials: Option<PathBuf>,
    /// Where the embedded registry lies, if not in the state directory.
    pub s3: S3,
}

/// `registry.s3.*`: where the embedded registry lies, if not in the state directory.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S3 {
    /// Bucket; unset, the registry lies in the state directory.
    pub bucket: Option<String>,
    /// What all keys begin with.
    pub prefix: Option<String>,
    /// URL of an S3-compatible store; unset, that of Amazon S3.
    pub endpoint: Option<String>,
    /// Region of the bucket; unset, `AWS_REGION` or `us-east-1`.
    pub region: Option<String>,
    /// AWS credentials file with the keys; unset, `AWS_ACCESS_KEY_ID` and
    /// `AWS_SECRET_ACCESS_KEY`, else what the cloud gives the machine or the pod.
    pub credentials: Option<PathBuf>,
}

/// `limits.*`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Size of a JSON request, specs included.
    pub request: ByteSize,
    /// Size of one uploaded file.
    pub blob: ByteSize,
    /// Size of one imported archive.
    pub import: ByteSize,
    /// Connections open at once; further ones wait.
    pub connections: usize,
    /// Requests of one token in a second; any number when 0.
    pub token_requests: usize,
    /// Requests from one address with a wrong token in a minute; any number when 0.
    pub failed_logins: usize,
    /// What the audit log may take; the oldest entries go.
    pub audit: ByteSize,
}

/// What carries out `pip_install`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Installer {
    /// uv where it can do what is asked, else pip.
    #[default]
    Uv,
    /// Always the base's own pip.
    Pip,
}

/// Compression of layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Read by containerd 1.5, Docker 23, Podman and later.
    #[default]
    Zstd,
    /// Read by everything.
    Gzip,
    /// Plain tar.
    None,
}

impl Compression {
    /// The words that [`std::str::FromStr`] takes.
    pub const WORDS: [&str; 3] = ["zstd", "gzip", "none"];

    /// The word of the settings and the API.
    pub fn word(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
            Self::None => "none",
        }
    }
}

/// A text that is no [`Compression`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no compression: expected `zstd`, `gzip` or `none`")]
pub struct InvalidCompression(pub String);

impl std::str::FromStr for Compression {
    type Err = InvalidCompression;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "zstd" => Ok(Self::Zstd),
            "gzip" => Ok(Self::Gzip),
            "none" => Ok(Self::None),
            _ => Err(InvalidCompression(text.to_owned())),
        }
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            dir: default_state_dir(),
        }
    }
}

impl Default for Serve {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7474)),
            advertise: None,
            hosts: Vec::new(),
            cors_origins: Vec::new(),
            tls_cert: None,
            tls_key: None,
            access_ttl: Duration::from_secs(24 * 3600),
            stop_timeout: Duration::from_secs(10),
            node: false,
        }
    }
}

/// Cores that this process may use. Asked for once: the answer takes a dozen system calls, and every
/// setting looks at the defaults.
fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(2, usize::from))
}

impl Default for Build {
    fn default() -> Self {
        Self {
            engine: BuildEngine::default(),
            buildkit: BuildKit::default(),
            ca_bundle: None,
            proxies: Proxies::default(),
            installer: Installer::default(),
            compression: Compression::default(),
            parallel: cores().max(2),
            queue_limit: 256,
            step_timeout: Duration::from_secs(3600),
            memory: None,
            pids: None,
            cpus: None,
            log_limit: ByteSize::mib(64),
            keep: 1000,
            disconnect_grace: Duration::from_secs(10),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request: ByteSize::mib(16),
            blob: ByteSize::gib(16),
            import: ByteSize::gib(64),
            connections: 4096,
            token_requests: 0,
            failed_logins: 60,
            audit: ByteSize::mib(64),
        }
    }
}

impl Settings {
    /// The settings of a service that runs inside a command: a free port on loopback.
    pub fn embedded() -> Self {
        Self {
            serve: Serve {
                listen: SocketAddr::from(([127, 0, 0, 1], 0)),
                ..Serve::default()
            },
            ..Self::default()
        }
    }
}

impl Build {
    /// The CA bundle in force: the setting, else what `SSL_CERT_FILE` of this process names.
    pub fn effective_ca_bundle(&self) -> Option<PathBuf> {
        self.ca_bundle
            .clone()
            .or_else(|| non_empty_env("SSL_CERT_FILE").map(PathBuf::from))
    }

    /// The proxy variables in force for steps, upper and lower case, as `(name, value)`.
    pub fn effective_proxies(&self) -> Vec<(String, String)> {
        let proxies = [
            ("HTTP_PROXY", &self.proxies.http),
            ("HTTPS_PROXY", &self.proxies.https),
            ("NO_PROXY", &self.proxies.no),
        ];
        let mut variables = Vec::new();
        for (name, set) in proxies {
            let lower = name.to_lowercase();
            let value = set
                .clone()
                .or_else(|| non_empty_env(&lower))
                .or_else(|| non_empty_env(name));
            if let Some(value) = value.filter(|v| !v.is_empty()) {
                variables.push((name.to_owned(), value.clone()));
                variables.push((lower, value));
            }
        }
        variables
    }
}

fn non_empty_env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty())
}

/// `/var/lib/chalk` for root, else `$XDG_STATE_HOME/chalk` or `~/.local/state/chalk` (XDG base
/// directory specification); `.chalk-state` when there is no home.
///
/// Found out once: the process of an ordinary user may become root of a user namespace later on.
pub fn default_state_dir() -> PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(find_state_dir).clone()
}

fn find_state_dir() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/chalk");
    }
    let absolute = |name| {
        non_empty_env(name)
            .map(PathBuf::from)
            .filter(|p| p.is_absolute())
    };
    if let Some(dir) = absolute("XDG_STATE_HOME") {
        return dir.join("chalk");
    }
    match absolute("HOME") {
        Some(home) => home.join(".local/state/chalk"),
        None => PathBuf::from(".chalk-state"),
    }
}
