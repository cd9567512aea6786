//! Client of OCI registries.
//!
//! Speaks the OCI distribution specification 1.1 (`spec.md`) and the token authentication of the
//! distribution project. A [`Client`] reads through mirrors, logs in as `docker login` left it,
//! retries what may pass, resumes what broke off, and believes nothing: manifests and blobs are
//! checked against their digests, and a blob enters the
//! [`BlobStore`](crate::BlobStore) only when it is whole.
//!
//! - `manifest`: manifests by tag and digest; `platform`: the right one of an index
//! - `pull`, `push`, `upload`: blobs and whole images; `stream`: blobs as they come
//! - `listing`: tags; `deletion`: tags and manifests go; `referrers`: manifests by their subject
//! - `transport`, `auth`, `challenge`, `credentials`, `endpoint`: one request, its login, its
//!   server; `handed`: what a token shows and allows that is handed on

mod auth;
mod challenge;
mod credentials;
mod deletion;
mod endpoint;
mod error;
mod handed;
mod listing;
mod manifest;
mod options;
pub(crate) mod platform;
mod progress;
mod pull;
mod push;
mod referrers;
mod stream;
mod transport;
mod upload;

use std::sync::Arc;

use reqwest::redirect;
use tokio::sync::Semaphore;

pub use credentials::{Credential, CredentialSource};
pub use deletion::is_removed;
pub use error::RegistryError;
pub use handed::PullToken;
pub use manifest::{Manifest, ManifestHead, Resolved};
pub use options::{ClientCertificate, Options, Retry, TokenBroker};
pub use progress::{Progress, Transfer};
pub use push::{Published, Pushed};
pub use referrers::Referrer;
pub use stream::{BlobSource, BlobStream};

/// Manifests larger than this are refused, as the distribution specification suggests
/// (spec.md, "Pushing Manifests").
pub const MANIFEST_LIMIT: u64 = 4 << 20;

/// Client of any number of registries. Clones share connections, logins and the limit on blobs
/// in flight.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: Options,
    /// For everything but loopback: honours `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`.
    proxied: reqwest::Client,
    /// For loopback, which never is behind a proxy.
    direct: reqwest::Client,
    /// For insecure registries: accepts any certificate.
    lenient: reqwest::Client,
    /// Schemes that insecure registries turned out to speak.
    schemes: endpoint::Schemes,
    /// What is known of deletes in repositories.
    deletes: deletion::Deletes,
    logins: auth::Logins,
    /// Indexes of referrers that this client is changing.
    indexes: referrers::Indexes,
    blobs: Arc<Semaphore>,
}

impl Client {
    /// Checks the settings and makes a client; connects to nothing.
    ///
    /// # Errors
    /// [`RegistryError::CaBundle`] and [`RegistryError::Setting`].
    pub fn new(options: Options) -> Result<Self, RegistryError> {
        for registry in options.mirrors.keys().chain(options.roots.keys()) {
            endpoint::endpoints(&options, registry)?;
        }
        if options.parallel == 0 {
            return Err(RegistryError::Setting {
                setting: "number of parallel blobs".to_owned(),
                detail: "must be at least 1".to_owned(),
            });
        }
        let certificates = certificates(&options)?;
        let identity = options.identity.as_ref().map(identity).transpose()?;
        let http = |proxied: bool, lenient: bool| {
            let mut builder = reqwest::Client::builder()
                .user_agent(concat!("chalk/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(options.connect_timeout)
                .http2_adaptive_window(true)
                .redirect(redirect::Policy::custom(follow))
                .referer(false)
                .tls_certs_merge(certificates.iter().cloned())
                .tls_danger_accept_invalid_certs(lenient);
            if !proxied {
                builder = builder.no_proxy();
            }
            if let Some(identity) = &identity {
                builder = builder.identity(identity.clone());
            }
            builder.build().map_err(|e| RegistryError::Setting {
                setting: "TLS and proxies".to_owned(),
                detail: e.to_string(),
            })
        };
        Ok(Self {
            inner: Arc::new(Inner {
                proxied: http(true, false)?,
                direct: http(false, false)?,
                lenient: http(true, true)?,
                schemes: endpoint::Schemes::default(),
                deletes: deletion::Deletes::default(),
                logins: auth::Logins::default(),
                indexes: referrers::Indexes::default(),
                blobs: Arc::new(Semaphore::new(options.parallel)),
                options,
            }),
        })
    }

    /// The settings that this client was made with.
    pub fn options(&self) -> &Options {
        &self.inner.options
    }
}

fn certificates(options: &Options) -> Result<Vec<reqwest::Certificate>, RegistryError> {
    let Some(path) = &options.ca_bundle else {
        return Ok(Vec::new());
    };
    let refuse = |detail: String| RegistryError::CaBundle {
        path: path.clone(),
        detail,
    };
    let pem = std::fs::read(path).map_err(|e| refuse(e.to_string()))?;
    let found = reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| refuse(e.to_string()))?;
    if found.is_empty() {
        return Err(refuse("expected PEM certificates, found none".to_owned()));
    }
    Ok(found)
}

fn identity(files: &ClientCertificate) -> Result<reqwest::Identity, RegistryError> {
    let refuse = |file: &std::path::Path, detail: String| RegistryError::Setting {
        setting: format!("client certificate {}", file.display()),
        detail,
    };
    let mut pem = Vec::new();
    for file in [&files.certificate, &files.key] {
        pem.extend(std::fs::read(file).map_err(|e| refuse(file, e.to_string()))?);
        pem.push(b'\n');
    }
    reqwest::Identity::from_pem(&pem).map_err(|_| {
        let expected = "expected a certificate here and its private key in the other file, in PEM";
        refuse(&files.certificate, expected.to_owned())
    })
}

/// Follows redirects (blobs often lie at a storage service), but not from TLS to plain HTTP.
/// The HTTP client itself drops the login when the host changes.
fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let downgrade = attempt.url().scheme() != "https"
        && attempt.previous().iter().any(|url| url.scheme() == "https");
    if downgrade {
        attempt.error("redirected from https to http")
    } else if attempt.previous().len() > 10 {
        attempt.error("redirected more than 10 times")
    } else {
        attempt.follow()
    }
}
