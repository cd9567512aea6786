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
//! collection, and who collects stops.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use super::blobs::held;
use super::{Bucket, Result};
use crate::registry::error::EmbeddedError;
use crate::state::{StateError, write_atomic};

const SERVICES: &str = "services";
const COLLECTION: &str = "collection";
/// A service tells again that it is there after this time.
const RENEW: Duration = Duration::from_secs(600);
/// A service counts as there for the grace and this time after it told so. More than [`RENEW`], and
/// than an answer takes.
const THERE: Duration = Duration::from_secs(3600);
/// A collector looks for others again after this time.
const LOOK: Duration = Duration::from_secs(5);
/// A collector that was not heard of for so long is dead. More than [`LOOK`] and a removal, with all
/// its tries, take.
const SILENT: Duration = Duration::from_secs(180);
/// How often who waits for a collection looks for its end.
const POLL: Duration = Duration::from_secs(1);

/// What a service knows of itself and others.
#[derive(Debug)]
pub(super) struct Sharing {
    id: String,
    told: Mutex<Told>,
    collection: Mutex<Option<Collecting>>,
    collects: AtomicBool,
}

#[derive(Debug, Default)]
struct Told {
    at: Option<Instant>,
    /// When that failed last, and how.
    failed: Option<(Instant, String)>,
}

#[derive(Debug)]
struct Collecting {
    grace: Duration,
    looked: Instant,
}

impl Sharing {
    /// This service goes by what `file` says, which is made.
    ///
    /// # Errors
    /// When the file can neither be read nor made.
    pub(super) fn open(file: &Path) -> Result<Self, StateError> {
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
            told: Mutex::default(),
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
        let began = Instant::now();
        let mut told = held(&sharing.told);
        if told.at.is_some_and(|at| at.elapsed() < RENEW) {
            return Ok(());
        }
        let key = format!("{SERVICES}/{}", sharing.id);
        // Those who waited for a try that failed need not all try themselves.
        if let Some((_, detail)) = told.failed.as_ref().filter(|(at, _)| *at >= began) {
            return Err(EmbeddedError::Bucket {
                action: "write",
                key,
                place: self.access().place.clone(),
                detail: detail.clone(),
            });
        }
        let announced = self.put(&key, b"", object_store::PutMode::Overwrite);
        let announced = announced.and_then(|()| self.wait_for_collection());
        match &announced {
            Ok(()) => told.at = Some(began),
            Err(error) => {
                let detail = match error {
                    EmbeddedError::Bucket { detail, .. } => detail.clone(),
                    other => other.to_string(),
                };
                told.failed = Some((Instant::now(), detail));
            }
        }
        announced
    }

    /// Waits until no other service collects.
    fn wait_for_collection(&self) -> Result<()> {
        let mut seen: Option<(Vec<u8>, Instant)> = None;
        while let Some(text) = self.get(COLLECTION)? {
            if text.starts_with(self.inner.sharing.id.as_bytes()) {
                return Ok(());
            }
            match &seen {
                Some((before, since)) if *before == text => {
                    if since.elapsed() >= SILENT {
                        return Ok(());
                    }
                }
                _ => {
                    tracing::info!(
                        place = self.access().place,
                        "another service collects garbage"
                    );
                    seen = Some((text, Instant::now()));
                }
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Begins to collect garbage, one run at a time: until [`end_collection`](Self::end_collection),
    /// things may be removed that were not used for `grace`.
    ///
    /// # Errors
    /// `BucketShared` when another service used the bucket within the grace; `Bucket`.
    pub(crate) fn begin_collection(&self, grace: Duration) -> Result<()> {
        self.announce()?;
        let sharing = &self.inner.sharing;
        // From now on, who is told of something looks again after it is noted.
        sharing.collects.store(true, Ordering::SeqCst);
        let looked = Instant::now();
        let begun = self.look_for_others(grace);
        match &begun {
            Ok(()) => *held(&sharing.collection) = Some(Collecting { grace, looked }),
            Err(_) => self.end_collection(),
        }
        begun
    }

    /// Ends what [`begin_collection`](Self::begin_collection) began.
    pub(crate) fn end_collection(&self) {
        let sharing = &self.inner.sharing;
        *held(&sharing.collection) = None;
        sharing.collects.store(false, Ordering::SeqCst);
        if let Err(error) = self.delete(COLLECTION) {
            tracing::warn!(%error, "others wait some minutes for a collection that has ended");
        }
    }

    /// Whether this service collects.
    pub(super) fn collects(&self) -> bool {
        self.inner.sharing.collects.load(Ordering::SeqCst)
    }

    /// Sees that the collection may go on; comes before each removal.
    ///
    /// # Errors
    /// `BucketShared` when another service came; `Bucket`.
    pub(super) fn may_remove(&self) -> Result<()> {
        let mut collection = held(&self.inner.sharing.collection);
        let Some(collecting) = collection.as_mut() else {
            return Err(self.shared("nobody collects garbage now"));
        };
        if collecting.looked.elapsed() < LOOK {
            return Ok(());
        }
        let looked = Instant::now();
        self.look_for_others(collecting.grace)?;
        collecting.looked = looked;
        Ok(())
    }

    fn look_for_others(&self, grace: Duration) -> Result<()> {
        let id = &self.inner.sharing.id;
        // Another one each time, so that who waits sees that this service lives.
        let text = format!("{id} {:032x}", rand::random::<u128>());
        self.put(
            COLLECTION,
            text.as_bytes(),
            object_store::PutMode::Overwrite,
        )?;
        // By the clock of the store.
        let now = self.head(COLLECTION)?.map(|found| found.at);
        let now = now.unwrap_or_else(SystemTime::now);
        for (other, at) in self.list(SERVICES)? {
            let age = now.duration_since(at).unwrap_or_default();
            if other != *id && age < grace + THERE {
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
