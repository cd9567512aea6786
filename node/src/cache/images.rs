//! The cache as the agent sees it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use chalk_core::wire::agent::ImageRef;
use chalk_core::wire::{CacheListing, CacheUsage, GcReport, GcRequest, Problem, Receipt};
use chalk_core::{Digest, Reference};
use chalk_store::registry::{Client, Credential, Options, TokenBroker};
use tokio::sync::watch;

use super::{Cache, CacheError, ImageSource, Lease, Result};
use crate::agent::{AccessWatch, CacheDelta, Images, PullFailure, PullOrder, PullProgress};

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

/// User name beside the node's token at the service's registry.
const NODE_USER: &str = "node";

/// The cache of a node that joined a service: knows by which login each registry is read.
pub struct NodeImages {
    cache: Cache,
    access: AccessWatch,
    options: Options,
    /// Clients by registry, and how they read it.
    clients: Mutex<BTreeMap<String, (Way, Client)>>,
}

impl NodeImages {
    /// `options` are the node's own settings of registries: mirrors, certificates, logins.
    pub fn new(cache: Cache, access: AccessWatch, options: Options) -> Self {
        Self {
            cache,
            access,
            options,
            clients: Mutex::default(),
        }
    }

    /// The cache itself.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Where an image that the service named is read from.
    ///
    /// # Errors
    /// [`CacheError::Image`] for a repository that is none, [`CacheError::Registry`] for settings
    /// that no client can be made of.
    pub fn source(
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

    /// Holds an image, bringing it in first where it is not there.
    ///
    /// # Errors
    /// As [`Cache::acquire`].
    pub async fn acquire(
        &self,
        image: &ImageRef,
        progress: &watch::Sender<PullProgress>,
    ) -> Result<(Lease, Receipt)> {
        let (_, peers) = watch::channel(image.peers.clone());
        let source = self.source(image, peers)?;
        self.cache.acquire(&source, progress).await
    }

    /// Connections and logins live as long as the way is the same.
    fn client(&self, registry: &str, way: Way) -> Result<Client> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, client)) = clients.get(registry)
            && *of == way
        {
            return Ok(client.clone());
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
        let client = Client::new(options)?;
        clients.insert(registry.to_owned(), (way, client.clone()));
        Ok(client)
    }
}

#[async_trait]
impl Images for NodeImages {
    fn usage(&self) -> CacheUsage {
        self.cache.usage()
    }

    fn revision(&self) -> watch::Receiver<u64> {
        self.cache.revision()
    }

    fn has(&self, digest: Digest) -> bool {
        self.cache.has(&digest)
    }

    fn since(&self, revision: Option<u64>) -> CacheDelta {
        self.cache.since(revision)
    }

    async fn listing(&self) -> Result<CacheListing, Problem> {
        let cache = self.cache.clone();
        let listed = tokio::task::spawn_blocking(move || cache.listing()).await;
        listed.map_err(|_| CacheError::Cancelled.problem())
    }

    async fn pull(&self, order: PullOrder) -> Result<Receipt, PullFailure> {
        let failure = |error: &CacheError| PullFailure {
            problem: error.problem(),
            transient: error.is_transient(),
        };
        let source = self
            .source(&order.image, order.peers)
            .map_err(|e| failure(&e))?;
        let pull = self
            .cache
            .ensure(&source, order.pin.as_deref(), &order.progress);
        let done = tokio::select! {
            done = pull => done,
            () = order.cancel.cancelled() => Err(CacheError::Cancelled),
        };
        done.map_err(|error| failure(&error))
    }

    async fn remove(&self, digest: Digest, unpin: bool) -> Result<GcReport, Problem> {
        self.cache
            .remove(digest, unpin)
            .await
            .map_err(|error| error.problem())
    }

    async fn collect(&self, gc: GcRequest) -> Result<GcReport, Problem> {
        self.cache
            .collect(gc)
            .await
            .map_err(|error| error.problem())
    }

    async fn unpin(&self, digest: Digest, label: &str) -> Result<(), Problem> {
        self.cache
            .unpin(digest, label)
            .await
            .map_err(|error| error.problem())
    }
}
