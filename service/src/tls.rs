//! TLS on the service's port, when a certificate is set.
//!
//! One port speaks both: a connection that begins with a TLS record (RFC 8446, section 5.1) gets TLS.
//! Plain connections are then for this host alone, where the command and the node of the same process
//! go on as before.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{self, ServerConfig};

use crate::settings::Serve;

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

/// What takes TLS connections, when a certificate is set. Reads files.
///
/// # Errors
/// When certificate or key cannot be used.
pub(crate) fn acceptor(serve: &Serve) -> Result<Option<TlsAcceptor>, TlsError> {
    let half = |there, missing| Err(TlsError::Half { there, missing });
    let (cert, key) = match (&serve.tls_cert, &serve.tls_key) {
        (None, None) => return Ok(None),
        (Some(_), None) => return half("serve.tls_cert", "serve.tls_key"),
        (None, Some(_)) => return half("serve.tls_key", "serve.tls_cert"),
        (Some(cert), Some(key)) => (cert, key),
    };
    let chain = certificates(cert)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| TlsError::File {
        path: key.clone(),
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
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
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
            let error = acceptor(&serve).err().unwrap().to_string();
            assert!(error.contains(expect), "{error}");
        };
        assert!(acceptor(&Serve::default()).unwrap().is_none());
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
