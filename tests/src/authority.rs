//! A certificate authority of one test.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::command::{run, tool};

/// An authority that signs certificates of servers and clients by `openssl`.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
}

/// Files of a certificate and its key.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// PEM of the certificate.
    pub certificate: PathBuf,
    /// PEM of the key.
    pub key: PathBuf,
}

impl Authority {
    /// Makes one whose files lie in `folder`.
    #[track_caller]
    pub fn new(folder: &Path) -> Self {
        let authority = Self {
            folder: folder.to_owned(),
        };
        openssl(
            folder,
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
             -subj /CN=test-authority -keyout ca.key -out ca.pem",
        );
        authority
    }

    /// PEM of its certificate.
    pub fn file(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// PKCS #8 of its key, in DER.
    #[track_caller]
    pub fn key(&self) -> Vec<u8> {
        openssl(
            &self.folder,
            "pkcs8 -topk8 -nocrypt -in ca.key -outform DER -out ca.der",
        );
        fs::read(self.folder.join("ca.der")).expect("just made")
    }

    /// A certificate of a server at `address`, or of a client.
    #[track_caller]
    pub fn sign(&self, name: &str, address: IpAddr) -> Certificate {
        let extensions = format!("subjectAltName=IP:{address}\n");
        fs::write(self.folder.join("extensions"), extensions).expect("write");
        openssl(
            &self.folder,
            &format!(
                "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN={name} \
                 -keyout {name}.key -out {name}.csr"
            ),
        );
        openssl(
            &self.folder,
            &format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
                 -extfile extensions -out {name}.pem"
            ),
        );
        Certificate {
            certificate: self.folder.join(format!("{name}.pem")),
            key: self.folder.join(format!("{name}.key")),
        }
    }
}

#[track_caller]
fn openssl(folder: &Path, words: &str) {
    run(tool("openssl", words.split_whitespace()).current_dir(folder)).ok();
}
