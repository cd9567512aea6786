//! What a node remembers of having joined: the file `credentials.json` of its directory, mode 0600.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use chalk_store::failpoint::{Step, around};
use serde::{Deserialize, Serialize};

/// Name of the file.
const FILE: &str = "credentials.json";

/// The credentials cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is damaged.
    #[error(
        "{} holds no credentials ({reason}): remove it and join again with a join token",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// A node that joined.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// Name under which it joined.
    pub name: String,
    /// Region that it was put in.
    pub region: String,
    /// Its token.
    pub token: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("name", &self.name)
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// Those kept in `dir`, if any.
    ///
    /// # Errors
    /// When the file cannot be read or holds something else.
    pub fn load(dir: &Path) -> Result<Option<Self>, CredentialsError> {
        let path = dir.join(FILE);
        match std::fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(credentials) => Ok(Some(credentials)),
                // The reason must not repeat what stands in the file.
                Err(e) => Err(CredentialsError::Damaged {
                    path,
                    reason: format!("line {}, column {}", e.line(), e.column()),
                }),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(fault("read", path, e)),
        }
    }

    /// Keeps them in `dir`; whole or not at all, whatever happens.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn save(&self, dir: &Path) -> Result<(), CredentialsError> {
        let path = dir.join(FILE);
        let write = || -> io::Result<()> {
            // Temporary files are made with mode 0600.
            let mut temp = tempfile::NamedTempFile::new_in(dir)?;
            temp.write_all(&serde_json::to_vec(self)?)?;
            temp.as_file().sync_all()?;
            around(Step::NodeCredentials, || temp.persist(&path)).map_err(|e| e.error)?;
            File::open(dir)?.sync_all()
        };
        write().map_err(|e| fault("write", path.clone(), e))
    }

    /// Forgets those kept in `dir`.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn forget(dir: &Path) -> Result<(), CredentialsError> {
        let path = dir.join(FILE);
        let remove = || match std::fs::remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
            Ok(()) => File::open(dir)?.sync_all(),
        };
        remove().map_err(|e| fault("remove", path.clone(), e))
    }
}

fn fault(action: &'static str, path: PathBuf, source: io::Error) -> CredentialsError {
    CredentialsError::Io {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn kept_private_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Credentials::load(dir.path()).unwrap(), None);
        let credentials = Credentials {
            name: "n1".into(),
            region: "eu".into(),
            token: "s3cret".into(),
        };
        credentials.save(dir.path()).unwrap();
        let mode = std::fs::metadata(dir.path().join(FILE)).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
        assert_eq!(
            Credentials::load(dir.path()).unwrap().as_ref(),
            Some(&credentials)
        );
        assert!(!format!("{credentials:?}").contains("s3cret"));
        Credentials::forget(dir.path()).unwrap();
        Credentials::forget(dir.path()).unwrap();
        assert_eq!(Credentials::load(dir.path()).unwrap(), None);

        std::fs::write(dir.path().join(FILE), "{\"token\": \"s3cret\", 3").unwrap();
        let error = Credentials::load(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("line 1") && !error.contains("s3cret"),
            "{error}"
        );
    }
}
