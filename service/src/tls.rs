//! TLS on the service's port, when a certificate is set.
//!
//! One port speaks both: a connection that begins with a TLS record (RFC 8446, section 5.1) gets TLS.
//! Plain connections are then for this host alone, where the command and the node of the same process
//! go on as before.
//!
//! Certificate and key are read again when their files change, and when the process gets a SIGHUP. A
//! pair that cannot be used is told in the log, and the one before it stays.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use chalk_core::Digest;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{self, ServerConfig};

use crate::settings::Serve;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(5);
/// First byte of a TLS record that begins a handshake.
pub(crate) const HANDSHAKE: u8 = 22;

/// Why TLS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// One of the two settings is missing.
    #[error("`{there}` is set and `{missing}` is not: TLS needs both")]
    Half {
        /// The setting that is there.
        there: &'static str,
        /// The one that is not.
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
    /// Certificate and key do not fit, or are of a kind that nobody takes.
    #[error("certificate and key cannot be used: {0} (settings `serve.tls_cert`, `serve.tls_key`)")]
    Pair(#[from] rustls::Error),
}

/// Marks requests that came over TLS.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OverTls;

/// What takes TLS connections.
pub(crate) struct Tls {
    cert: PathBuf,
    key: PathBuf,
    current: RwLock<TlsAcceptor>,
    /// What was last read, whether it could be used or not.
    read: Mutex<Digest>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("cert", &self.cert)
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// That of the settings, when a certificate is set. Reads files.
    ///
    /// # Errors
    /// When certificate or key cannot be used.
    pub(crate) fn load(serve: &Serve) -> Result<Option<Self>, TlsError> {
        let half = |there, missing| Err(TlsError::Half { there, missing });
        let (cert, key) = match (&serve.tls_cert, &serve.tls_key) {
            (None, None) => return Ok(None),
            (Some(_), None) => return half("serve.tls_cert", "serve.tls_key"),
            (None, Some(_)) => return half("serve.tls_key", "serve.tls_cert"),
            (Some(cert), Some(key)) => (cert, key),
        };
        let read = contents(cert, key);
        Ok(Some(Self {
            current: RwLock::new(acceptor(cert, key)?),
            cert: cert.clone(),
            key: key.clone(),
            read: Mutex::new(read),
        }))
    }

    /// What takes the next connection.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let current = self.current.read();
        current.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the files again, if they have changed. Says whether there is another certificate now.
    /// Blocks.
    ///
    /// # Errors
    /// When the new ones cannot be used; those before them stay.
    fn reload(&self) -> Result<bool, TlsError> {
        let found = contents(&self.cert, &self.key);
        {
            let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
            if *read == found {
                return Ok(false);
            }
            *read = found;
        }
        let fresh = acceptor(&self.cert, &self.key)?;
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = fresh;
        Ok(true)
    }

    /// Follows the files, until the task is dropped.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut hangup = signal(SignalKind::hangup()).ok();
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                Some(()) = heard(hangup.as_mut()) => {}
            }
            let this = self.clone();
            let cert = self.cert.display();
            match tokio::task::spawn_blocking(move || this.reload()).await {
                Ok(Ok(true)) => tracing::info!(%cert, "another certificate is used from now on"),
                Ok(Ok(false)) => {}
                Ok(Err(error)) => {
                    tracing::error!(%error, "the certificate is not replaced: the one before it stays");
                }
                Err(error) => tracing::error!(%error, "the certificate was not looked at"),
            }
        }
    }
}

async fn heard(signal: Option<&mut Signal>) -> Option<()> {
    match signal {
        Some(signal) => signal.recv().await,
        None => std::future::pending().await,
    }
}

/// Tells contents of the two files from others; files that cannot be read from those that can.
fn contents(cert: &Path, key: &Path) -> Digest {
    let mut text = Vec::new();
    for path in [cert, key] {
        match std::fs::read(path) {
            Ok(bytes) => text.extend(Digest::of(&bytes).as_bytes()),
            Err(error) => text.extend(error.to_string().as_bytes()),
        }
    }
    Digest::of(&text)
}

fn acceptor(cert: &Path, key: &Path) -> Result<TlsAcceptor, TlsError> {
    let chain = certificates(cert)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| TlsError::File {
        path: key.to_owned(),
        what: "private key",
        reason: error.to_string(),
        setting: "serve.tls_key",
    })?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    // gRPC needs HTTP/2, which clients find out here.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |reason: String| TlsError::File {
        path: path.to_owned(),
        what: "certificate",
        reason,
        setting: "serve.tls_cert",
    };
    let found = CertificateDer::pem_file_iter(path).map_err(|e| wrong(e.to_string()))?;
    let chain: Vec<_> = found
        .collect::<Result<_, _>>()
        .map_err(|e| wrong(e.to_string()))?;
    if chain.is_empty() {
        return Err(wrong("no certificate was found in it".to_owned()));
    }
    Ok(chain)
}

/// Whether a connection comes from this host.
pub(crate) fn is_near(peer: SocketAddr, own: SocketAddr) -> bool {
    let peer = peer.ip().to_canonical();
    peer.is_loopback() || peer == own.ip().to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty");
        std::fs::write(&empty, "").unwrap();
        let check = |cert: Option<&Path>, key: Option<&Path>, expect: &str| {
            let serve = Serve {
                tls_cert: cert.map(Path::to_owned),
                tls_key: key.map(Path::to_owned),
                ..Serve::default()
            };
            let error = Tls::load(&serve).err().unwrap().to_string();
            assert!(error.contains(expect), "{error}");
        };
        assert!(Tls::load(&Serve::default()).unwrap().is_none());
        check(Some(&empty), None, "`serve.tls_key` is not");
        check(None, Some(&empty), "`serve.tls_cert` is not");
        check(Some(&empty), Some(&empty), "no certificate was found");
        let gone = dir.path().join("gone");
        check(Some(&gone), Some(&empty), "serve.tls_cert");
    }

    #[test]
    fn near_and_far() {
        let at = |text: &str| text.parse().unwrap();
        let own = at("10.0.0.1:7474");
        assert!(is_near(at("127.0.0.1:5"), own));
        assert!(is_near(at("[::1]:5"), own));
        assert!(is_near(at("[::ffff:127.0.0.1]:5"), own));
        assert!(is_near(at("10.0.0.1:5"), own));
        assert!(!is_near(at("10.0.0.2:5"), own));
    }
}
