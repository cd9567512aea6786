//! Where images that the service names are read from, and by which login.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use chalk_core::Reference;
use chalk_core::wire::agent::ImageRef;
use chalk_store::registry::{Client, Credential, Options};
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

/// A client, and what it was made with: its connections and logins live as long as that is the same.
struct Known {
    token: Option<String>,
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
        let access = self.access.borrow();
        let token = access.as_ref().map(|access| access.token.clone());
        drop(access);
        Ok(ImageSource {
            digest: image.digest,
            image_hash: image.image_hash,
            name: image.name.clone(),
            client: self.client(repository.registry(), token.filter(|_| image.node_login))?,
            repository,
            peers,
            access: self.access.clone(),
        })
    }

    fn client(&self, registry: &str, token: Option<String>) -> Result<Client> {
        // Read anew each time, as containerd does: it may have changed.
        let upstream = self.hosts.as_ref().map(|hosts| hosts.upstream(registry));
        let upstream = upstream.transpose()?.unwrap_or_default();
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = clients.get(registry)
            && known.token == token
            && known.upstream == upstream
        {
            return Ok(known.client.clone());
        }
        let mut options = self.options.clone();
        if let Some(token) = &token {
            let credential = Credential::Password {
                user: NODE_USER.to_owned(),
                password: token.clone(),
            };
            options.explicit.insert(registry.to_owned(), credential);
        }
        if let Some(hosts) = &self.hosts {
            hosts.add(registry, &upstream, &mut options)?;
        }
        let client = Client::new(options)?;
        let known = Known {
            token,
            upstream,
            client: client.clone(),
        };
        clients.insert(registry.to_owned(), known);
        Ok(client)
    }
}
