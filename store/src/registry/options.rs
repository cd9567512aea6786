//! Settings of the registry client.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use super::credentials::{Credential, CredentialSource};

/// Settings of a [`Client`](super::Client). The default suits a machine with direct access to
/// public registries and the user's own `docker login`.
#[derive(Debug, Clone)]
pub struct Options {
    /// Base URLs that are asked before the registry itself, by registry as references name it
    /// (`docker.io`). A URL may carry a path: one with a `v2` component is taken as it is
    /// (`https://harbor.example/v2/proxy`), else `/v2` is appended. Only reads go to mirrors.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// PEM file of certificate authorities trusted in addition to the system's.
    pub ca_bundle: Option<PathBuf>,
    /// Registries (`host` or `host:port`) that may be spoken to over plain HTTP, or with a
    /// certificate that nobody vouches for, whichever they answer. Loopback is always spoken to
    /// over plain HTTP.
    pub insecure: BTreeSet<String>,
    /// Where credentials are looked up that `explicit` does not have.
    pub credentials: CredentialSource,
    /// Credentials by registry as references name it.
    pub explicit: BTreeMap<String, Credential>,
    /// Where credentials of a registry are looked up in the place of `credentials`, by registry.
    pub sources: BTreeMap<String, CredentialSource>,
    /// Whom to ask for tokens in the place of a registry's own token service, by registry.
    pub brokers: BTreeMap<String, TokenBroker>,
    /// API root of registries that do not have it at `/v2/`, by registry: a URL whose path ends with
    /// `/v2`.
    pub roots: BTreeMap<String, String>,
    /// What the client proves itself by to servers that ask for a certificate.
    pub identity: Option<ClientCertificate>,
    /// Number of blobs in flight at once, over all calls on one client.
    pub parallel: usize,
    /// Time to establish a connection, TLS included.
    pub connect_timeout: Duration,
    /// Time without a single byte after which a transfer counts as broken.
    pub idle_timeout: Duration,
    /// Time that a registry may take to answer after it has received a whole upload.
    pub commit_timeout: Duration,
    /// How failures that may pass are retried.
    pub retry: Retry,
}

/// One who gets tokens for reading a registry, and who hands them to those that cannot log in there.
#[derive(Debug, Clone)]
pub struct TokenBroker {
    /// URL that answers `GET` with `service` and `scope` as a token service does (token
    /// specification of the distribution project), or with 404: then the registry is asked itself.
    pub url: String,
    /// Login at the broker.
    pub credential: Credential,
}

/// A certificate and its key, both in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// File of the certificate, with those between it and its authority.
    pub certificate: PathBuf,
    /// File of its private key.
    pub key: PathBuf,
}

/// Exponential back-off with jitter, for broken connections, 429 and 5xx.
#[derive(Debug, Clone, Copy)]
pub struct Retry {
    /// Tries in all against the registry itself; mirrors get at most two.
    pub attempts: u32,
    /// Delay before the second try; doubles from there.
    pub first_delay: Duration,
    /// Longest delay. A `Retry-After` beyond it ends the retries.
    pub max_delay: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mirrors: BTreeMap::new(),
            ca_bundle: None,
            insecure: BTreeSet::new(),
            credentials: CredentialSource::Docker,
            explicit: BTreeMap::new(),
            sources: BTreeMap::new(),
            brokers: BTreeMap::new(),
            roots: BTreeMap::new(),
            identity: None,
            parallel: 6,
            connect_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(60),
            commit_timeout: Duration::from_secs(300),
            retry: Retry::default(),
        }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 5,
            first_delay: Duration::from_millis(250),
            max_delay: Duration::from_secs(60),
        }
    }
}

impl Retry {
    /// Delay before try number `next` (the second is 1), with a jitter of half its length so that
    /// many clients do not return in step.
    pub(super) fn delay(&self, next: u32) -> Duration {
        let factor = 1_u32 << next.saturating_sub(1).min(16);
        let whole = self
            .first_delay
            .saturating_mul(factor)
            .min(self.max_delay)
            .min(Duration::from_secs(10));
        whole.mul_f64(rand::random_range(0.5..=1.0))
    }
}
