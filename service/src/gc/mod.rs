//! Garbage collection: what nobody needs goes while the service serves.
//!
//! A run looks at everything ([`plan`] decides, and says why), removes tags, then manifests, then
//! what repositories have of blobs, then blobs. What is in use stays ([`roots`]), what the settings
//! `gc.*` let go goes. A dry run ends after the plan.
//!
//! Nothing is taken from somebody who relies on it. Each removal is made under the lock that those
//! take who are told that the thing is there, and only if nobody was told within the grace, counted
//! back from the oldest operation that is under way ([`chalk_store::uses`]); it is refused
//! otherwise, and the thing stays for the next run. Blobs are looked for again after manifests went,
//! so that those of a manifest whose removal was refused stay. The order of removals is the
//! order in which things hold each other, each durable before the next: a crash leaves garbage, and
//! nothing that is broken. `docs/gc.md` has the whole protocol.

mod act;
mod external;
mod extras;
mod graph;
mod judge;
mod plan;
mod roots;
#[cfg(test)]
mod tests;
mod words;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use chalk_core::wire::{CollectArea, CollectItem, CollectSummary, CollectTotal};
use chalk_core::{AnyDigest, Digest};
use chalk_store::uses::Horizon;
use chalk_store::{BlobError, BlobStore};
use tokio::sync::Mutex;

use crate::builds::{Builds, BuildsError};
use crate::catalog::{Catalog, CatalogError, NAME_NOTE};
use crate::engine::{CacheEntry, CacheKind, Engine, EngineError};
use crate::fleet::Fleet;
use crate::places::{BUILD_CACHE, IMAGES, NAMES, Name, STEPS};
use crate::projects::Projects;
use crate::registry::collect::{Read, Survey};
use crate::registry::{Bucket, EmbeddedError, Registry};
use crate::settings;
use crate::volumes::{VolumeError, Volumes};
use act::Sweep;
use external::Dropped;
use extras::{Extra, What};
use plan::{Input, Item, Plan, TagToGo};
use words::bytes;

/// Pause before the first run, so that a service that is often started again collects, too.
const FIRST: Duration = Duration::from_secs(600);
/// Uploads hold blobs back for so long at most: one that gets a byte now and then must not do so
/// for ever.
const LONGEST_UPLOAD: Duration = Duration::from_secs(7 * 24 * 3600);

/// Why a collection broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CollectError {
    /// The store failed.
    #[error(transparent)]
    Blobs(#[from] BlobError),
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] EmbeddedError),
    /// The index or the registry of images failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The records of builds failed.
    #[error(transparent)]
    Builds(#[from] BuildsError),
    /// The volumes failed.
    #[error("the volumes failed: {0}")]
    Volumes(String),
    /// The caches of the builder failed.
    #[error("the builder's caches failed: {0}")]
    Caches(String),
    /// The service stops.
    #[error("the service stops")]
    Stopping,
}

impl From<VolumeError> for CollectError {
    fn from(error: VolumeError) -> Self {
        Self::Volumes(error.to_string())
    }
}

impl From<EngineError> for CollectError {
    fn from(error: EngineError) -> Self {
        Self::Caches(error.to_string())
    }
}

type Result<T, E = CollectError> = std::result::Result<T, E>;

/// What is collected.
pub(crate) struct Parts {
    pub(crate) settings: settings::Gc,
    /// The registry, if it is the embedded one.
    pub(crate) registry: Option<Registry>,
    pub(crate) blobs: BlobStore,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) builds: Arc<Builds>,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) volumes: Arc<Volumes>,
    pub(crate) projects: Arc<Projects>,
}

/// Collects garbage, one run at a time.
pub(crate) struct Collector {
    parts: Parts,
    /// Held by the run; what earlier ones read.
    running: Mutex<Read>,
}

/// What a run did, or would do.
#[derive(Debug)]
pub(crate) struct Collected {
    pub(crate) items: Vec<CollectItem>,
    pub(crate) summary: CollectSummary,
}

/// Everything that a run decides.
struct Decided {
    horizon: Horizon,
    plan: Plan,
    /// Of the external registry, if there is one.
    external: Plan,
    extras: Vec<Extra>,
    /// Names that entries of the directory of names file, by the tag of the entry.
    filed: HashMap<String, String>,
    /// Blobs that no manifest names and that are needed.
    needed: HashSet<Digest>,
}

impl Collector {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            parts,
            running: Mutex::default(),
        }
    }

    /// Collects now and then, as the settings say, until the task is dropped.
    pub(crate) async fn run(&self) {
        let Some(every) = self.parts.settings.interval else {
            return;
        };
        let mut pause = every.min(FIRST);
        loop {
            tokio::time::sleep(pause).await;
            pause = every;
            match self.collect(false).await {
                Ok(done) => {
                    let summary = &done.summary;
                    let freed = bytes(summary.freed_bytes);
                    tracing::info!(freed, seconds = summary.seconds, "garbage is collected");
                }
                Err(error) => tracing::warn!(%error, "garbage is not collected"),
            }
        }
    }

    /// Collects, or says what would go; after a run that is under way.
    ///
    /// # Errors
    /// [`EmbeddedError::BucketShared`]; when something cannot be read or removed. What went by then is
    /// gone.
    pub(crate) async fn collect(&self, dry_run: bool) -> Result<Collected> {
        let mut read = self.running.lock().await;
        let bucket = self.parts.registry.as_ref().and_then(Registry::bucket);
        let Some(bucket) = bucket.cloned() else {
            return self.collect_alone(dry_run, &mut read).await;
        };
        let grace = self.parts.settings.grace;
        // Dropped when the service stops, at whichever point, it ends all the same.
        let collection = blocking(move || Ok(bucket.begin_collection(grace)?)).await?;
        let collected = self.collect_alone(dry_run, &mut read).await;
        blocking(move || {
            collection.end();
            Ok(())
        })
        .await?;
        collected
    }

    /// Waits until a run that was dropped has told other services of a bucket that it ended.
    pub(crate) async fn ended(&self) {
        let bucket = self.parts.registry.as_ref().and_then(Registry::bucket);
        while bucket.is_some_and(Bucket::collects) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn collect_alone(&self, dry_run: bool, read: &mut Read) -> Result<Collected> {
        let (started, clock) = (jiff::Timestamp::now(), Instant::now());
        let mut decided = self.decide(read).await?;
        if !dry_run {
            self.carry_out(&mut decided, read).await?;
        }
        let extras = decided.extras.into_iter().map(|extra| extra.item);
        let extras = decided.external.items.into_iter().chain(extras);
        let items: Vec<CollectItem> = decided
            .plan
            .items
            .into_iter()
            .chain(extras)
            .map(told)
            .collect();
        let mut areas: BTreeMap<CollectArea, CollectTotal> = BTreeMap::new();
        for item in &items {
            let total = areas.entry(item.area).or_default();
            total.kept += u64::from(!item.freed);
            total.freed += u64::from(item.freed);
            total.freed_bytes += item.frees;
        }
        let summary = CollectSummary {
            dry_run,
            started: started.to_string(),
            seconds: clock.elapsed().as_secs_f64(),
            freed_bytes: areas.values().map(|total| total.freed_bytes).sum(),
            areas,
        };
        Ok(Collected { items, summary })
    }

    /// When the oldest operation began that holds no lease.
    fn oldest(&self) -> Result<Option<SystemTime>> {
        let mut oldest = self.parts.builds.oldest();
        if let Some(registry) = &self.parts.registry {
            let uploads = registry.uploads().list().map_err(EmbeddedError::from)?;
            let bound = SystemTime::now().checked_sub(LONGEST_UPLOAD);
            let begun = uploads.into_iter().map(|upload| upload.begun);
            let begun = begun.map(|begun| bound.map_or(begun, |bound| begun.max(bound)));
            oldest = oldest.into_iter().chain(begun).min();
        }
        Ok(oldest)
    }

    async fn decide(&self, read: &mut Read) -> Result<Decided> {
        let parts = &self.parts;
        let settings = &parts.settings;
        let embedded = parts.registry.is_some();
        // First of all: what is used from now on is used after it.
        let horizon = parts.blobs.horizon(settings.grace, self.oldest()?);
        let mut in_use = roots::in_use(&parts.fleet, &parts.builds);
        let caches = parts.engine.caches().await?;
        let noted = |cache: &&CacheEntry| matches!(cache.kind, CacheKind::Step | CacheKind::Shared);
        for cache in caches.iter().filter(noted) {
            if let Ok(key) = format!("sha256:{}", cache.name).parse() {
                in_use.steps.insert(key, cache.used);
            }
            // With an external registry, a note is all that names the layers here.
            if parts.registry.is_none() {
                let layers = cache.blobs.iter();
                in_use
                    .blobs
                    .extend(layers.map(|layer| (*layer, "a cached step")));
            }
        }
        let (mut external, mut outside) = (Plan::default(), Survey::default());
        if !embedded {
            let (survey, blobs) = external::survey(&parts.catalog, &mut in_use, read).await?;
            external = plan::plan(&Input {
                survey: &survey,
                blobs: &blobs,
                in_use: &in_use,
                policy: settings,
                horizon: horizon.wall,
                now: SystemTime::now(),
                resolve: &sha256,
                // They are in the store here, and stay for the grace only.
                files: &|_| Vec::new(),
            });
            outside = survey;
        }
        let volumes = parts.volumes.clone();
        let (registry, blobs) = (parts.registry.clone(), parts.blobs.clone());
        let policy = settings.clone();
        let mut known = std::mem::take(read);
        let work = move || {
            let versions = volumes.reachable()?.into_iter();
            in_use
                .blobs
                .extend(versions.map(|blob| (blob, "a version of a volume")));
            let (plan, survey) = act::look(
                registry.as_ref(),
                &blobs,
                &in_use,
                &policy,
                &horizon,
                &mut known,
            )?;
            let needed = in_use.blobs.into_keys().collect();
            Ok((known, plan, filed(&survey), needed, survey))
        };
        let (known, plan, filed, needed, survey) = blocking(work).await?;
        *read = known;
        let mut extras = self.uploads()?;
        extras.extend(self.objects().await?);
        let (steps, going) = match embedded {
            true => (&survey, &plan),
            false => (&outside, &external),
        };
        extras.extend(self.caches(caches, &horizon, steps, going));
        extras.extend(self.builds().await?);
        if self.in_bucket() {
            extras.extend(self.copies(&needed, &horizon).await?);
        }
        Ok(Decided {
            horizon,
            plan,
            external,
            extras,
            filed,
            needed,
        })
    }

    /// Whether the registry lies in a bucket, and blobs here are copies.
    fn in_bucket(&self) -> bool {
        let registry = self.parts.registry.as_ref();
        registry.is_some_and(|registry| registry.bucket().is_some())
    }

    async fn carry_out(&self, decided: &mut Decided, read: &mut Read) -> Result<()> {
        if let Some(registry) = &self.parts.registry {
            self.drop_tags(registry, decided).await?;
            self.drop_manifests(registry, decided).await?;
        } else {
            let Plan {
                tags, manifests, ..
            } = &decided.external;
            let catalog = &self.parts.catalog;
            let dropped = external::drop_tags(catalog, tags, manifests, &decided.horizon).await;
            let tags = std::mem::take(&mut decided.external.tags);
            for (tag, dropped) in tags.iter().zip(dropped) {
                let Some(item) = tag.item else { continue };
                let item = &mut decided.external.items[item];
                match dropped {
                    Dropped::Gone => {}
                    Dropped::Stays => item.stays(),
                    Dropped::Failed(why) => {
                        item.stays_since(format!("it is not removed: {why}"));
                        keep_note(&mut decided.extras, tag);
                    }
                }
            }
        }
        self.sweep(decided, read).await?;
        for extra in decided.extras.iter_mut().filter(|extra| extra.item.free) {
            if !self.drop_extra(&extra.what, &decided.horizon).await? {
                extra.item.stays();
            }
        }
        match &self.parts.registry {
            Some(registry) => registry.forget_uses(&decided.horizon),
            None => self.parts.blobs.forget_uses(&decided.horizon),
        }
        let projects = self.parts.projects.clone();
        blocking(move || Ok(projects.forget_gone()?)).await
    }

    async fn drop_tags(&self, registry: &Registry, decided: &mut Decided) -> Result<()> {
        let (tags, horizon) = (std::mem::take(&mut decided.plan.tags), decided.horizon);
        let registry = registry.clone();
        let (tags, gone) = blocking(move || {
            let gone = act::drop_tags(&registry, &tags, &horizon)?;
            Ok((tags, gone))
        })
        .await?;
        let (mut images, mut names, mut entries) = (Vec::new(), Vec::new(), Vec::new());
        for (tag, gone) in tags.iter().zip(gone) {
            if !gone {
                if let Some(item) = tag.item {
                    decided.plan.items[item].stays();
                }
                continue;
            }
            match tag.repository.as_str() {
                IMAGES => images.extend(format!("sha256:{}", tag.tag).parse::<Digest>()),
                NAMES => entries.extend(decided.filed.get(&tag.tag)),
                STEPS => {}
                repository => names.extend(format!("{repository}:{}", tag.tag).parse::<Name>()),
            }
        }
        let catalog = &self.parts.catalog;
        catalog.forget(images.clone(), names).await?;
        for hash in images {
            // It may have been built again.
            if catalog.find(&hash).await?.is_none() {
                self.parts.projects.forget_image(&hash);
            }
        }
        for entry in entries {
            if let Ok(name) = entry.parse() {
                catalog.refile(&name).await?;
            }
        }
        Ok(())
    }

    async fn drop_manifests(&self, registry: &Registry, decided: &mut Decided) -> Result<()> {
        let manifests = std::mem::take(&mut decided.plan.manifests);
        let (registry, horizon) = (registry.clone(), decided.horizon);
        let kept = blocking(move || act::drop_manifests(&registry, &manifests, &horizon)).await?;
        let manifests = decided.plan.items.iter_mut();
        let manifests = manifests.filter(|item| item.area == CollectArea::Manifests && item.free);
        for item in manifests.filter(|item| kept.contains(&item.name)) {
            item.stays();
        }
        Ok(())
    }

    /// Takes blobs out of repositories and the store that nothing names now.
    async fn sweep(&self, decided: &mut Decided, read: &mut Read) -> Result<()> {
        let (registry, blobs) = (self.parts.registry.clone(), self.parts.blobs.clone());
        let volumes = self.parts.volumes.clone();
        let mut sweep = Sweep {
            links: std::mem::take(&mut decided.plan.links),
            blobs: std::mem::take(&mut decided.plan.blobs),
            needed: std::mem::take(&mut decided.needed),
        };
        let (mut known, horizon) = (std::mem::take(read), decided.horizon);
        let work = move || {
            // Versions may have come that name what older ones named.
            sweep.needed.extend(volumes.reachable()?);
            let freed = act::sweep(registry.as_ref(), &blobs, sweep, &horizon, &mut known)?;
            Ok((known, freed))
        };
        let (known, freed) = blocking(work).await?;
        *read = known;
        let mut sums: HashMap<usize, u64> = HashMap::new();
        for (item, size) in freed {
            *sums.entry(item).or_default() += size;
        }
        for (place, item) in decided.plan.items.iter_mut().enumerate() {
            let freed = sums.remove(&place).unwrap_or(0);
            if item.area == CollectArea::Blobs && item.free && freed == 0 {
                item.stays();
            }
            item.frees = freed;
        }
        Ok(())
    }
}

/// Keeps the note of a cached step that the registry did not remove: without it, the step would be
/// another builder's from then on, and never go.
fn keep_note(extras: &mut [Extra], tag: &TagToGo) {
    let noted = |extra: &&mut Extra| match &extra.what {
        What::Cache(CacheKind::Step, name) => tag.repository == STEPS && *name == tag.tag,
        What::Cache(CacheKind::Shared, name) => tag.repository == BUILD_CACHE && *name == tag.tag,
        _ => false,
    };
    for extra in extras.iter_mut().filter(noted) {
        extra
            .item
            .stays_since("what it notes is not removed".to_owned());
    }
}

impl Item {
    /// It was used since it was looked at.
    fn stays(&mut self) {
        self.stays_since("it was used while garbage was collected".to_owned());
    }

    fn stays_since(&mut self, why: String) {
        self.free = false;
        self.frees = 0;
        self.why = why;
    }
}

fn told(item: Item) -> CollectItem {
    CollectItem {
        area: item.area,
        name: item.name,
        digest: item.digest.map(|digest| digest.to_string()),
        freed: item.free,
        why: item.why,
        bytes: item.bytes,
        frees: item.frees,
    }
}

/// What entries of the directory of names file, by tag.
fn filed(survey: &Survey) -> HashMap<String, String> {
    let mut filed = HashMap::new();
    let Some(holding) = survey.repositories.get(NAMES) else {
        return filed;
    };
    for (tag, to) in &holding.tags {
        let listed = holding.manifests.get(&to.digest);
        let parts = listed.and_then(|listed| listed.parts.as_ref());
        if let Some(name) = parts.and_then(|parts| parts.annotations.get(NAME_NOTE)) {
            filed.insert(tag.clone(), name.clone());
        }
    }
    filed
}

fn sha256(digest: &AnyDigest) -> Option<Digest> {
    match digest {
        AnyDigest::Sha256(digest) => Some(*digest),
        AnyDigest::Sha512(_) => None,
    }
}

fn age(then: SystemTime) -> Duration {
    SystemTime::now().duration_since(then).unwrap_or_default()
}

/// Runs what blocks where that is allowed.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or(Err(CollectError::Stopping))
}
