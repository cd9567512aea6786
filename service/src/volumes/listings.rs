//! Listings of versions, read from the blob store and remembered for a while.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use chalk_core::Digest;
use chalk_store::BlobStore;

use super::error::Result;
use super::manifest::{LISTING_LIMIT, Manifest};

/// Most entries of remembered listings together, save for the newest one.
const ENTRIES: usize = 500_000;

type Remembered = VecDeque<(Digest, Arc<Manifest>)>;

/// Listings by digest.
#[derive(Debug, Clone)]
pub(super) struct Listings {
    blobs: BlobStore,
    /// Newest first.
    known: Arc<Mutex<Remembered>>,
}

impl Listings {
    pub(super) fn new(blobs: BlobStore) -> Self {
        Self {
            blobs,
            known: Arc::default(),
        }
    }

    /// Reads a listing. Blocks.
    pub(super) fn get(&self, digest: &Digest) -> Result<Arc<Manifest>> {
        let known = self.take(digest);
        let manifest = match known {
            Some(manifest) => manifest,
            None => {
                let json = self.blobs.read_small(digest, LISTING_LIMIT)?;
                Arc::new(Manifest::parse(*digest, &json)?)
            }
        };
        self.remember(*digest, manifest.clone());
        Ok(manifest)
    }

    /// Keeps a new listing. Blocks.
    pub(super) fn put(&self, manifest: Manifest) -> Result<Digest> {
        let digest = self.blobs.put(&manifest.json())?.digest;
        self.remember(digest, Arc::new(manifest));
        Ok(digest)
    }

    fn take(&self, digest: &Digest) -> Option<Arc<Manifest>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let at = known.iter().position(|(known, _)| known == digest)?;
        known.remove(at).map(|(_, manifest)| manifest)
    }

    fn remember(&self, digest: Digest, manifest: Arc<Manifest>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(known, _)| *known != digest);
        known.push_front((digest, manifest));
        let mut entries = 0;
        let kept = known.iter().take_while(|(_, manifest)| {
            let fits = entries <= ENTRIES;
            // What an empty listing takes counts, too.
            entries += manifest.len() + 100;
            fits
        });
        let kept = kept.count();
        known.truncate(kept);
    }
}
