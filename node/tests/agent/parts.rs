//! A cache and sandboxes that only count.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chalk_core::Digest;
use chalk_core::wire::agent::{ImageRef, SandboxReport};
use chalk_core::wire::{
    CacheListing, CacheUsage, CachedImage, ExecRequest, GcReport, GcRequest, Problem,
    ProcessStatus, Receipt, SandboxEnd, SandboxProcess, SandboxRequest, TerminalSize, problem,
};
use chalk_node::agent::{
    CacheDelta, FileBytes, FileError, FileWriter, Images, Output, PullFailure, PullOrder, Sandboxes,
};
use tokio::sync::{broadcast, watch};

/// A change: the image, or that it is gone.
type Change = (u64, Option<CachedImage>);

pub(crate) struct CountingImages {
    changes: Mutex<BTreeMap<Digest, Change>>,
    revision: watch::Sender<u64>,
    whole: AtomicUsize,
}

impl Default for CountingImages {
    fn default() -> Self {
        Self {
            changes: Mutex::default(),
            revision: watch::Sender::new(1),
            whole: AtomicUsize::new(0),
        }
    }
}

impl CountingImages {
    pub(crate) fn put(&self, digest: Digest) {
        let image = CachedImage {
            digest,
            image_hash: None,
            image: "made-up".into(),
            bytes: 1,
            layers: 1,
            pins: Vec::new(),
            in_use: 0,
            last_used: "2026-01-01T00:00:00Z".into(),
            blobs_kept: true,
        };
        self.change(digest, Some(image));
    }

    pub(crate) fn remove(&self, digest: Digest) {
        self.change(digest, None);
    }

    /// How often the whole list was asked for.
    pub(crate) fn whole_lists(&self) -> usize {
        self.whole.load(Ordering::SeqCst)
    }

    fn change(&self, digest: Digest, image: Option<CachedImage>) {
        let mut changes = self.changes.lock().unwrap();
        let revision = *self.revision.borrow() + 1;
        changes.insert(digest, (revision, image));
        self.revision.send_replace(revision);
    }

    fn report(&self, dry_run: bool) -> GcReport {
        GcReport {
            node: String::new(),
            dry_run,
            freed_bytes: 0,
            freed: Vec::new(),
            kept: Vec::new(),
            usage: self.usage(),
            left_out: 0,
        }
    }
}

#[async_trait]
impl Images for CountingImages {
    fn usage(&self) -> CacheUsage {
        CacheUsage::default()
    }

    fn revision(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    fn since(&self, revision: Option<u64>) -> CacheDelta {
        let changes = self.changes.lock().unwrap();
        let after = revision.unwrap_or(0);
        let mut delta = CacheDelta {
            revision: *self.revision.borrow(),
            whole: revision.is_none(),
            ..CacheDelta::default()
        };
        self.whole
            .fetch_add(usize::from(delta.whole), Ordering::SeqCst);
        for (digest, (when, image)) in changes.iter().filter(|(_, (when, _))| *when > after) {
            match image {
                Some(image) => delta.put.push(image.clone()),
                None if !delta.whole => delta.gone.push(*digest),
                None => assert!(*when > 0),
            }
        }
        delta
    }

    fn has(&self, digest: Digest) -> bool {
        let changes = self.changes.lock().unwrap();
        changes
            .get(&digest)
            .is_some_and(|(_, image)| image.is_some())
    }

    async fn listing(&self) -> Result<CacheListing, Problem> {
        Ok(CacheListing {
            node: String::new(),
            usage: self.usage(),
            images: self.since(Some(0)).put,
            items: Vec::new(),
            left_out: 0,
        })
    }

    async fn pull(&self, order: PullOrder) -> Result<Receipt, PullFailure> {
        self.put(order.image.digest);
        Ok(Receipt {
            digest: order.image.digest,
            bytes_fetched: 1,
            bytes_from_mirrors: 0,
            bytes_present: 0,
            digests_verified: 4,
            seconds: 0.0,
        })
    }

    async fn remove(&self, digest: Digest, _: bool) -> Result<GcReport, Problem> {
        self.change(digest, None);
        Ok(self.report(false))
    }

    async fn collect(&self, gc: GcRequest) -> Result<GcReport, Problem> {
        Ok(self.report(gc.dry_run))
    }

    async fn unpin(&self, _: Digest, _: &str) -> Result<(), Problem> {
        Ok(())
    }
}

pub(crate) struct CountingSandboxes {
    changes: broadcast::Sender<SandboxReport>,
    known: Mutex<Vec<SandboxReport>>,
    ends: AtomicUsize,
    removals: AtomicUsize,
}

impl Default for CountingSandboxes {
    fn default() -> Self {
        Self {
            changes: broadcast::Sender::new(16),
            known: Mutex::default(),
            ends: AtomicUsize::new(0),
            removals: AtomicUsize::new(0),
        }
    }
}

impl CountingSandboxes {
    /// How often all were ended.
    pub(crate) fn ends(&self) -> usize {
        self.ends.load(Ordering::SeqCst)
    }

    /// Has it know sandboxes.
    pub(crate) fn know(&self, reports: impl Iterator<Item = SandboxReport>) {
        self.known.lock().unwrap().extend(reports);
    }

    /// How many were removed.
    pub(crate) fn removals(&self) -> usize {
        self.removals.load(Ordering::SeqCst)
    }
}

fn none() -> Problem {
    Problem {
        kind: problem::NOT_FOUND.to_owned(),
        title: "there is no such sandbox".to_owned(),
        status: 404,
        detail: String::new(),
        hint: String::new(),
    }
}

#[async_trait]
impl Sandboxes for CountingSandboxes {
    fn start(&self, _: String, _: ImageRef, _: SandboxRequest) {}

    fn reports(&self) -> Vec<SandboxReport> {
        self.known.lock().unwrap().clone()
    }

    fn changes(&self) -> broadcast::Receiver<SandboxReport> {
        self.changes.subscribe()
    }

    fn running(&self) -> usize {
        0
    }

    async fn exec(&self, _: &str, _: String, _: ExecRequest) -> Result<SandboxProcess, Problem> {
        Err(none())
    }

    async fn input(&self, _: &str, _: &str, _: Bytes, _: bool) -> Result<(), Problem> {
        Err(none())
    }

    async fn resize(&self, _: &str, _: &str, _: TerminalSize) -> Result<(), Problem> {
        Err(none())
    }

    async fn signal(&self, _: &str, _: &str, _: &str) -> Result<(), Problem> {
        Err(none())
    }

    async fn processes(&self, _: &str) -> Result<Vec<ProcessStatus>, Problem> {
        Err(none())
    }

    async fn read_file(&self, _: &str, _: &str) -> Result<FileBytes, FileError> {
        Err(none().into())
    }

    async fn write_file(
        &self,
        _: &str,
        _: &str,
        _: Option<u32>,
    ) -> Result<Box<dyn FileWriter>, FileError> {
        Err(none().into())
    }

    async fn stop(&self, _: &str, _: Duration, _: SandboxEnd) -> Result<(), Problem> {
        Err(none())
    }

    async fn remove(&self, id: &str) -> Result<(), Problem> {
        let mut known = self.known.lock().unwrap();
        let before = known.len();
        known.retain(|report| report.id != id);
        if known.len() == before {
            return Err(none());
        }
        self.removals.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn output(&self, _: &str, _: &str, _: u64, _: bool) -> Result<Output, Problem> {
        Err(none())
    }

    async fn end_all(&self) {
        self.ends.fetch_add(1, Ordering::SeqCst);
    }
}
