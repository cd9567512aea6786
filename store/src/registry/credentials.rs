//! Where the login for a registry comes from.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use docker_credential::{CredentialRetrievalError, DockerCredential};

/// Login for one registry. Never printed: its `Debug` form hides the secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// User name and password, or an access token in the password's place.
    Password {
        /// User name.
        user: String,
        /// Password.
        password: String,
    },
    /// Refresh token of the registry's token service (`identitytoken` in Docker's configuration).
    IdentityToken(String),
    /// Token that is sent as `Authorization: Bearer` as it is.
    Bearer(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { user, .. } => write!(f, "Password({user}, hidden)"),
            Self::IdentityToken(_) => f.write_str("IdentityToken(hidden)"),
            Self::Bearer(_) => f.write_str("Bearer(hidden)"),
        }
    }
}

/// Where credentials are looked up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum CredentialSource {
    /// Nowhere.
    Anonymous,
    /// Docker's `config.json` under `DOCKER_CONFIG`, else `~/.docker`, and the helpers it names.
    #[default]
    Docker,
    /// This `config.json`, and the helpers it names.
    DockerConfig(PathBuf),
    /// A user whose password is all of a small file but the line break at its end, for any registry.
    PasswordFile {
        /// User name.
        user: String,
        /// File with the password.
        file: PathBuf,
    },
}

/// A helper may ask its user for a passphrase, but not for ever.
const HELPER_TIMEOUT: Duration = Duration::from_secs(60);

/// Registries give tokens of some kilobytes for passwords, too.
const PASSWORD_LIMIT: usize = 64 << 10;

/// Outcome of a look-up.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) credential: Option<Credential>,
    /// What to tell the user when access is refused: who was logged in, or where we looked.
    pub(super) told: String,
}

impl CredentialSource {
    /// The login for `registry` (`docker.io`, `127.0.0.1:5000`), to hand on; `None` when there is none
    /// or it cannot be read.
    pub async fn find(&self, registry: &str) -> Option<Credential> {
        self.look_up(registry).await.credential
    }

    /// Looks up the login for `registry` (`docker.io`, `127.0.0.1:5000`). A missing file or entry
    /// is an anonymous login; so is a broken one, which `told` then says.
    pub(super) async fn look_up(&self, registry: &str) -> Found {
        let path = match self {
            Self::Anonymous => None,
            Self::Docker => std::env::var_os("DOCKER_CONFIG")
                .map(PathBuf::from)
                .or_else(|| std::env::home_dir().map(|home| home.join(".docker")))
                .map(|dir| dir.join("config.json")),
            Self::DockerConfig(path) => Some(path.clone()),
            Self::PasswordFile { user, file } => return of_file(user, file).await,
        };
        let Some(path) = path else {
            return Found::nothing("no credentials are configured".to_owned());
        };
        let place = path.display().to_string();
        let names = names_of(registry);
        let read = tokio::task::spawn_blocking(move || read(&path, &names));
        match tokio::time::timeout(HELPER_TIMEOUT, read).await {
            Ok(Ok(Ok(Some(credential)))) => Found {
                told: match &credential {
                    Credential::Password { user, .. } => {
                        format!("logged in as {user} by {place}")
                    }
                    _ => format!("logged in by a token of {place}"),
                },
                credential: Some(credential),
            },
            Ok(Ok(Ok(None))) => Found::nothing(format!("no login for it in {place}")),
            Ok(Ok(Err(problem))) => {
                tracing::warn!(registry, file = %place, problem, "credentials not usable");
                Found::nothing(format!("{place}: {problem}"))
            }
            Ok(Err(_)) => Found::nothing(format!("{place}: the look-up was interrupted")),
            Err(_) => Found::nothing(format!(
                "{place}: the credential helper gave no answer within {} s",
                HELPER_TIMEOUT.as_secs()
            )),
        }
    }
}

impl Found {
    fn nothing(told: String) -> Self {
        Self {
            credential: None,
            told,
        }
    }
}

async fn of_file(user: &str, file: &Path) -> Found {
    let place = file.display().to_string();
    match tokio::fs::read(file).await {
        Ok(bytes) if bytes.len() > PASSWORD_LIMIT => {
            Found::nothing(format!("{place}: is too large for a password"))
        }
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => Found {
                credential: Some(Credential::Password {
                    user: user.to_owned(),
                    password: text.trim_end_matches(['\r', '\n']).to_owned(),
                }),
                told: format!("logged in as {user} by {place}"),
            },
            Err(_) => Found::nothing(format!("{place}: is not text")),
        },
        Err(error) => Found::nothing(format!("{place}: {error}")),
    }
}

/// Names under which Docker and its helpers keep the login for `registry`.
fn names_of(registry: &str) -> Vec<String> {
    if registry == "docker.io" {
        return vec![
            "https://index.docker.io/v1/".to_owned(),
            registry.to_owned(),
        ];
    }
    vec![registry.to_owned(), format!("https://{registry}")]
}

fn read(path: &Path, names: &[String]) -> Result<Option<Credential>, String> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.to_string()),
    };
    for name in names {
        match docker_credential::get_credential_from_reader(&bytes[..], name) {
            Ok(DockerCredential::UsernamePassword(user, password)) => {
                return Ok(Some(Credential::Password { user, password }));
            }
            Ok(DockerCredential::IdentityToken(token)) => {
                return Ok(Some(Credential::IdentityToken(token)));
            }
            Err(CredentialRetrievalError::NoCredentialConfigured) => {}
            // The protocol's way of saying "none": the text below on standard output.
            Err(CredentialRetrievalError::HelperFailure { stdout, .. })
                if stdout.contains("credentials not found") => {}
            // A helper's output may hold secrets: only its name and exit are told.
            Err(CredentialRetrievalError::HelperFailure { helper, .. }) => {
                return Err(format!("credential helper `{helper}` failed"));
            }
            Err(CredentialRetrievalError::ConfigReadError) => {
                return Err("is not a Docker configuration in JSON".to_owned());
            }
            Err(other) => return Err(other.to_string()),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_docker_configurations() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let check =
            |text: Option<&str>, registry: &str, expect: Result<Option<Credential>, &str>| {
                match text {
                    Some(text) => std::fs::write(&path, text).unwrap(),
                    None => drop(std::fs::remove_file(&path)),
                }
                let got = read(&path, &names_of(registry));
                assert_eq!(got, expect.map_err(str::to_owned), "{registry} in {text:?}");
            };
        let login = |user: &str, password: &str| {
            Ok(Some(Credential::Password {
                user: user.to_owned(),
                password: password.to_owned(),
            }))
        };
        // "dTpwOnE=" is `u:p:q`: only the first colon parts.
        let hub = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpwOnE="}}}"#;
        check(Some(hub), "docker.io", login("u", "p:q"));
        check(Some(hub), "ghcr.io", Ok(None));
        let other = r#"{"auths":{"https://r.example:5000":{"username":"a","password":"b"}}}"#;
        check(Some(other), "r.example:5000", login("a", "b"));
        check(Some(other), "r.example", Ok(None));
        let token = r#"{"auths":{"r.example":{"auth":"dTo=","identitytoken":"t"}}}"#;
        check(
            Some(token),
            "r.example",
            Ok(Some(Credential::IdentityToken("t".into()))),
        );
        check(None, "docker.io", Ok(None));
        check(Some("{}"), "docker.io", Ok(None));
        check(
            Some("not json"),
            "docker.io",
            Err("is not a Docker configuration in JSON"),
        );
        check(
            Some(r#"{"credHelpers":{"r.example":"chalk-has-no-such-helper"}}"#),
            "r.example",
            Err("Unable to communicate with credential helper"),
        );
    }

    #[tokio::test]
    async fn passwords_of_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        for (text, expect) in [
            (Some(&b"geheim\n"[..]), Some("geheim")),
            (Some(b" a b\r\n"), Some(" a b")),
            (Some(b"\xff"), None),
            (Some(&[b'x'; PASSWORD_LIMIT + 1]), None),
            (None, None),
        ] {
            match text {
                Some(text) => std::fs::write(&path, text).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
            let found = of_file("me", &path).await;
            let expect = expect.map(|password| Credential::Password {
                user: "me".to_owned(),
                password: password.to_owned(),
            });
            assert_eq!(found.credential, expect);
            assert!(found.told.contains("password") && !found.told.contains("geheim"));
        }
    }

    #[test]
    fn debug_hides_secrets() {
        let login = Credential::Password {
            user: "me".into(),
            password: "geheim".into(),
        };
        assert_eq!(format!("{login:?}"), "Password(me, hidden)");
        let token = Credential::Bearer("geheim".into());
        assert!(!format!("{token:?}").contains("geheim"));
    }
}
