//! TLS to a builder: a gRPC server that takes only clients with a certificate of its authority.

use std::process::Command;

use futures_util::{StreamExt as _, stream};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::*;

/// An authority whose files lie in a directory of its own.
struct Authority(tempfile::TempDir);

impl Authority {
    fn new() -> Self {
        let authority = Self(tempfile::tempdir().unwrap());
        authority.openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
             -subj /CN=authority -keyout ca.key -out ca.pem",
        );
        authority
    }

    /// Certificate and key for the address 127.0.0.1 or for a client.
    fn sign(&self, name: &str) -> (PathBuf, PathBuf) {
        std::fs::write(self.file("extensions"), "subjectAltName=IP:127.0.0.1\n").unwrap();
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN={name} \
             -keyout {name}.key -out {name}.csr"
        ));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
             -extfile extensions -out {name}.pem"
        ));
        (
            self.file(&format!("{name}.pem")),
            self.file(&format!("{name}.key")),
        )
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn openssl(&self, words: &str) {
        let mut openssl = Command::new("openssl");
        openssl
            .args(words.split_whitespace())
            .current_dir(self.0.path());
        let ran = openssl.output().unwrap();
        assert!(
            ran.status.success(),
            "{}",
            String::from_utf8_lossy(&ran.stderr)
        );
    }
}

/// Serves gRPC's health check to clients with a certificate of `authority`; gives its port.
async fn builder(authority: &Authority) -> u16 {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for root in certificates(&authority.file("ca.pem"), "test").unwrap() {
        roots.add(root).unwrap();
    }
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let (cert, key) = authority.sign("builder");
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients.build().unwrap())
        .with_single_cert(
            certificates(&cert, "test").unwrap(),
            PrivateKeyDer::from_pem_file(key).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut outside) = acceptor.accept(stream).await else {
                continue;
            };
            let (mut inside, served) = tokio::io::duplex(64 << 10);
            tokio::spawn(
                async move { tokio::io::copy_bidirectional(&mut outside, &mut inside).await },
            );
            let (reporter, health) = tonic_health::server::health_reporter();
            let serving = tonic_health::ServingStatus::Serving;
            reporter.set_service_status("", serving).await;
            let incoming = stream::once(async move { Ok::<_, io::Error>(served) });
            let server = tonic::transport::Server::builder().add_service(health);
            tokio::spawn(server.serve_with_incoming(incoming.chain(stream::pending())));
        }
    });
    port
}

/// Whether a builder at that address answers a service with these settings; else why not.
async fn asked(host: &str, port: u16, settings: &BuildKit) -> Result<(), String> {
    let address = Address::Tcp {
        host: host.to_owned(),
        port,
    };
    let tls = Tls::new(settings).map_err(|error| error.to_string())?;
    let channel = channel(&address, &tls).await?;
    let request = HealthCheckRequest::default();
    let answer = HealthClient::new(channel).check(request).await;
    answer.map(|_| ()).map_err(|status| in_words(&status))
}

#[tokio::test]
async fn builders_and_the_service_know_each_other_by_certificates() {
    let (ours, others) = (Authority::new(), Authority::new());
    let port = builder(&ours).await;
    let settings = |authority: &Authority, client: Option<&Authority>| {
        let signed = client.map(|authority| authority.sign("service"));
        let (cert, key) = signed.unzip();
        BuildKit {
            ca: Some(authority.file("ca.pem")),
            cert,
            key,
            ..BuildKit::default()
        }
    };
    let known = settings(&ours, Some(&ours));
    asked("127.0.0.1", port, &known).await.unwrap();

    let refused = |settings: BuildKit, host: &'static str| async move {
        asked(host, port, &settings).await.unwrap_err()
    };
    let stranger = refused(settings(&others, Some(&ours)), "127.0.0.1").await;
    // Both authorities have one name, so it is the signature that tells them apart.
    assert!(stranger.contains("BadSignature"), "{stranger}");
    let elsewhere = refused(known.clone(), "localhost").await;
    assert!(elsewhere.contains("not valid for name"), "{elsewhere}");
    refused(settings(&ours, None), "127.0.0.1").await;
    refused(settings(&ours, Some(&others)), "127.0.0.1").await;
    refused(BuildKit::default(), "127.0.0.1").await;

    let half = BuildKit { key: None, ..known };
    let half = refused(half, "127.0.0.1").await;
    assert!(half.contains("`build.buildkit.key` is not set"), "{half}");
}
