//! Regions and their registries.
//!
//! The home region's registry is the service's own (embedded or external). A region with a registry
//! of its own gets a copy of each image that is warmed or started there, and its nodes hear of
//! that registry only; every other region uses the home registry.

mod copy;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use chalk_core::wire::agent::ImageRef;
use chalk_core::wire::{Problem, Region, problem};
use chalk_core::{Digest, Reference};
use chalk_store::BlobStore;

use crate::places::{IMAGES, inside, pullable, upstream_options};
use crate::registry::{External, Regional, RegionalError};
use crate::settings::{self, Settings};
use copy::Flights;

/// An image in the home registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageAt {
    /// Digest of its manifest.
    pub(crate) digest: Digest,
    /// Image hash, when it was built here.
    pub(crate) hash: Option<Digest>,
    /// Repository, without the registry's prefix.
    pub(crate) repository: String,
    /// For people: what it is pulled by.
    pub(crate) name: String,
}

impl ImageAt {
    /// An image that was built here.
    pub(crate) fn built(hash: Digest, digest: Digest, public: &str) -> Self {
        Self {
            digest,
            hash: Some(hash),
            repository: IMAGES.to_owned(),
            name: pullable(public, &hash),
        }
    }
}

/// The registry of a region.
#[derive(Debug, Clone)]
struct Own {
    regional: Arc<dyn Regional>,
    at: settings::RegistryAt,
}

/// All regions.
#[derive(Debug)]
pub(crate) struct Regions {
    home: String,
    home_registry: Arc<dyn Regional>,
    /// `host[:port][/prefix]` of the home registry.
    public: String,
    /// Whether nodes reach the home registry by the address that they reach the service by.
    by_session: bool,
    /// Whether the home registry is the embedded one, which takes tokens of nodes.
    embedded: bool,
    own: BTreeMap<String, Own>,
    blobs: BlobStore,
    flights: Mutex<Flights>,
}

impl Regions {
    /// The regions of the settings; `public` is where others pull from the home registry.
    ///
    /// # Errors
    /// When the address of a registry is wrong.
    pub(crate) fn new(
        settings: &Settings,
        home_registry: Arc<dyn Regional>,
        public: String,
        blobs: BlobStore,
    ) -> Result<Self, RegionalError> {
        let mut own = BTreeMap::new();
        for (region, at) in &settings.regions.registries {
            let mut options = upstream_options(&settings.registry);
            // What is copied must be seen as it is, not as a mirror remembers it.
            options.mirrors.clear();
            let external = External::new(at.url(), at.prefix(), options)?;
            let registry = Own {
                regional: Arc::new(external),
                at: at.clone(),
            };
            own.insert(region.clone(), registry);
        }
        let embedded = settings.registry.url.is_none();
        Ok(Self {
            home: settings.regions.home.clone(),
            home_registry,
            public,
            by_session: embedded && settings.serve.advertise.is_none(),
            embedded,
            own,
            blobs,
            flights: Mutex::default(),
        })
    }

    /// Whether images must be copied before nodes of that region can pull them.
    pub(crate) fn has_own(&self, region: &str) -> bool {
        self.own.contains_key(region)
    }

    /// The image as a node of `region` pulls it that reaches the service by `host`.
    pub(crate) fn image_ref(
        &self,
        region: &str,
        host: &str,
        image: &ImageAt,
        peers: Vec<String>,
    ) -> ImageRef {
        let own = self.own.get(region);
        let (registry, prefix, node_login) = match own {
            Some(own) => (own.at.host(), own.at.prefix(), false),
            None if self.by_session => (host, "", true),
            None => {
                let (host, prefix) = self.public.split_once('/').unwrap_or((&self.public, ""));
                (host, prefix, self.embedded)
            }
        };
        let regional = own.map_or(&self.home_registry, |own| &own.regional);
        let repository = match prefix {
            "" => image.repository.clone(),
            prefix => format!("{prefix}/{}", image.repository),
        };
        ImageRef {
            digest: image.digest,
            image_hash: image.hash,
            registry: registry.to_owned(),
            repository,
            name: self.name_at(&image.name, registry, prefix),
            node_login,
            broker: !node_login,
            api: regional.api().map(str::to_owned),
            peers,
            traceparent: None,
        }
    }

    /// The external registry that nodes of `region` pull from, if it is at `host`, and a repository
    /// of it without its prefix; `None` when that is not theirs, or the embedded one.
    pub(crate) fn external(
        &self,
        region: &str,
        host: &str,
        repository: &str,
    ) -> Option<(Arc<dyn Regional>, String)> {
        let (public, regional) = match self.own.get(region) {
            Some(own) => (own.at.to_string(), &own.regional),
            None if self.embedded => return None,
            None => (self.public.clone(), &self.home_registry),
        };
        let reference = Reference::new(host, repository, None, None).ok()?;
        Some((regional.clone(), inside(&public, &reference)?))
    }

    /// A name in terms of the registry at `host` and `prefix`, where it is one of the home registry:
    /// nodes hear of no other registry than that of their region.
    fn name_at(&self, name: &str, host: &str, prefix: &str) -> String {
        let inside = name.strip_prefix(&*self.public);
        match inside.and_then(|inside| inside.strip_prefix('/')) {
            None => name.to_owned(),
            Some(inside) if prefix.is_empty() => format!("{host}/{inside}"),
            Some(inside) => format!("{host}/{prefix}/{inside}"),
        }
    }

    /// The repository that a reference means, without prefix, if it is one of our registries'.
    pub(crate) fn repository(&self, reference: &Reference) -> Option<String> {
        let own = self.own.values().map(|own| own.at.to_string());
        let all = own.chain([self.public.clone()]);
        // Of registries at one host, the one whose prefix says most.
        all.filter_map(|public| inside(&public, reference))
            .min_by_key(String::len)
    }

    /// All regions that have nodes or a registry, by name.
    pub(crate) fn list(&self, connected: &BTreeMap<String, usize>) -> Vec<Region> {
        let mut names: Vec<&String> = connected.keys().chain(self.own.keys()).collect();
        names.push(&self.home);
        names.sort();
        names.dedup();
        let region = |name: &String| Region {
            name: name.clone(),
            registry: match self.own.get(name) {
                Some(own) => own.at.to_string(),
                None => self.public.clone(),
            },
            home: !self.own.contains_key(name),
            nodes: connected.get(name).copied().unwrap_or(0),
        };
        names.into_iter().map(region).collect()
    }
}

/// What the failure of a registry means for those who wait for an image.
fn registry_problem(title: &str, error: &RegionalError) -> Problem {
    let (kind, status) = match error {
        RegionalError::External(_) => (problem::REGISTRY_UNREACHABLE, 502),
        error if error.is_unreachable() => (problem::REGISTRY_UNREACHABLE, 502),
        _ => (problem::INTERNAL, 500),
    };
    Problem {
        kind: kind.to_owned(),
        title: title.to_owned(),
        status,
        detail: error.to_string(),
        hint: "check the service's settings `regions.registries` and `registry.*`".to_owned(),
    }
}
