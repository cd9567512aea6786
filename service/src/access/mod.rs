//! Who may ask, and for what.
//!
//! | token | who |
//! |---|---|
//! | in the file `token` of the state directory | the administrator |
//! | `cht_…`, made by `chalk token create` | a client, with roles ([`clients`]) |
//! | `cha_…` | a pass: short-lived, for a client, for pulling one image, or for some repositories ([`passes`]) |
//! | `chn_…` | a node ([`crate::nodes::keys`]) |
//! | `chj_…` | a machine that may become a node |
//!
//! What each may do stands in [`rules`], what of it belongs to whom in [`crate::projects`], and what
//! of the registry each sees in [`view`]. [`audit`] keeps who changed what, and [`rates`] how often
//! somebody may ask.

pub(crate) mod audit;
pub(crate) mod clients;
pub(crate) mod passes;
pub(crate) mod rates;
pub(crate) mod rules;
pub(crate) mod view;

use std::sync::Arc;

use base64::Engine as _;
use chalk_core::Digest;
use chalk_core::wire::{DEFAULT_PROJECT, Role};
use jiff::Timestamp;
use subtle::ConstantTimeEq as _;

use crate::nodes::keys::Keys;
use crate::projects::{Projects, Scope};
use crate::signing::SigningKey;
use clients::Clients;
use passes::{Good, Pass, Repository};
use rates::Rates;

/// Who sent a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Principal {
    /// Somebody who may do everything.
    Admin,
    /// A person or program.
    Client(Arc<Grant>),
    /// Somebody who may pull from one repository for a while.
    Puller {
        /// The repository.
        repository: Arc<str>,
        /// Client that the pass was made for; none for the administrator.
        grant: Option<Arc<Grant>>,
    },
    /// The administrator or a client, in these repositories alone.
    Registry {
        /// Client that the pass was made for; none for the administrator.
        grant: Option<Arc<Grant>>,
        /// Repositories, and what may be done in each.
        repositories: Arc<[Repository]>,
    },
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
    /// Project that it belongs to.
    pub(crate) project: Arc<str>,
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
    projects: Arc<Projects>,
    key: SigningKey,
    rates: Rates,
}

impl Access {
    /// `token` is the administrator's, `nodes` are the tokens of nodes and of those that may become
    /// nodes.
    pub(crate) fn new(
        token: String,
        nodes: Arc<Keys>,
        clients: Arc<Clients>,
        projects: Arc<Projects>,
        key: SigningKey,
        rates: Rates,
    ) -> Self {
        Self {
            token,
            nodes,
            clients,
            projects,
            key,
            rates,
        }
    }

    /// How often somebody may ask.
    pub(crate) fn rates(&self) -> &Rates {
        &self.rates
    }

    /// Projects.
    pub(crate) fn projects(&self) -> &Arc<Projects> {
        &self.projects
    }

    /// Clients.
    pub(crate) fn clients(&self) -> &Arc<Clients> {
        &self.clients
    }

    /// What somebody sees; nothing for nodes and machines that may become nodes.
    pub(crate) fn scope(&self, who: &Principal) -> Option<Scope> {
        let grant = match who {
            Principal::Admin => None,
            Principal::Client(grant) => Some(grant),
            Principal::Puller { grant, .. } | Principal::Registry { grant, .. } => grant.as_ref(),
            Principal::Node { .. } | Principal::Removed(_) | Principal::Join(_) => return None,
        };
        Some(match grant {
            None => Scope::all(&self.projects, DEFAULT_PROJECT.into()),
            Some(grant) if grant.has(Role::Admin) => {
                Scope::all(&self.projects, grant.project.clone())
            }
            Some(grant) => Scope::of(&self.projects, grant.project.clone()),
        })
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
                Some(client) => Some(self.counted(self.clients.grant(client, now)?)?),
                None => None,
            };
            return Some(match (pass.good, grant) {
                (Good::Pull { repository }, grant) => Principal::Puller {
                    repository: repository.into(),
                    grant,
                },
                (Good::Registry { repositories }, grant) => Principal::Registry {
                    grant,
                    repositories: repositories.into(),
                },
                (Good::Client, Some(grant)) => Principal::Client(grant),
                (Good::Client, None) => Principal::Admin,
            });
        }
        if let Some(grant) = self.clients.who(token, now) {
            return Some(Principal::Client(self.counted(grant)?));
        }
        self.nodes.who(token)
    }

    /// A client, if its project was not removed.
    fn counted(&self, grant: Arc<Grant>) -> Option<Arc<Grant>> {
        self.projects.has(&grant.project).then_some(grant)
    }
}
