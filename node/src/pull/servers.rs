//! One blob from as many servers as it takes: other nodes, mirrors, the registry.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chalk_store::Blob;
use chalk_store::registry::{BlobSource, RegistryError};
use tokio::sync::mpsc;

use super::pace::Pace;
use crate::cache::{CacheError, ImageSource, Result};
use crate::metrics::PullMetrics;

/// Once this much came, what failed before does not count any more.
const GOOD_PROGRESS: u64 = 1 << 20;
/// How long a peer that failed is passed over.
const LAME: Duration = Duration::from_secs(10);
/// How long nothing at all is asked of a peer or mirror that sent wrong bytes.
const DISTRUST: Duration = Duration::from_secs(600);

/// What is handed to whoever takes a blob.
pub(crate) enum Part {
    Data(Bytes),
    /// All bytes of the blob were sent. A channel that ends without it was given up.
    End,
}

/// How servers are waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Rounds over all servers that bring nothing, after which a blob has failed.
    pub(crate) attempts: u32,
    /// Delay after the first such round; doubles from there, up to 10 s, with jitter.
    pub(crate) first_delay: Duration,
    /// Time without a byte after which a peer is left.
    pub(crate) peer_idle: Duration,
    /// How long a peer that has a blob queued is waited for before others are asked.
    pub(crate) peer_patience: Duration,
}

/// How much of a blob came, and what that cost.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    received: AtomicU64,
    fetched: AtomicU64,
    from_mirrors: AtomicU64,
}

impl Counts {
    /// Begins, again perhaps, at a byte of the blob.
    pub(crate) fn begin(&self, at: u64) {
        self.received.store(at, Ordering::Relaxed);
    }

    /// Bytes of the blob that are there.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Bytes that came over the network, those that came twice included.
    pub(crate) fn fetched(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    /// Of these, bytes from mirrors and peers.
    pub(crate) fn mirrored(&self) -> u64 {
        self.from_mirrors.load(Ordering::Relaxed)
    }
}

/// Peers and mirrors that failed or sent wrong bytes lately, and until when nothing is asked of
/// them.
#[derive(Debug, Default)]
pub(crate) struct PassedOver(Mutex<BTreeMap<String, Instant>>);

impl PassedOver {
    fn held(&self) -> MutexGuard<'_, BTreeMap<String, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks nothing of a server for so long.
    fn put(&self, host: String, time: Duration) {
        let mut passed_over = self.held();
        let now = Instant::now();
        passed_over.retain(|_, until| now < *until);
        let until = passed_over.entry(host).or_insert(now);
        *until = (*until).max(now + time);
    }
}

/// Who sent bytes of an attempt.
#[derive(Default)]
pub(crate) struct Senders {
    pub(crate) hosts: BTreeSet<String>,
    origin: bool,
}

/// The servers of one blob.
pub(crate) struct Servers<'a> {
    source: &'a ImageSource,
    blob: Blob,
    patience: Patience,
    passed_over: &'a PassedOver,
    counts: &'a Counts,
    /// Counts for those who watch the node, where they can.
    metrics: Option<&'a PullMetrics>,
    /// Who sent wrong bytes of this blob, perhaps only together.
    distrusted: BTreeSet<String>,
}

impl<'a> Servers<'a> {
    pub(crate) fn new(
        source: &'a ImageSource,
        blob: Blob,
        patience: Patience,
        passed_over: &'a PassedOver,
        counts: &'a Counts,
    ) -> Self {
        Self {
            source,
            blob,
            patience,
            passed_over,
            counts,
            metrics: None,
            distrusted: BTreeSet::new(),
        }
    }

    /// Has bytes that come counted in `metrics`, too.
    pub(crate) fn counted(mut self, metrics: &'a PullMetrics) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// Hands over the blob from byte `from` on, until it is whole or `parts` takes no more.
    pub(crate) async fn receive(
        &mut self,
        from: u64,
        parts: &mpsc::Sender<Part>,
        senders: &mut Senders,
    ) -> Result<()> {
        let patience = self.patience;
        let size = self.blob.size;
        let patient_until = Instant::now() + patience.peer_patience;
        let mut have = from;
        let mut failures = 0;
        while have < size {
            let before = have;
            let mut error = None;
            let mut queued = false;
            for source in self.sources().await? {
                if source.peer().is_none() && queued && Instant::now() < patient_until {
                    break;
                }
                match self.stream(&source, &mut have, parts, senders).await {
                    Ok(true) => return Ok(()),
                    Ok(false) => {}
                    Err(RegistryError::Unavailable { status: 503, .. })
                        if source.peer().is_some() =>
                    {
                        queued = true;
                    }
                    Err(failure) => {
                        tracing::debug!(host = source.host(), %failure, have, "asking elsewhere");
                        self.note_failure(&source, &failure);
                        if source.is_origin() {
                            error = Some(failure);
                        }
                    }
                }
                if have == size {
                    return Ok(());
                }
            }
            if have - before >= GOOD_PROGRESS {
                failures = 0;
            }
            if let Some(error) = error {
                failures += 1;
                let error = CacheError::from(error);
                let hopeless = !error.is_transient() && have == before;
                if hopeless || failures >= patience.attempts {
                    return Err(error);
                }
            }
            let doubled = patience.first_delay * (1 << failures.saturating_sub(1).min(10));
            let delay = doubled.min(Duration::from_secs(10));
            tokio::time::sleep(delay.mul_f64(rand::random_range(0.5..=1.0))).await;
        }
        Ok(())
    }

    /// What came does not have the blob's digest: whoever sent it is not asked for it again, save
    /// the registry, once.
    ///
    /// # Errors
    /// [`CacheError::Damaged`] when the registry alone sent it, for the second time.
    pub(crate) fn sent_wrong_bytes(
        &mut self,
        senders: &Senders,
        repeated: &mut bool,
    ) -> Result<()> {
        let hosts: Vec<String> = senders.hosts.iter().cloned().collect();
        let hosts = hosts.join(", ");
        let layer = self.blob.digest;
        tracing::warn!(%layer, hosts, "wrong bytes");
        // Resuming may have joined halves that do not fit: once more from the origin.
        if senders.origin && senders.hosts.len() == 1 {
            if *repeated {
                return Err(CacheError::Damaged { layer, hosts });
            }
            *repeated = true;
        }
        // One alone sent a whole blob that is another.
        if !senders.origin && senders.hosts.len() == 1 {
            self.passed_over.put(hosts, DISTRUST);
        }
        self.distrusted.extend(senders.hosts.iter().cloned());
        Ok(())
    }

    /// Streams from one server. `true` says that `parts` takes no more.
    async fn stream(
        &mut self,
        source: &BlobSource,
        have: &mut u64,
        parts: &mpsc::Sender<Part>,
        senders: &mut Senders,
    ) -> Result<bool, RegistryError> {
        let repository = &self.source.repository;
        let open = self
            .source
            .client
            .open_blob(source, repository, &self.blob, *have);
        let mut stream = open.await?;
        // The origin may be as slow as it likes: there is nobody else to ask.
        let idle = self.patience.peer_idle;
        let mut pace = (!source.is_origin()).then(|| Pace::new(idle));
        let slow = || RegistryError::Unreachable {
            host: source.host(),
            cause: format!("too slow, or no data, for {} s", idle.as_secs()),
            notes: String::new(),
        };
        loop {
            let began = Instant::now();
            let next = match pace {
                Some(_) => tokio::time::timeout(idle, stream.next()).await,
                None => Ok(stream.next().await),
            };
            let Some(bytes) = next.map_err(|_| slow())?? else {
                return Ok(false);
            };
            let count = bytes.len() as u64;
            if let Some(pace) = &mut pace
                && !pace.keeps_up(began.elapsed(), count)
            {
                return Err(slow());
            }
            senders.hosts.insert(source.host());
            senders.origin |= source.is_origin();
            *have += count;
            self.counts.fetched.fetch_add(count, Ordering::Relaxed);
            if let Some(metrics) = self.metrics {
                metrics.fetched(count, source.is_origin());
            }
            if !source.is_origin() {
                self.counts.from_mirrors.fetch_add(count, Ordering::Relaxed);
            }
            if parts.send(Part::Data(bytes)).await.is_err() {
                return Ok(true);
            }
            self.counts.begin(*have);
        }
    }

    /// Who may be asked, in order.
    async fn sources(&self) -> Result<Vec<BlobSource>> {
        let peers = self.source.peers.borrow().clone();
        let access = self.source.access.borrow().clone();
        let token = access.map(|access| access.peer_token).unwrap_or_default();
        let mut all = Vec::new();
        for url in peers {
            let idle = self.patience.peer_idle;
            match self.source.client.peer(&url, &token, idle) {
                Ok(peer) => all.push(peer),
                Err(error) => tracing::warn!(%error, "peer left out"),
            }
        }
        all.extend(
            self.source
                .client
                .blob_sources(&self.source.repository)
                .await?,
        );
        let passed_over = self.passed_over.held();
        let now = Instant::now();
        all.retain(|source| {
            let host = source.host();
            let later = passed_over.get(&host).is_some_and(|until| now < *until);
            source.is_origin() || !(later || self.distrusted.contains(&host))
        });
        Ok(all)
    }

    fn note_failure(&self, source: &BlobSource, failure: &RegistryError) {
        if source.peer().is_some() && matches!(failure, RegistryError::Unreachable { .. }) {
            self.passed_over.put(source.host(), LAME);
        }
    }
}
