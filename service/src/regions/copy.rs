//! Bringing an image from the home registry to that of another region.
//!
//! One copy of an image to a region runs at a time, whoever asks; others wait for the same one. It
//! goes on when those who asked are gone. Blobs go first, the manifest last, so that what a region
//! has is whole.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};

use chalk_core::Digest;
use chalk_core::wire::Problem;
use chalk_store::Blob;
use chalk_store::registry::Progress;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::watch;

use super::{ImageAt, Own, Regions, registry_problem};
use crate::engine::oci;
use crate::registry::{EmbeddedError, RegionalError};

/// Blobs of an image that are copied at once.
const PARALLEL: usize = 4;
/// Blobs whose place in a region is remembered.
const PLACES: usize = 20_000;

/// How a copy ended.
pub(crate) type Done = Result<(), Problem>;

/// How far a copy is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Copying {
    /// Bytes done.
    pub(crate) done: u64,
    /// Bytes in all; 0 while that is not known.
    pub(crate) total: u64,
    /// How it ended.
    pub(crate) ended: Option<Done>,
}

/// Copies that run, and where they put things.
#[derive(Debug, Default)]
pub(super) struct Flights {
    running: BTreeMap<(String, Digest), watch::Receiver<Copying>>,
    /// Repositories of a region's registry that have a blob.
    places: BTreeMap<(String, Digest), String>,
}

impl Regions {
    fn flights(&self) -> MutexGuard<'_, Flights> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to bring an image to the registry of a region, or joins who does; `None` when nodes
    /// of the region pull from the home registry.
    pub(crate) fn bring(
        self: &Arc<Self>,
        region: &str,
        image: &ImageAt,
    ) -> Option<watch::Receiver<Copying>> {
        let own = self.own.get(region)?.clone();
        let key = (region.to_owned(), image.digest);
        let mut flights = self.flights();
        if let Some(running) = flights.running.get(&key) {
            return Some(running.clone());
        }
        let (tell, told) = watch::channel(Copying::default());
        flights.running.insert(key.clone(), told.clone());
        drop(flights);
        let (this, image) = (self.clone(), image.clone());
        tokio::spawn(async move {
            let done = this.copy(&key.0, &own, &image, &tell).await;
            let title = format!("the image cannot be copied to region `{}`", key.0);
            let done = done.map_err(|error| registry_problem(&title, &error));
            if let Err(problem) = &done {
                tracing::warn!(
                    region = key.0,
                    image = image.name,
                    why = problem.detail,
                    "copy failed"
                );
            }
            // Whoever asks from now on begins anew, which is one request when it went well.
            this.flights().running.remove(&key);
            tell.send_modify(|copying| copying.ended = Some(done));
        });
        Some(told)
    }

    /// Brings an image to the registry of a region, and waits until it is there.
    ///
    /// # Errors
    /// When a registry fails.
    pub(crate) async fn ensure(self: &Arc<Self>, region: &str, image: &ImageAt) -> Done {
        let Some(mut copying) = self.bring(region, image) else {
            return Ok(());
        };
        let ended = copying.wait_for(|copying| copying.ended.is_some()).await;
        match ended.ok().and_then(|copying| copying.ended.clone()) {
            Some(done) => done,
            None => Err(registry_problem(
                "the copy broke off",
                &RegionalError::Embedded(EmbeddedError::Unsupported("the service stops".into())),
            )),
        }
    }

    async fn copy(
        &self,
        region: &str,
        own: &Own,
        image: &ImageAt,
        tell: &watch::Sender<Copying>,
    ) -> Result<(), RegionalError> {
        // Its blobs are needed until they are all there, however long that takes.
        let _lease = self.blobs.lease();
        let (repository, to) = (image.repository.as_str(), &own.regional);
        let name = image.digest.to_string();
        let there = to.head_manifest(repository, &name).await?;
        if there.is_some_and(|head| head.digest == image.digest) {
            return Ok(());
        }
        let manifest = self.home_registry.manifest(repository, &name).await?;
        let manifest = manifest.ok_or_else(|| invalid(&name, "it is not in the home registry"))?;
        let parsed: oci::Manifest = serde_json::from_slice(&manifest.bytes)
            .map_err(|e| invalid(&name, &format!("it is no image manifest: {e}")))?;
        let mut blobs: Vec<Blob> = parsed
            .layers
            .iter()
            .chain([&parsed.config])
            .map(|descriptor| Blob {
                digest: descriptor.digest,
                size: descriptor.size,
            })
            .collect();
        blobs.sort_by_key(|blob| blob.digest);
        blobs.dedup_by_key(|blob| blob.digest);
        let total = blobs.iter().map(|blob| blob.size).sum();
        tell.send_modify(|copying| copying.total = total);
        stream::iter(blobs)
            .map(|blob| self.copy_blob(region, own, repository, blob, tell))
            .buffer_unordered(PARALLEL)
            .try_collect::<()>()
            .await?;
        let mut names = vec![name];
        names.extend(image.hash.map(|hash| hash.hex()));
        for name in names {
            let bytes = manifest.bytes.clone();
            let kind = &manifest.media_type;
            to.put_manifest(repository, &name, kind, bytes).await?;
        }
        tracing::info!(region, image = image.name, bytes = total, "image is copied");
        Ok(())
    }

    /// Copies a blob: not at all where it is there, without its bytes where the registry has it in
    /// another repository.
    async fn copy_blob(
        &self,
        region: &str,
        own: &Own,
        repository: &str,
        blob: Blob,
        tell: &watch::Sender<Copying>,
    ) -> Result<(), RegionalError> {
        let to = &own.regional;
        let done = || tell.send_modify(|copying| copying.done += blob.size);
        if to.has_blob(repository, &blob.digest).await? {
            self.place(region, &blob.digest, repository);
            done();
            return Ok(());
        }
        let key = (region.to_owned(), blob.digest);
        let from = self.flights().places.get(&key).cloned();
        if let Some(from) = from.filter(|from| from != repository)
            && to.mount_blob(repository, &blob.digest, &from).await?
        {
            done();
            return Ok(());
        }
        // A blob of the embedded registry lies in this store already.
        let none = Progress::none();
        let home = &self.home_registry;
        home.pull_blob(repository, &blob, &self.blobs, &none)
            .await?;
        let sent = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let (counted, teller) = (sent.clone(), tell.clone());
        let progress = Progress::new(move |transfer| {
            // Falls back when a transfer begins anew.
            let before = counted.swap(transfer.done, std::sync::atomic::Ordering::Relaxed);
            teller.send_modify(|copying| {
                copying.done = (copying.done + transfer.done).saturating_sub(before);
            });
        });
        to.push_blob(repository, &blob, &self.blobs, &progress)
            .await?;
        let counted = sent.load(std::sync::atomic::Ordering::Relaxed);
        tell.send_modify(|copying| {
            copying.done = (copying.done + blob.size).saturating_sub(counted);
        });
        self.place(region, &blob.digest, repository);
        Ok(())
    }

    fn place(&self, region: &str, digest: &Digest, repository: &str) {
        let mut flights = self.flights();
        if flights.places.len() >= PLACES {
            flights.places.pop_first();
        }
        let key = (region.to_owned(), *digest);
        flights.places.insert(key, repository.to_owned());
    }
}

fn invalid(name: &str, detail: &str) -> RegionalError {
    RegionalError::Name {
        text: name.to_owned(),
        detail: detail.to_owned(),
    }
}
