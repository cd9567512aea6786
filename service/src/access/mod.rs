//! Who may ask, and for what.
//!
//! | token | who |
//! |---|---|
//! | in the file `token` of the state directory | the administrator |
//! | `cht_…`, made by `chalk token create` | a client, with roles ([`clients`]) |
//! | `cha_…` | a pass: short-lived, for a client or for pulling one image ([`passes`]) |
//! | `chn_…` | a node ([`crate::nodes::keys`]) |
//! | `chj_…` | a machine that may become a node |
//!
//! What each may do stands in [`rules`].

pub(crate) mod clients;
pub(crate) mod passes;
pub(crate) mod rules;

use std::sync::Arc;

use base64::Engine as _;
use chalk_core::Digest;
use chalk_core::wire::Role;
use jiff::Timestamp;
use subtle::ConstantTimeEq as _;

use crate::nodes::keys::Keys;
use crate::signing::SigningKey;
use clients::Clients;
use passes::{Good, Pass};

/// Who sent a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Principal {
    /// Somebody who may do everything.
    Admin,
    /// A person or program.
    Client(Arc<Grant>),
    /// Somebody who may pull from one repository for a while.
    Puller(Arc<str>),
    /// A node.
    Node {
        /// Its name.
        name: Arc<str>,
        /// SHA-256 of the token.
        token: Digest,
    },
    /// What was a node of that name until it was removed.
    Removed(Arc<str>),
    /// A machine that may join, by the identifier of its token.
    Join(Arc<str>),
}

/// What a client may do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    /// Identifier of the client.
    pub(crate) id: Arc<str>,
    /// What it is called.
    pub(crate) name: String,
    /// Its roles.
    pub(crate) roles: Vec<Role>,
}

impl Grant {
    /// Whether it may do what needs `role`.
    pub(crate) fn has(&self, role: Role) -> bool {
        role == Role::Read || self.roles.contains(&role) || self.roles.contains(&Role::Admin)
    }
}

/// A new token.
pub(crate) struct Token {
    /// The text, for the one who gets it.
    pub(crate) text: String,
    /// What is kept of it.
    pub(crate) hash: Digest,
}

impl Token {
    /// 256 random bits behind `prefix`, which tells people what they found.
    pub(crate) fn new(prefix: &str) -> Self {
        let random: [u8; 32] = rand::random();
        let random = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(random);
        let text = format!("{prefix}{random}");
        let hash = Digest::of(text.as_bytes());
        Self { text, hash }
    }
}

/// All who may ask.
#[derive(Debug)]
pub(crate) struct Access {
    /// The administrator's token.
    token: String,
    nodes: Arc<Keys>,
    clients: Arc<Clients>,
    key: SigningKey,
}

impl Access {
    /// `token` is the administrator's, `nodes` are the tokens of nodes and of those that may become
    /// nodes.
    pub(crate) fn new(
        token: String,
        nodes: Arc<Keys>,
        clients: Arc<Clients>,
        key: SigningKey,
    ) -> Self {
        Self {
            token,
            nodes,
            clients,
            key,
        }
    }

    /// Clients.
    pub(crate) fn clients(&self) -> &Arc<Clients> {
        &self.clients
    }

    /// What the service signs with.
    pub(crate) fn key(&self) -> &SigningKey {
        &self.key
    }

    /// Whose token that is.
    pub(crate) fn who(&self, token: &[u8]) -> Option<Principal> {
        if self.token.as_bytes().ct_eq(token).into() {
            return Some(Principal::Admin);
        }
        let now = Timestamp::now();
        if let Some(pass) = Pass::open(token, &self.key, now) {
            // A pass ends with the client that it was made for.
            let grant = match &pass.client {
                Some(client) => Some(self.clients.grant(client, now)?),
                None => None,
            };
            return Some(match (pass.good, grant) {
                (Good::Pull { repository }, _) => Principal::Puller(repository.into()),
                (Good::Client, Some(grant)) => Principal::Client(grant),
                (Good::Client, None) => Principal::Admin,
            });
        }
        if let Some(grant) = self.clients.who(token, now) {
            return Some(Principal::Client(grant));
        }
        self.nodes.who(token)
    }
}
