//! The images in containerd as the agent sees them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use chalk_core::Digest;
use chalk_core::wire::{
    CacheItem, CacheListing, CacheUsage, GcReport, GcRequest, Problem, Receipt,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::api::containerd::services::events::v1::SubscribeRequest;
use super::client::Containerd;
use super::evict::kept;
use super::leases::Lease;
use super::pull::Pulls;
use super::records::{Wanted, names};
use super::view::{Held, Known, Memory};
use crate::agent::{CacheDelta, Images, PullFailure, PullOrder, PullProgress};
use crate::cache::{CacheError, CacheSettings, ImageSource, Result};
use crate::pull::Sources;

/// How often is looked at what is there, besides when containerd says that it changed.
const LOOK: Duration = Duration::from_secs(60);
/// Changes are collected for so long.
const PAUSE: Duration = Duration::from_millis(200);
/// First and longest pause before a containerd that went away is asked again.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// The images in containerd. Clones share them.
#[derive(Clone)]
pub(super) struct ContainerdImages {
    inner: Arc<Inner>,
}

struct Inner {
    pulls: Pulls,
    sources: Sources,
    size_limit: u64,
    known: Mutex<Known>,
    /// Held while one looks.
    memory: tokio::sync::Mutex<Memory>,
    revision: watch::Sender<u64>,
}

/// A watch that ends with this value.
pub(super) struct Watching(JoinHandle<()>);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl ContainerdImages {
    pub(super) fn new(
        containerd: Containerd,
        sources: Sources,
        size_limit: u64,
        parallel: usize,
    ) -> Self {
        let patience = CacheSettings::new("").patience();
        Self {
            inner: Arc::new(Inner {
                pulls: Pulls::new(containerd, parallel, patience),
                sources,
                size_limit,
                known: Mutex::new(Known::new()),
                memory: tokio::sync::Mutex::default(),
                revision: watch::Sender::new(1),
            }),
        }
    }

    pub(super) fn containerd(&self) -> &Containerd {
        &self.inner.pulls.containerd
    }

    /// Follows what happens in containerd.
    pub(super) fn watch(&self) -> Watching {
        let this = self.clone();
        Watching(tokio::spawn(async move {
            let mut pause = AGAIN.0;
            loop {
                let began = Instant::now();
                let Err(error) = this.follow().await else {
                    continue;
                };
                if began.elapsed() > AGAIN.1 {
                    pause = AGAIN.0;
                }
                tracing::warn!(%error, "containerd is not followed; trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(AGAIN.1);
            }
        }))
    }

    /// Looks again whenever something happened, until containerd goes away.
    async fn follow(&self) -> Result<()> {
        const DOING: &str = "follow events";
        let containerd = self.containerd();
        let namespace = &containerd.settings().namespace;
        let topics = ["/images/", "/containers/", "/snapshot/", "/content/"];
        let filter = |topic: &str| format!("namespace==\"{namespace}\",topic~=\"^{topic}\"");
        let request = SubscribeRequest {
            filters: topics.into_iter().map(filter).collect(),
        };
        let mut client = containerd.events();
        // The answer begins with the first event, which may be long in coming.
        let mut subscribing = std::pin::pin!(client.subscribe(request));
        let mut events = None;
        // What happens before containerd has taken the subscription is seen by a second look.
        let mut pause = PAUSE * 5;
        loop {
            self.look().await?;
            let happened = async {
                if events.is_none() {
                    events = Some((&mut subscribing).await?.into_inner());
                }
                match &mut events {
                    Some(events) => events.message().await.map(|event| event.is_some()),
                    None => Ok(false),
                }
            };
            match tokio::time::timeout(pause, happened).await {
                Err(_) => pause = LOOK,
                Ok(Ok(true)) => tokio::time::sleep(PAUSE).await,
                Ok(Ok(false)) => return Ok(()),
                Ok(Err(status)) => return Err(containerd.failure(DOING, &status)),
            }
            // What happened meanwhile is seen by the same look.
            if let Some(events) = &mut events {
                while let Ok(Ok(Some(_))) =
                    tokio::time::timeout(Duration::ZERO, events.message()).await
                {}
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.inner
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at what is there.
    async fn look(&self) -> Result<()> {
        let mut memory = self.inner.memory.lock().await;
        let view = memory.look(self.containerd()).await?;
        let mut known = self.known();
        if known.update(view) {
            self.inner.revision.send_replace(known.revision);
        }
        Ok(())
    }

    fn held(&self, digest: &Digest) -> Option<Held> {
        self.known().view.images.get(digest).cloned()
    }

    fn current_usage(&self) -> CacheUsage {
        self.known().usage(self.inner.size_limit)
    }

    /// Makes room for so many bytes.
    async fn make_room(&self, needed: u64, image: &ImageSource) -> Result<()> {
        let limit = self.inner.size_limit;
        let victims: Vec<Held> = {
            let known = self.known();
            let usage = known.usage(limit);
            let available = limit.saturating_sub(usage.held);
            if needed > available {
                return Err(CacheError::TooSmall {
                    what: format!("image {}", image.name),
                    needed,
                    limit,
                    available,
                    held: usage.held,
                });
            }
            let over = usage.used.saturating_add(needed).saturating_sub(limit);
            let (victims, _) = known.view.victims(over, Some(&image.digest));
            let images = &known.view.images;
            victims
                .iter()
                .filter_map(|v| images.get(v).cloned())
                .collect()
        };
        self.evict(&victims).await
    }

    async fn evict(&self, victims: &[Held]) -> Result<()> {
        if victims.is_empty() {
            return Ok(());
        }
        let before = self.current_usage().layers;
        for held in victims {
            self.containerd().remove_image(held).await?;
        }
        self.look().await?;
        let mut known = self.known();
        let gone = before.saturating_sub(known.view.bytes.len());
        known.evictions += gone as u64;
        Ok(())
    }

    /// Names and pins an image that is there; `None` when it is not, or went meanwhile.
    async fn present(&self, source: &ImageSource, pin: Option<&str>) -> Result<Option<Receipt>> {
        let begin = Instant::now();
        self.look().await?;
        let Some(held) = self.held(&source.digest) else {
            return Ok(None);
        };
        let Some(plan) = self.containerd().plan(source.digest).await? else {
            return Ok(None);
        };
        let record = held
            .records
            .iter()
            .find(|r| r.digest() == Some(source.digest));
        // One that is known by an index alone gets a record of its own.
        let Some(target) = record.map(|record| record.target.clone()) else {
            return Ok(None);
        };
        self.containerd()
            .publish(&Wanted {
                names: names(source),
                target,
                config: plan.config_digest,
                digest: source.digest,
                image_hash: source.image_hash,
                pin: pin.map(str::to_owned),
            })
            .await?;
        self.look().await?;
        let Some(held) = self.held(&source.digest) else {
            return Ok(None);
        };
        // Of a pull that was killed at its very end.
        Lease::end_all(self.containerd(), &source.digest).await?;
        Ok(Some(Receipt {
            digest: source.digest,
            bytes_fetched: 0,
            bytes_from_mirrors: 0,
            bytes_present: held.size,
            digests_verified: 0,
            seconds: begin.elapsed().as_secs_f64(),
        }))
    }

    async fn ensure(
        &self,
        source: &ImageSource,
        pin: Option<&str>,
        progress: &watch::Sender<PullProgress>,
    ) -> Result<Receipt> {
        let _turn = self.inner.pulls.turn(&source.digest).await;
        if let Some(receipt) = self.present(source, pin).await? {
            self.known().hits += 1;
            return Ok(receipt);
        }
        self.known().misses += 1;
        let room = async |needed| self.make_room(needed, source).await;
        let receipt = self.inner.pulls.bring(source, pin, progress, room).await?;
        self.look().await?;
        if self.held(&source.digest).is_none() {
            // Somebody removed it the moment that it was there.
            return Err(CacheError::Containerd {
                address: self.containerd().settings().address.display().to_string(),
                doing: format!("keep image {}", source.name),
                detail: "it was removed while it came".to_owned(),
                transient: true,
                disk_full: false,
            });
        }
        // Its size, unpacked, was not known before.
        self.make_room(0, source).await?;
        Ok(receipt)
    }

    fn report(&self, dry_run: bool, freed: Vec<CacheItem>, kept: Vec<CacheItem>) -> GcReport {
        GcReport {
            node: String::new(),
            dry_run,
            freed_bytes: freed.iter().map(|item| item.bytes).sum(),
            freed,
            kept,
            usage: self.current_usage(),
            left_out: 0,
        }
    }

    /// Removes images and tells what that freed.
    async fn remove_all(&self, victims: &[Digest], dry_run: bool) -> Result<GcReport> {
        let (held, items, going) = {
            let known = self.known();
            let images = &known.view.images;
            let held: Vec<Held> = victims
                .iter()
                .filter_map(|v| images.get(v).cloned())
                .collect();
            // What others name stays.
            let going: Vec<Digest> = held
                .iter()
                .filter(|held| held.records.iter().all(super::records::Record::is_ours))
                .map(|held| held.shown.digest)
                .collect();
            (held, known.view.items(), known.view.layers_of(&going))
        };
        let mut gone: Vec<Digest> = going.iter().map(|part| part.blob).collect();
        if !dry_run {
            self.evict(&held).await?;
            let known = self.known();
            let left = |blob: &Digest| known.view.bytes.keys().any(|part| part.blob == *blob);
            gone.retain(|blob| !left(blob));
        }
        let (freed, kept) = items
            .into_iter()
            .partition(|item| gone.contains(&item.digest));
        Ok(self.report(dry_run, freed, kept))
    }
}

#[async_trait]
impl Images for ContainerdImages {
    fn usage(&self) -> CacheUsage {
        self.current_usage()
    }

    fn revision(&self) -> watch::Receiver<u64> {
        self.inner.revision.subscribe()
    }

    fn has(&self, digest: Digest) -> bool {
        self.known().view.images.contains_key(&digest)
    }

    fn since(&self, revision: Option<u64>) -> CacheDelta {
        self.known().since(revision)
    }

    async fn listing(&self) -> Result<CacheListing, Problem> {
        self.look().await.map_err(|error| error.problem())?;
        let usage = self.current_usage();
        let known = self.known();
        let mut images: Vec<&Held> = known.view.images.values().collect();
        images.sort_by_key(|held| (std::cmp::Reverse(held.used), held.shown.digest));
        Ok(CacheListing {
            node: String::new(),
            usage,
            images: images.into_iter().map(|held| held.shown.clone()).collect(),
            items: known.view.items(),
            left_out: 0,
        })
    }

    async fn pull(&self, order: PullOrder) -> Result<Receipt, PullFailure> {
        let source = self
            .inner
            .sources
            .source(&order.image, order.peers)
            .map_err(|error| error.failure())?;
        let pull = self.ensure(&source, order.pin.as_deref(), &order.progress);
        let done = tokio::select! {
            done = pull => done,
            () = order.cancel.cancelled() => Err(CacheError::Cancelled),
        };
        done.map_err(|error| error.failure())
    }

    async fn remove(&self, digest: Digest, unpin: bool) -> Result<GcReport, Problem> {
        let remove = async {
            self.look().await?;
            let held = self.held(&digest).ok_or(CacheError::NotFound(digest))?;
            match kept(&held, unpin) {
                Some(why) => Err(CacheError::Kept { image: digest, why }),
                None => self.remove_all(&[digest], false).await,
            }
        };
        let report = remove.await.map_err(|error| error.problem())?;
        Ok(GcReport {
            kept: Vec::new(),
            ..report
        })
    }

    async fn collect(&self, gc: GcRequest) -> Result<GcReport, Problem> {
        let collect = async {
            self.look().await?;
            let victims = {
                let known = self.known();
                let used = known.usage(self.inner.size_limit).used;
                let enough = gc
                    .target_bytes
                    .map_or(u64::MAX, |target| used.saturating_sub(target));
                known.view.victims(enough, None).0
            };
            self.remove_all(&victims, gc.dry_run).await
        };
        collect.await.map_err(|error: CacheError| error.problem())
    }

    async fn unpin(&self, digest: Digest, label: &str) -> Result<(), Problem> {
        let unpin = async {
            self.look().await?;
            let Some(held) = self.held(&digest) else {
                return Ok(());
            };
            let records: Vec<_> = held.records.iter().collect();
            self.containerd().take_pin(&records, label).await?;
            self.look().await
        };
        unpin.await.map_err(|error: CacheError| error.problem())
    }
}
