//! Where images that the service names are read from, and by which login.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use chalk_core::Reference;
use chalk_core::wire::agent::ImageRef;
use chalk_store::registry::{Client, Credential, Options, TokenBroker};
use tokio::sync::watch;

use crate::agent::AccessWatch;
use crate::cache::{CacheError, ImageSource, Result};
use crate::containerd::{HostsDir, Upstream};

/// User name beside the node's token at the service's registry.
const NODE_USER: &str = "node";

/// The registries of a node that joined a service.
pub(crate) struct Sources {
    access: AccessWatch,
    options: Options,
    hosts: Option<HostsDir>,
    clients: Mutex<BTreeMap<String, Known>>,
}

/// How a registry is read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Way {
    /// The node's token, where the registry takes it as a password.
    password: Option<String>,
    /// The service's URL and the node's token, where the service gets tokens for the registry.
    broker: Option<(String, String)>,
    /// URL of the API, where that is not the usual one.
    api: Option<String>,
}

/// A client, and what it was made with: its connections and logins live as long as that is the same.
struct Known {
    way: Way,
    upstream: Upstream,
    client: Client,
}

impl Sources {
    /// `options` are the node's own settings of registries: mirrors, certificates, logins; `hosts`
    /// is where containerd has its own.
    pub(crate) fn new(access: AccessWatch, options: Options, hosts: Option<HostsDir>) -> Self {
        Self {
            access,
            options,
            hosts,
            clients: Mutex::default(),
        }
    }

    /// Where an image that the service named is read from.
    ///
    /// # Errors
    /// [`CacheError::Image`] for a repository that is none, [`CacheError::Registry`] for settings
    /// that no client can be made of.
    pub(crate) fn source(
        &self,
        image: &ImageRef,
        peers: watch::Receiver<Vec<String>>,
    ) -> Result<ImageSource> {
        let text = format!("{}/{}", image.registry, image.repository);
        let repository: Reference = text.parse().map_err(|e| CacheError::Image {
            image: image.digest,
            detail: format!("`{text}` is no repository: {e}"),
        })?;
        let access = self.access.borrow().clone();
        let access = access.as_ref();
        let way = Way {
            password: access
                .filter(|_| image.node_login)
                .map(|access| access.token.clone()),
            broker: access
                .filter(|_| image.broker)
                .map(|access| (access.url.clone(), access.token.clone())),
            api: image.api.clone(),
        };
        Ok(ImageSource {
            digest: image.digest,
            image_hash: image.image_hash,
            name: image.name.clone(),
            client: self.client(repository.registry(), way)?,
            repository,
            peers,
            access: self.access.clone(),
        })
    }

    fn client(&self, registry: &str, way: Way) -> Result<Client> {
        // Read anew each time, as containerd does: it may have changed.
        let upstream = self.hosts.as_ref().map(|hosts| hosts.upstream(registry));
        let upstream = upstream.transpose()?.unwrap_or_default();
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = clients.get(registry)
            && known.way == way
            && known.upstream == upstream
        {
            return Ok(known.client.clone());
        }
        let mut options = self.options.clone();
        if let Some(token) = &way.password {
            let credential = Credential::Password {
                user: NODE_USER.to_owned(),
                password: token.clone(),
            };
            options.explicit.insert(registry.to_owned(), credential);
        }
        if let Some((service, token)) = &way.broker {
            let broker = TokenBroker {
                url: format!("{service}/v1/agent/registry-token?registry={registry}"),
                credential: Credential::Bearer(token.clone()),
            };
            options.brokers.insert(registry.to_owned(), broker);
        }
        if let Some(api) = &way.api {
            options.roots.insert(registry.to_owned(), api.clone());
        }
        if let Some(hosts) = &self.hosts {
            hosts.add(registry, &upstream, &mut options)?;
        }
        let client = Client::new(options)?;
        let known = Known {
            way,
            upstream,
            client: client.clone(),
        };
        clients.insert(registry.to_owned(), known);
        Ok(client)
    }
}
