//! One layer on its way in, shared by all pulls that need it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

use chalk_core::Digest;
use chalk_store::Blob;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::pipe::{self, Order, Outcome, Prepared};
use super::servers::{Counts, Part, Senders, Servers};
use super::spool::{Keeping, SpoolWriter};
use crate::cache::{
    Cache, CacheError, ImageSource, KeptBlob, Layer, LayerRef, MEMORY_UNIT, Result,
};

/// Chunks between network and thread; a chunk of the HTTP client has 16 KiB, seldom more.
const QUEUE: usize = 64;
/// Memory of a pull: chunks, decompression window, pieces on their way to the writer and its
/// buffer; and what is left for names.
const BUFFERS: u64 = 16 << 20;
const NAMES: u64 = 16 << 20;

/// A layer on its way in.
#[derive(Debug)]
pub(crate) struct Flight {
    layer: LayerRef,
    counts: Arc<Counts>,
    reserved: Arc<AtomicU64>,
    waiting: AtomicUsize,
    cancel: CancellationToken,
    /// Whether the layer gets its name now, which is not given up any more. Changes under the
    /// cache's lock.
    committing: AtomicBool,
    spool: watch::Sender<Keeping>,
    done: watch::Sender<Option<Result<()>>>,
}

/// A place among those who wait for a layer; when the last one leaves, the pull ends.
#[derive(Debug)]
pub(crate) struct Seat {
    flight: Arc<Flight>,
    /// Whether this seat began the flight.
    pub(crate) began: bool,
}

impl Flight {
    /// Size of the blob.
    pub(crate) fn size(&self) -> u64 {
        self.layer.size
    }

    /// Bytes of disk granted by now.
    pub(crate) fn reserved(&self) -> u64 {
        self.reserved.load(Ordering::Relaxed)
    }

    /// How much of the blob came by now, and what that cost.
    pub(crate) fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// The blob as it comes.
    pub(crate) fn spool(&self) -> watch::Receiver<Keeping> {
        self.spool.subscribe()
    }

    /// From here on the layer is not fetched again beside this flight; `false` when it is already.
    fn begin_commit(&self, cache: &Cache) -> bool {
        let state = cache.inner.lock();
        let current = state.flights.get(&self.layer.digest);
        let ours = current.is_some_and(|flight| std::ptr::eq(&**flight, self));
        self.committing.store(ours, Ordering::Relaxed);
        ours
    }
}

impl Seat {
    /// Takes a seat in the flight of a layer that is not there, which begins if it has not.
    pub(crate) fn take(cache: &Cache, layer: LayerRef, source: &ImageSource) -> Self {
        let mut state = cache.inner.lock();
        if let Some(flight) = state.flights.get(&layer.digest) {
            flight.waiting.fetch_add(1, Ordering::SeqCst);
            let seat = Self {
                flight: Arc::clone(flight),
                began: false,
            };
            // One that nobody waits for ends, unless it is as good as done.
            if !flight.cancel.is_cancelled() || flight.committing.load(Ordering::Relaxed) {
                return seat;
            }
        }
        let flight = Arc::new(Flight {
            layer,
            counts: Arc::default(),
            reserved: Arc::default(),
            waiting: AtomicUsize::new(1),
            cancel: CancellationToken::new(),
            committing: AtomicBool::new(false),
            spool: watch::Sender::new(Keeping::Undecided),
            done: watch::Sender::new(None),
        });
        state.flights.insert(layer.digest, Arc::clone(&flight));
        drop(state);
        cache.inner.flying.send_modify(|n| *n += 1);
        let turn = turn(&cache.inner.parallel);
        tokio::spawn(fly(
            cache.clone(),
            Arc::clone(&flight),
            source.clone(),
            turn,
        ));
        Self {
            flight,
            began: true,
        }
    }

    /// What is waited for.
    pub(crate) fn flight(&self) -> &Arc<Flight> {
        &self.flight
    }

    /// Waits for the end.
    pub(crate) async fn wait(&self) -> Result<()> {
        let mut done = self.flight.done.subscribe();
        let ended = done.wait_for(Option::is_some).await;
        match ended.as_deref() {
            Ok(Some(result)) => result.clone(),
            _ => Err(CacheError::Cancelled),
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.flight.waiting.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.flight.cancel.cancel();
        }
    }
}

/// The turn to be fetched. Its place in the line is taken now: layers are fetched in the order of
/// their image, so that nodes that pull from each other fetch the same ones at the same time.
/// Tasks would stand in line in the order in which the runtime gets to them.
fn turn(parallel: &Arc<Semaphore>) -> impl Future<Output = Result<OwnedSemaphorePermit>> + use<> {
    let mut turn = Box::pin(Arc::clone(parallel).acquire_owned());
    let mut context = Context::from_waker(Waker::noop());
    let first = turn.as_mut().poll(&mut context);
    async move {
        let slot = match first {
            Poll::Ready(slot) => slot,
            Poll::Pending => turn.await,
        };
        slot.map_err(|_| CacheError::Cancelled)
    }
}

async fn fly(
    cache: Cache,
    flight: Arc<Flight>,
    source: ImageSource,
    turn: impl Future<Output = Result<OwnedSemaphorePermit>>,
) {
    let mut pull = Pull {
        cache: &cache,
        flight: &flight,
        servers: Servers::new(
            &source,
            Blob {
                digest: flight.layer.digest,
                size: flight.layer.size,
            },
            cache.inner.settings.patience(),
            &cache.inner.passed_over,
            &flight.counts,
        )
        .counted(cache.metrics()),
    };
    let landed = tokio::select! {
        landed = pull.run(turn) => landed,
        () = flight.cancel.cancelled() => Err(CacheError::Cancelled),
    };
    let result = match landed {
        Ok((prepared, _slot)) if flight.begin_commit(&cache) => pull.commit(*prepared).await,
        Ok((prepared, _)) => {
            tokio::task::spawn_blocking(move || drop(prepared));
            Err(CacheError::Cancelled)
        }
        Err(error) => Err(error),
    };
    let mut state = cache.inner.lock();
    let ours = state.flights.get(&flight.layer.digest);
    if ours.is_some_and(|other| Arc::ptr_eq(other, &flight)) {
        state.flights.remove(&flight.layer.digest);
    }
    drop(state);
    cache.inner.flying.send_modify(|n| *n += 1);
    flight.done.send_replace(Some(result));
}

struct Pull<'a> {
    cache: &'a Cache,
    flight: &'a Flight,
    servers: Servers<'a>,
}

impl Pull<'_> {
    /// Fetches the layer, which then waits for its name; gives the slot that it was fetched in.
    async fn run(
        &mut self,
        turn: impl Future<Output = Result<OwnedSemaphorePermit>>,
    ) -> Result<(Box<Prepared>, OwnedSemaphorePermit)> {
        let slot = turn.await?;
        let cache = self.cache;
        let inner = &cache.inner;
        let small = ((BUFFERS + NAMES) / MEMORY_UNIT).min(u64::from(inner.memory_units)) as u32;
        let (mut units, mut emptied, mut repeated) = (small, false, false);
        loop {
            let memory = Arc::clone(&inner.memory).acquire_many_owned(units).await;
            let memory = memory.map_err(|_| CacheError::Cancelled)?;
            let names = (u64::from(units) * MEMORY_UNIT).saturating_sub(BUFFERS);
            let (outcome, senders) = self.attempt(names.max(NAMES / 4)).await?;
            drop(memory);
            match outcome {
                Outcome::Layer(prepared) => return Ok((prepared, slot)),
                // Alone, it may have all the memory that pulls may have.
                Outcome::ManyNames(_) if units < inner.memory_units => {
                    units = inner.memory_units;
                }
                Outcome::ManyNames(error) | Outcome::Failed(error) => return Err(error),
                // A manifest said that there is nothing to fetch: nobody else can be asked.
                Outcome::WrongBytes if senders.hosts.is_empty() => {
                    return Err(CacheError::Damaged {
                        layer: self.flight.layer.digest,
                        hosts: "a manifest that gives it no bytes".to_owned(),
                    });
                }
                Outcome::WrongBytes => self.servers.sent_wrong_bytes(&senders, &mut repeated)?,
                Outcome::DiskFull => {
                    let kept = !inner.lock().blobs.is_empty();
                    if emptied || !kept {
                        return Err(CacheError::DiskFull {
                            path: inner.disk.root().display().to_string(),
                            layer: self.flight.layer.digest,
                        });
                    }
                    emptied = true;
                    self.cache
                        .blocking(|inner| {
                            inner.drop_blobs(0);
                            Ok(())
                        })
                        .await?;
                }
            }
        }
    }

    /// Fetches the whole blob once, from as many servers as it takes.
    async fn attempt(&mut self, names: u64) -> Result<(Outcome, Senders)> {
        let layer = self.flight.layer;
        self.flight.counts.begin(0);
        let spool = self.open_spool().await;
        self.flight.spool.send_replace(match &spool {
            Some(spool) => Keeping::In(spool.reader()),
            None => Keeping::Not,
        });
        let (parts, queue) = mpsc::channel(QUEUE);
        let order = Order {
            digest: layer.digest,
            size: layer.size,
            limits: self.cache.inner.settings.limits,
            names,
            spool,
            reserved: Arc::clone(&self.flight.reserved),
        };
        let cache = self.cache.clone();
        let thread = tokio::task::spawn_blocking(move || pipe::run(&cache, order, queue));
        let mut senders = Senders::default();
        let received = self.servers.receive(0, &parts, &mut senders).await;
        if received.is_ok() {
            // The thread may have ended by itself; then it says why.
            let _ = parts.send(Part::End).await;
        }
        drop(parts);
        let outcome = thread.await.map_err(|_| CacheError::Cancelled)?;
        match (received, &outcome) {
            // The thread only followed.
            (Err(error), Outcome::Failed(CacheError::Cancelled)) => Err(error),
            _ => Ok((outcome, senders)),
        }
    }

    async fn open_spool(&self) -> Option<SpoolWriter> {
        let size = self.flight.layer.size;
        if size > self.cache.inner.settings.mirror_bytes {
            return None;
        }
        let opened = self.cache.blocking(move |inner| {
            let Some(room) = inner.room_for_spool(size) else {
                return Ok(None);
            };
            let (path, file) = inner.disk.new_blob()?;
            Ok(Some(SpoolWriter::new(path, file, room)))
        });
        opened.await.ok().flatten()
    }

    /// Gives the layer its name, and the blob its own.
    async fn commit(&self, prepared: Prepared) -> Result<()> {
        let layer = self.flight.layer;
        if prepared.note.diff_id != layer.diff_id {
            return Err(CacheError::from(chalk_store::layer::LayerError::DiffId {
                layer: layer.digest.to_string(),
                expected: layer.diff_id,
                actual: prepared.note.diff_id,
            }));
        }
        self.cache
            .blocking(move |inner| {
                let Prepared {
                    new,
                    note,
                    grant,
                    spool,
                } = prepared;
                let note = inner.disk.commit_layer(new, note)?;
                let mut state = inner.lock();
                state.layers.insert(note.digest, Layer { note });
                // Under the same lock: the layer counts once.
                let granted = grant.disarm();
                state.reserved = state.reserved.saturating_sub(granted);
                if let Some(mut spool) = spool
                    && spool.keep(&inner.disk.blob(&layer.digest))
                {
                    let kept = KeptBlob {
                        size: layer.size,
                        used: SystemTime::now(),
                    };
                    state.blobs.insert(layer.digest, kept);
                }
                Ok(())
            })
            .await
    }
}

/// Whether a digest is on its way, and where its bytes are.
pub(crate) fn in_flight(cache: &Cache, digest: &Digest) -> Option<Arc<Flight>> {
    cache.inner.lock().flights.get(digest).cloned()
}
