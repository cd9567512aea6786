//! All images that there are, by the digests of their documents. Documents are made when somebody
//! asks for them, since ten thousand images have some forty thousand.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use chalk_core::{Digest, Reference, Spec};
use chalk_service::index::Known;
use chalk_service::places::import;
use jiff::{SignedDuration, Timestamp};
use rand::Rng as _;

use crate::chance;
use crate::documents::{self, Documents, Layer};
use crate::specs::{self, Version};

/// Where the spec of an image comes from.
#[derive(Debug, Clone)]
enum Origin {
    /// It is made up.
    MadeUp(Version),
    /// A client sent it.
    Given(Arc<Spec>),
    /// It is a base, which was not built here.
    Base(Arc<Spec>),
}

/// An image.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    /// Image hash.
    pub(crate) hash: Digest,
    /// Digest of its manifest.
    pub(crate) manifest: Digest,
    /// Bytes of its layers.
    pub(crate) size: u64,
    /// Number of its layers.
    pub(crate) layers: usize,
    /// When it was built.
    created: String,
    origin: Origin,
    parts: [Digest; 3],
}

/// A document of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Manifest,
    Config,
    Spec,
    Referrer,
}

impl Made {
    /// Whether it was built, rather than being a base.
    pub(crate) fn is_built(&self) -> bool {
        !matches!(self.origin, Origin::Base(_))
    }
}

#[derive(Default)]
struct State {
    images: BTreeMap<Digest, Made>,
    documents: HashMap<Digest, (Digest, Part)>,
    /// Keys of the steps that are cached.
    steps: BTreeSet<Digest>,
}

/// All images.
pub(crate) struct Catalogue {
    seed: u64,
    repositories: u32,
    state: RwLock<State>,
}

impl Catalogue {
    /// As many made-up images, the newest built just now.
    pub(crate) fn new(seed: u64, images: u32) -> Self {
        let this = Self {
            seed,
            repositories: specs::repositories(images),
            state: RwLock::default(),
        };
        let now = Timestamp::now();
        for at in 0..images {
            let version = Version {
                repository: at % this.repositories,
                number: at / this.repositories,
            };
            // Newer versions lie closer together, as those of projects that grow do.
            let share = 1.0 - f64::from(at + 1) / f64::from(images);
            let mut rng = chance::of(seed, format_args!("age {at}"));
            let days = 200.0 * share.powf(1.5) + rng.random_range(0.0..0.2);
            let age = SignedDuration::from_secs((days * 86_400.0) as i64);
            let created = now.checked_sub(age).unwrap_or(now);
            this.keep(Origin::MadeUp(version), &created.to_string());
        }
        for reference in specs::bases() {
            let spec = Spec::new(specs::base(reference));
            this.keep(Origin::Base(Arc::new(spec)), &now.to_string());
        }
        this
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of repositories.
    pub(crate) fn repositories(&self) -> u32 {
        self.repositories
    }

    /// What the index of the service is to know: images and names.
    pub(crate) fn index(&self) -> (BTreeMap<Digest, Known>, BTreeMap<String, Digest>) {
        let (mut images, mut names) = (BTreeMap::new(), BTreeMap::new());
        for made in &self.all() {
            let spec = self.spec_of(&made.origin);
            images.insert(
                made.hash,
                Known {
                    digest: made.manifest,
                    platform: spec.platform.clone(),
                    size: made.size,
                    layers: made.layers,
                    created: made.created.clone(),
                },
            );
            names.extend(self.name_of(made).map(|name| (name, made.hash)));
        }
        (images, names)
    }

    /// The name of an image; some have none any more, as where a tag moved on.
    fn name_of(&self, made: &Made) -> Option<String> {
        let Origin::MadeUp(version) = made.origin else {
            return None;
        };
        let mut rng = chance::of(self.seed, format_args!("named {version:?}"));
        rng.random_bool(0.85)
            .then(|| specs::name(self.seed, version))
    }

    /// Tags besides those of the hashes: repository, tag, digest of the manifest.
    pub(crate) fn tags(&self) -> Vec<(String, String, Digest)> {
        let state = self.read();
        let tags = state.images.values().filter_map(|made| {
            let (repository, tag) = match &made.origin {
                // As what was imported, where the service looks for it first.
                Origin::Base(spec) => import(&spec.result_base()?.reference),
                _ => {
                    let name = self.name_of(made)?;
                    let (repository, tag) = name.split_once(':')?;
                    (repository.to_owned(), tag.to_owned())
                }
            };
            Some((repository, tag, made.manifest))
        });
        tags.collect()
    }

    /// The image of a base.
    pub(crate) fn base(&self, reference: &str) -> Option<Made> {
        let wanted: Reference = reference.parse().ok()?;
        let state = self.read();
        let mut images = state.images.values();
        let is_it = |made: &&Made| match &made.origin {
            Origin::Base(spec) => spec
                .result_base()
                .is_some_and(|base| base.reference == wanted),
            _ => false,
        };
        images.find(is_it).cloned()
    }

    /// Publishes an image that was built now.
    pub(crate) fn publish(&self, spec: &Spec) -> Option<Made> {
        let hash = spec.image_hash()?;
        let origin = Origin::Given(Arc::new(spec.clone()));
        let made = self.keep(origin, &Timestamp::now().to_string());
        (made.hash == hash).then_some(made)
    }

    fn keep(&self, origin: Origin, created: &str) -> Made {
        let spec = self.spec_of(&origin);
        let documents = Documents::of(&spec, created);
        let digests = [&documents.config, &documents.spec, &documents.referrer];
        let made = Made {
            hash: spec.image_hash().unwrap_or_else(|| spec.recipe_hash()),
            manifest: Digest::of(&documents.manifest),
            size: documents.size(),
            layers: documents.layers.len(),
            created: created.to_owned(),
            parts: digests.map(|bytes| Digest::of(bytes)),
            origin,
        };
        let mut state = self.write();
        state
            .documents
            .insert(made.manifest, (made.hash, Part::Manifest));
        for (digest, part) in made
            .parts
            .into_iter()
            .zip([Part::Config, Part::Spec, Part::Referrer])
        {
            state.documents.insert(digest, (made.hash, part));
        }
        let keys = spec.steps_with_keys().into_iter().map(|step| step.key);
        state.steps.extend(keys);
        state.images.insert(made.hash, made.clone());
        made
    }

    fn spec_of(&self, origin: &Origin) -> Arc<Spec> {
        match origin {
            Origin::MadeUp(version) => Arc::new(specs::spec(self.seed, *version)),
            Origin::Given(spec) | Origin::Base(spec) => spec.clone(),
        }
    }

    /// Removes an image by the digest of its manifest, or that of its referrer.
    pub(crate) fn remove(&self, digest: &Digest) -> bool {
        let mut state = self.write();
        match state.documents.get(digest).copied() {
            Some((hash, Part::Manifest)) => match state.images.remove(&hash) {
                Some(made) => {
                    state.documents.remove(&made.manifest);
                    for digest in made.parts {
                        state.documents.remove(&digest);
                    }
                    true
                }
                None => false,
            },
            Some((_, Part::Referrer)) => state.documents.remove(digest).is_some(),
            _ => false,
        }
    }

    /// The image of that hash.
    pub(crate) fn image(&self, hash: &Digest) -> Option<Made> {
        self.read().images.get(hash).cloned()
    }

    /// The image of that manifest.
    pub(crate) fn of_manifest(&self, manifest: &Digest) -> Option<Made> {
        let state = self.read();
        let (hash, part) = state.documents.get(manifest)?;
        let made = state.images.get(hash)?;
        (*part == Part::Manifest).then(|| made.clone())
    }

    /// All images that were built, in an order that has nothing to do with their ages.
    pub(crate) fn all(&self) -> Vec<Made> {
        let state = self.read();
        let built = state.images.values().filter(|made| made.is_built());
        built.cloned().collect()
    }

    /// A document by its digest, and whether it is a manifest.
    pub(crate) fn document(&self, digest: &Digest) -> Option<(Vec<u8>, bool)> {
        let (made, part) = {
            let state = self.read();
            let (hash, part) = *state.documents.get(digest)?;
            (state.images.get(&hash)?.clone(), part)
        };
        let documents = self.documents(&made);
        Some(match part {
            Part::Manifest => (documents.manifest, true),
            Part::Referrer => (documents.referrer, true),
            Part::Config => (documents.config, false),
            Part::Spec => (documents.spec, false),
        })
    }

    fn documents(&self, made: &Made) -> Documents {
        Documents::of(&self.spec_of(&made.origin), &made.created)
    }

    /// Layers of an image, base first.
    pub(crate) fn layers(&self, made: &Made) -> Vec<Layer> {
        self.documents(made).layers
    }

    /// What refers to a manifest.
    pub(crate) fn referrers(&self, manifest: &Digest) -> Vec<serde_json::Value> {
        let Some(made) = self.of_manifest(manifest) else {
            return Vec::new();
        };
        let referrer = self.documents(&made).referrer;
        let digest = Digest::of(&referrer);
        if !self.read().documents.contains_key(&digest) {
            return Vec::new();
        }
        vec![documents::referrer_entry(
            digest,
            referrer.len(),
            &made.created,
        )]
    }

    /// Whether the result of a step is cached.
    pub(crate) fn has_step(&self, key: &Digest) -> bool {
        self.read().steps.contains(key)
    }

    /// Keeps the result of a step.
    pub(crate) fn put_step(&self, key: Digest) {
        self.write().steps.insert(key);
    }
}
