//! Connections to builders: gRPC over a Unix socket, over TCP with or without TLS, or over the socket
//! of a Docker Engine, which hands its BuildKit out where HTTP/1.1 upgrades to `h2c`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};

use super::address::Address;
use super::docker::DockerApi;
use crate::settings::BuildKit;

/// Longest that a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// A builder that does not answer pings for this long is gone.
const SILENCE: Duration = Duration::from_secs(20);

/// Bytes both ways.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Certificates for builders that are reached by TCP.
#[derive(Clone)]
pub(super) struct Tls(Option<Arc<ClientConfig>>);

/// Why the certificates of the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A client certificate without its key, or the other way round, or without an authority.
    #[error(
        "`{missing}` is not set: TLS to builders needs `build.buildkit.ca`, and a client certificate both `build.buildkit.cert` and `build.buildkit.key`"
    )]
    Half {
        /// The setting that is missing.
        missing: &'static str,
    },
    /// A file is no PEM of what it should be.
    #[error("{} holds no {what} in PEM form: {reason} (setting `{setting}`)", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was expected.
        what: &'static str,
        /// What is wrong.
        reason: String,
        /// The setting that names it.
        setting: &'static str,
    },
    /// The certificates do not fit.
    #[error("the certificates of `build.buildkit` cannot be used: {0}")]
    Unfit(#[from] rustls::Error),
}

impl Tls {
    /// What the settings say; plain TCP where they name no authority. Reads files.
    ///
    /// # Errors
    /// When a file cannot be used.
    pub(super) fn new(settings: &BuildKit) -> Result<Self, TlsError> {
        let half = |missing| Err(TlsError::Half { missing });
        let Some(ca) = &settings.ca else {
            return match settings.cert.is_some() || settings.key.is_some() {
                true => half("build.buildkit.ca"),
                false => Ok(Self(None)),
            };
        };
        let mut roots = RootCertStore::empty();
        for authority in certificates(ca, "build.buildkit.ca")? {
            roots.add(authority)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let mut config = match (&settings.cert, &settings.key) {
            (None, None) => config.with_no_client_auth(),
            (Some(_), None) => return half("build.buildkit.key"),
            (None, Some(_)) => return half("build.buildkit.cert"),
            (Some(cert), Some(key)) => {
                let chain = certificates(cert, "build.buildkit.cert")?;
                let key = PrivateKeyDer::from_pem_file(key).map_err(|error| TlsError::File {
                    path: key.clone(),
                    what: "private key",
                    reason: error.to_string(),
                    setting: "build.buildkit.key",
                })?;
                config.with_client_auth_cert(chain, key)?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self(Some(Arc::new(config))))
    }
}

fn certificates(
    path: &Path,
    setting: &'static str,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |reason: String| TlsError::File {
        path: path.to_owned(),
        what: "certificate",
        reason,
        setting,
    };
    let found = CertificateDer::pem_file_iter(path).map_err(|e| wrong(e.to_string()))?;
    let found: Vec<_> = found
        .collect::<Result<_, _>>()
        .map_err(|e| wrong(e.to_string()))?;
    match found.is_empty() {
        true => Err(wrong("it is empty".to_owned())),
        false => Ok(found),
    }
}

/// A gRPC channel to a builder. Connects.
///
/// # Errors
/// Why the builder cannot be reached, in words.
pub(super) async fn channel(address: &Address, tls: &Tls) -> Result<Channel, String> {
    let (address, tls) = (address.clone(), tls.clone());
    let connector = tower::service_fn(move |_: Uri| {
        let (address, tls) = (address.clone(), tls.clone());
        async move {
            let stream = dial(&address, &tls).await?;
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    // The connector knows where to; this names it in headers alone.
    let endpoint = Endpoint::from_static("http://buildkitd")
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(SILENCE)
        .keep_alive_timeout(SILENCE)
        .keep_alive_while_idle(true);
    let channel = endpoint.connect_with_connector(connector).await;
    channel.map_err(|error| in_words(&error))
}

async fn dial(address: &Address, tls: &Tls) -> io::Result<Box<dyn Stream>> {
    match address {
        Address::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
        Address::Docker(path) => {
            let api = DockerApi::new(path).map_err(io::Error::other)?;
            let stream = api.grpc().await.map_err(io::Error::other)?;
            Ok(Box::new(stream))
        }
        Address::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            let Some(config) = &tls.0 else {
                return Ok(Box::new(stream));
            };
            let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
            let connector = TlsConnector::from(Arc::clone(config));
            Ok(Box::new(connector.connect(name, stream).await?))
        }
    }
}

/// An error with its causes.
pub(super) fn in_words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let words = inner.to_string();
        // Wrappers repeat what they wrap.
        if !text.ends_with(&words) {
            text = format!("{text}: {words}");
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests;
