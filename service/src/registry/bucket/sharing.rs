//! Who uses the bucket, and who collects garbage there.
//!
//! When something was last used is noted by the service that was asked for it ([`crate::noted`]). So
//! a service collects garbage only where no other used the bucket within the grace, and where none
//! comes meanwhile:
//!
//! ```text
//! services/<id>    written by a service before it first uses the bucket, and now and then after that
//! collection       written by a service before it collects, and now and then while it does
//! ```
//!
//! Who comes writes the one and then looks for the other; who collects writes the other and then
//! looks for the one. So one of the two sees the other: who comes waits for the end of the
//! collection, and who collects stops. Who told of itself lately need not wait: no other collects
//! then. A collector that died leaves its object behind; who waited for it in vain removes it, which
//! no other collector relies on, since each would see who came.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use chalk_store::failpoint::{Step, around};
use object_store::{ObjectStore as _, ObjectStoreExt as _, PutMode};

use super::blobs::held;
use super::{Bucket, Found, Result, time};
use crate::registry::error::EmbeddedError;
use crate::state::{StateError, write_atomic};

const SERVICES: &str = "services";
const COLLECTION: &str = "collection";
/// A service counts as there for the grace and this time after it told so. More than
/// [`Times::holds`], and than an answer takes.
const THERE: Duration = Duration::from_secs(3600);
/// Calls that wait, each on a thread, while another service collects; further ones are refused, so
/// that threads are left for what needs no bucket.
const WAITERS: usize = 64;

/// How long things take, and are waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// A service tells again that it is there after this time.
    pub(super) renew: Duration,
    /// What it told holds for so long in any case: nobody waits while it is told again.
    pub(super) holds: Duration,
    /// A collector looks for others again after this time.
    pub(super) look: Duration,
    /// A small request, and a whole look for others, with all tries.
    pub(super) answer: Duration,
    /// A removal begins within this time after the begin of the collector's last look, or not at all.
    /// More than that look, or [`look`](Self::look), and a request.
    pub(super) begin: Duration,
    /// A collector that was not heard of for so long is dead. See [`removal_ends`](Self::removal_ends).
    pub(super) silent: Duration,
    /// How often who waits for a collection looks for its end.
    pub(super) poll: Duration,
}

impl Times {
    const USUAL: Self = Self {
        renew: Duration::from_secs(600),
        holds: Duration::from_secs(1800),
        look: Duration::from_secs(5),
        answer: Duration::from_secs(15),
        begin: Duration::from_secs(35),
        silent: Duration::from_secs(300),
        poll: Duration::from_secs(1),
    };

    /// When the last request of a removal has ended at the latest, after the begin of the collector's
    /// last look. A removal begins in time, tells again that this service is there (a write and a
    /// look), and removes one object or, of a manifest, two, each after it has looked for it: six
    /// requests, so 35 s and 6 times 15 s. That is less than half of `silent` (150 s). The other half is
    /// for what the store, or the way to it, got in time and does late.
    const fn removal_ends(&self) -> u64 {
        self.begin.as_secs() + 6 * self.answer.as_secs()
    }
}

const _: () = {
    let times = Times::USUAL;
    assert!(times.look.as_secs() <= times.answer.as_secs());
    assert!(2 * times.answer.as_secs() < times.begin.as_secs());
    assert!(times.removal_ends() < times.silent.as_secs() / 2);
    assert!(times.renew.as_secs() < times.holds.as_secs());
    assert!(times.holds.as_secs() < THERE.as_secs());
};

impl Default for Times {
    fn default() -> Self {
        Self::USUAL
    }
}

/// What a service knows of itself and others.
#[derive(Debug)]
pub(super) struct Sharing {
    id: String,
    pub(super) times: Times,
    told: Mutex<Told>,
    /// Somebody has told, or failed to.
    tried: Condvar,
    /// Held by each removal, so that a collection ends after it.
    collection: Mutex<Option<Collecting>>,
    collects: AtomicBool,
}

#[derive(Debug, Default)]
struct Told {
    last: Option<Moment>,
    /// When that failed last, and how.
    failed: Option<(Instant, String)>,
    /// Somebody tells just now.
    telling: bool,
    /// He waits for a collection.
    collected: bool,
    /// How many wait for him.
    waiting: usize,
    /// What a collector wrote that died.
    dead: Option<Vec<u8>>,
}

/// By both clocks: one of them stands still while the machine sleeps.
#[derive(Debug, Clone, Copy)]
struct Moment {
    clock: Instant,
    wall: SystemTime,
}

impl Moment {
    fn now() -> Self {
        Self {
            clock: Instant::now(),
            wall: SystemTime::now(),
        }
    }

    fn age(&self) -> Duration {
        let wall = self.wall.elapsed().unwrap_or_default();
        self.clock.elapsed().max(wall)
    }
}

#[derive(Debug)]
struct Collecting {
    grace: Duration,
    looked: Instant,
}

/// Somebody who tells that this service is there, until this is dropped.
struct Telling<'a>(&'a Sharing);

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        let mut told = held(&self.0.told);
        told.telling = false;
        told.collected = false;
        drop(told);
        self.0.tried.notify_all();
    }
}

/// A collection that goes on until this is dropped.
#[derive(Debug)]
#[must_use = "the collection ends when it is dropped"]
pub(crate) struct Collection(Option<Bucket>);

impl Collection {
    /// Ends it, after a removal that is under way.
    pub(crate) fn end(mut self) {
        if let Some(bucket) = self.0.take() {
            bucket.end_collection();
        }
    }
}

impl Drop for Collection {
    fn drop(&mut self) {
        if let Some(bucket) = self.0.take() {
            let runtime = bucket.inner.runtime.clone();
            // It blocks, and this may be a thread that must not.
            runtime.spawn_blocking(move || bucket.end_collection());
        }
    }
}

/// Leave to remove something, which holds the collection up until this is dropped.
pub(super) struct Removal<'a> {
    bucket: &'a Bucket,
    _collection: MutexGuard<'a, Option<Collecting>>,
    looked: Instant,
}

impl Removal<'_> {
    /// Sees that the leave still holds; comes right before the removal.
    ///
    /// # Errors
    /// `Bucket` when so much time went by that others may take this service for dead.
    pub(super) fn in_time(&self, key: &str) -> Result<()> {
        let (age, limit) = (self.looked.elapsed(), self.bucket.inner.sharing.times.begin);
        if age <= limit {
            return Ok(());
        }
        Err(EmbeddedError::Bucket {
            action: "remove",
            key: key.to_owned(),
            place: self.bucket.access().place.clone(),
            detail: format!(
                "answers took so long that the last look for other services is {} seconds old",
                age.as_secs()
            ),
        })
    }
}

impl Sharing {
    /// This service goes by what `file` says, which is made.
    ///
    /// # Errors
    /// When the file can neither be read nor made.
    pub(super) fn open(file: &Path, times: Times) -> Result<Self, StateError> {
        let known = std::fs::read_to_string(file).ok();
        let known = known.filter(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()));
        let id = match known {
            Some(id) => id,
            None => {
                let id = format!("{:032x}", rand::random::<u128>());
                write_atomic(file, id.as_bytes())?;
                id
            }
        };
        Ok(Self {
            id,
            times,
            told: Mutex::default(),
            tried: Condvar::new(),
            collection: Mutex::default(),
            collects: AtomicBool::new(false),
        })
    }
}

impl Bucket {
    /// Tells others that this service uses the bucket; comes before every use.
    ///
    /// # Errors
    /// `Bucket`.
    pub(super) fn announce(&self) -> Result<()> {
        let sharing = &self.inner.sharing;
        let (began, times) = (Moment::now(), &sharing.times);
        let mut told = held(&sharing.told);
        let holds = loop {
            let age = told.last.as_ref().map(Moment::age);
            let holds = age.is_some_and(|age| age < times.holds);
            if age.is_some_and(|age| age < times.renew) || holds && told.telling {
                return Ok(());
            }
            if !told.telling {
                break holds;
            }
            if told.collected && told.waiting >= WAITERS {
                return Err(self.unused("another service collects garbage there"));
            }
            told.waiting += 1;
            told = sharing
                .tried
                .wait(told)
                .unwrap_or_else(PoisonError::into_inner);
            told.waiting -= 1;
            // Those who waited for a try that failed need not all try themselves.
            if let Some((at, detail)) = &told.failed
                && *at >= began.clock
            {
                return Err(self.unused(detail));
            }
        };
        told.telling = true;
        drop(told);
        let telling = Telling(sharing);
        let key = format!("{SERVICES}/{}", sharing.id);
        let announced = self.put(&key, b"", PutMode::Overwrite);
        let announced = announced.and_then(|()| match holds {
            true => Ok(()),
            false => self.wait_for_collection(),
        });
        let mut told = held(&sharing.told);
        match &announced {
            Ok(()) => told.last = Some(began),
            Err(error) => {
                let detail = match error {
                    EmbeddedError::Bucket { detail, .. } => detail.clone(),
                    other => other.to_string(),
                };
                told.failed = Some((Instant::now(), detail));
            }
        }
        drop(told);
        drop(telling);
        announced
    }

    fn unused(&self, detail: &str) -> EmbeddedError {
        EmbeddedError::Bucket {
            action: "write",
            key: format!("{SERVICES}/{}", self.inner.sharing.id),
            place: self.access().place.clone(),
            detail: detail.to_owned(),
        }
    }

    /// Waits until no other service collects.
    fn wait_for_collection(&self) -> Result<()> {
        let sharing = &self.inner.sharing;
        let mut seen: Option<(Vec<u8>, Instant)> = None;
        while let Some(text) = self.collection()? {
            let dead = held(&sharing.told).dead.as_ref() == Some(&text);
            if dead || text.starts_with(sharing.id.as_bytes()) {
                return Ok(());
            }
            match &seen {
                Some((before, since)) if *before == text => {
                    if since.elapsed() >= sharing.times.silent {
                        self.bury(text);
                        return Ok(());
                    }
                }
                _ => {
                    tracing::info!(
                        place = self.access().place,
                        "another service collects garbage"
                    );
                    held(&sharing.told).collected = true;
                    seen = Some((text, Instant::now()));
                }
            }
            std::thread::sleep(sharing.times.poll);
        }
        Ok(())
    }

    /// What the collector of now wrote.
    fn collection(&self) -> Result<Option<Vec<u8>>> {
        let path = self.path(COLLECTION);
        let read = self.soon(async { self.s3().get(&path).await?.bytes().await });
        match read {
            Ok(text) => Ok(Some(text.to_vec())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("read", COLLECTION)(error)),
        }
    }

    /// Removes what a collector left that died, so that nobody else waits for it. Should another
    /// collector just have begun, it sees this service, which told of itself before, and stops.
    fn bury(&self, text: Vec<u8>) {
        tracing::warn!(
            place = self.access().place,
            "a service that collected garbage was not heard of for long, and counts as dead"
        );
        held(&self.inner.sharing.told).dead = Some(text);
        if let Err(error) = self.delete(COLLECTION) {
            tracing::warn!(%error, "others wait some minutes for a collection that has ended");
        }
    }

    /// Begins to collect garbage, one run at a time: until that is dropped or
    /// [ended](Collection::end), things may be removed that were not used for `grace`.
    ///
    /// # Errors
    /// `BucketShared` when another service used the bucket within the grace; `Bucket`.
    pub(crate) fn begin_collection(&self, grace: Duration) -> Result<Collection> {
        self.announce()?;
        let sharing = &self.inner.sharing;
        let mut collecting = held(&sharing.collection);
        // From now on, who is told of something looks again after it is noted.
        sharing.collects.store(true, Ordering::SeqCst);
        let collection = Collection(Some(self.clone()));
        let looked = Instant::now();
        let begun = self.look_for_others(grace);
        if let Err(error) = begun {
            drop(collecting);
            collection.end();
            return Err(error);
        }
        *collecting = Some(Collecting { grace, looked });
        Ok(collection)
    }

    fn end_collection(&self) {
        let sharing = &self.inner.sharing;
        // After a removal that is under way: others must wait for it.
        let mut collecting = held(&sharing.collection);
        *collecting = None;
        if let Err(error) = self.delete(COLLECTION) {
            tracing::warn!(%error, "others wait some minutes for a collection that has ended");
        }
        sharing.collects.store(false, Ordering::SeqCst);
    }

    /// Whether this service collects.
    pub(crate) fn collects(&self) -> bool {
        self.inner.sharing.collects.load(Ordering::SeqCst)
    }

    /// Sees that the collection may go on; comes before each removal.
    ///
    /// # Errors
    /// `BucketShared` when another service came; `Bucket`.
    pub(super) fn begin_removal(&self) -> Result<Removal<'_>> {
        let sharing = &self.inner.sharing;
        let mut collection = held(&sharing.collection);
        let Some(collecting) = collection.as_mut() else {
            return Err(self.shared("nobody collects garbage now"));
        };
        if collecting.looked.elapsed() >= sharing.times.look {
            let looked = Instant::now();
            self.look_for_others(collecting.grace)?;
            collecting.looked = looked;
        }
        let looked = collecting.looked;
        Ok(Removal {
            bucket: self,
            _collection: collection,
            looked,
        })
    }

    fn look_for_others(&self, grace: Duration) -> Result<()> {
        let id = &self.inner.sharing.id;
        // Another one each time, so that who waits sees that this service lives.
        let text = format!("{id} {:032x}", rand::random::<u128>());
        let (own, all) = (self.path(COLLECTION), self.path(SERVICES));
        let look = async {
            self.s3().put(&own, text.into()).await?;
            let own = Found::from(self.s3().head(&own).await?);
            let services = self.s3().list_with_delimiter(Some(&all)).await?;
            Ok((own.at, services.objects))
        };
        // The first is by the clock of the store.
        let looked = around(Step::BucketPut, || self.soon(look));
        let (now, services) = looked.map_err(self.failed("look for", COLLECTION))?;
        for service in &services {
            let age = now.duration_since(time(service)).unwrap_or_default();
            let other = service.location.filename().unwrap_or_default();
            if other != id && age < grace + THERE {
                let minutes = age.as_secs() / 60;
                return Err(self.shared(&format!(
                    "service {other} used it {minutes} minutes ago, and noted for itself what it last used"
                )));
            }
        }
        Ok(())
    }

    fn shared(&self, detail: &str) -> EmbeddedError {
        EmbeddedError::BucketShared {
            place: self.access().place.clone(),
            detail: detail.to_owned(),
        }
    }
}
