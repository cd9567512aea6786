//! How builders log in to the regional registry.

use chalk_store::registry::{Credential, CredentialSource};

use crate::engine::Secret;

/// Where the login comes from.
#[derive(Debug, Clone)]
pub enum LoginSource {
    /// It is always this.
    Fixed {
        /// User.
        user: String,
        /// Password or token.
        secret: Secret,
    },
    /// As the service itself logs in there.
    Own(CredentialSource),
}

/// User and password for one registry.
#[derive(Debug, Clone)]
pub(super) struct Login {
    /// `host[:port]` of the registry.
    pub(super) host: String,
    /// User.
    pub(super) user: String,
    /// Password or token.
    pub(super) secret: Secret,
}

impl LoginSource {
    /// The login for a registry, if there is one that builders can use.
    pub(super) async fn find(&self, host: &str) -> Option<Login> {
        let (user, secret) = match self {
            Self::Fixed { user, secret } => (user.clone(), secret.clone()),
            Self::Own(source) => match source.find(host).await? {
                Credential::Password { user, password } => (user, Secret::new(password)),
                // A token of a kind that a registry gives out itself cannot be handed on.
                _ => return None,
            },
        };
        Some(Login {
            host: host.to_owned(),
            user,
            secret,
        })
    }
}

impl Login {
    /// The password as text.
    pub(super) fn password(&self) -> String {
        String::from_utf8_lossy(self.secret.expose()).into_owned()
    }
}
