//! The registry as its collector sees it: everything that is there, and removals that leave alone
//! what somebody used meanwhile.
//!
//! Looking at everything uses nothing. A removal looks again, under the lock that changes take turns
//! for and while it holds the bytes in question ([`BlobStore::hold`]): whoever was told of a manifest
//! or of a blob in a repository before keeps it, and whoever asks after finds it gone.
//!
//! [`BlobStore::hold`]: chalk_store::BlobStore::hold

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use chalk_core::{AnyDigest, Digest};
use chalk_store::failpoint::{Step, around};
use chalk_store::registry::MANIFEST_LIMIT;
use chalk_store::uses::Horizon;
use chalk_store::{BlobError, Unused};

use super::content::{self, Content};
use super::error::EmbeddedError;
use super::store::Registry;

type Result<T> = std::result::Result<T, EmbeddedError>;

/// What a registry holds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Survey {
    /// By name.
    pub(crate) repositories: BTreeMap<String, Holding>,
}

/// What a repository holds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Holding {
    /// Tags by name.
    pub(crate) tags: BTreeMap<String, Tagged>,
    /// Manifests by digest.
    pub(crate) manifests: BTreeMap<AnyDigest, Listed>,
    /// Blobs that are part of it.
    pub(crate) links: Vec<AnyDigest>,
}

/// A blob.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held {
    /// How many bytes it has.
    pub(crate) size: u64,
    /// When it was last used, as far as is known.
    pub(crate) used: SystemTime,
}

/// Where a tag points.
#[derive(Debug, Clone)]
pub(crate) struct Tagged {
    /// The manifest.
    pub(crate) digest: AnyDigest,
    /// Since when.
    pub(crate) set: SystemTime,
}

/// A manifest of a repository.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    /// Its bytes in the store.
    pub(crate) blob: Option<Digest>,
    /// How many bytes it has.
    pub(crate) size: u64,
    /// When it was last pulled, pushed or asked for, as far as is known.
    pub(crate) used: SystemTime,
    /// What it says; none when its bytes are lost.
    pub(crate) parts: Option<Arc<Parts>>,
}

/// What a manifest names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Parts {
    /// Blobs, each with its size.
    pub(crate) blobs: Vec<(AnyDigest, u64)>,
    /// Manifests.
    pub(crate) manifests: Vec<AnyDigest>,
    /// The manifest that it is attached to.
    pub(crate) subject: Option<AnyDigest>,
    /// Its annotations.
    pub(crate) annotations: BTreeMap<String, String>,
}

/// Documents that were read before, each with its size: what a digest names never changes.
pub(crate) type Read = HashMap<AnyDigest, (u64, Arc<Parts>)>;

impl Parts {
    /// What a manifest of that type names; none when it cannot be understood.
    pub(crate) fn read(media_type: &str, bytes: &[u8]) -> Option<Self> {
        content::read(media_type, bytes).ok().map(Self::from)
    }
}

impl From<Content> for Parts {
    fn from(content: Content) -> Self {
        Self {
            blobs: content.blobs.into_iter().zip(content.sizes).collect(),
            manifests: content.manifests,
            subject: content.subject,
            annotations: content.annotations,
        }
    }
}

impl Registry {
    /// Everything that is there. What comes and goes meanwhile may be in it or not. `read` spares
    /// reading a document twice, and has those that are there when this ends.
    ///
    /// # Errors
    /// `Blob`, `Io`. A manifest whose bytes are lost or damaged is no error.
    pub(crate) fn survey(&self, read: &mut Read) -> Result<Survey> {
        let mut survey = Survey::default();
        let mut seen = Read::new();
        let held = self.held()?;
        for repository in self.repositories()? {
            let holding = self.holding(&repository, &held, read, &mut seen)?;
            survey.repositories.insert(repository, holding);
        }
        *read = seen;
        Ok(survey)
    }

    /// All blobs, of whichever repository, which uses none.
    ///
    /// # Errors
    /// `Blob`, `Bucket`.
    pub(crate) fn held(&self) -> Result<HashMap<Digest, Held>> {
        if let Some(bucket) = self.bucket() {
            return bucket.blobs();
        }
        let mut all = HashMap::new();
        for found in self.blobs().list()? {
            let (blob, used) = found?;
            let size = blob.size;
            all.insert(blob.digest, Held { size, used });
        }
        Ok(all)
    }

    fn held_now(&self, blob: &Digest) -> Result<Option<Held>> {
        if let Some(bucket) = self.bucket() {
            return bucket.held(blob);
        }
        let path = self.blobs().path(blob);
        let meta = match std::fs::symlink_metadata(&path) {
            Ok(meta) => meta,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(EmbeddedError::io("inspect", path)(e)),
        };
        let used = meta
            .modified()
            .map_err(EmbeddedError::io("inspect", path))?;
        let size = meta.len();
        Ok(Some(Held { size, used }))
    }

    fn holding(
        &self,
        repository: &str,
        held: &HashMap<Digest, Held>,
        read: &Read,
        seen: &mut Read,
    ) -> Result<Holding> {
        let layout = self.layout();
        let mut holding = Holding::default();
        // Tags first: what one points to was there before it.
        for (tag, set) in layout.dated(&layout.tags(repository)?)? {
            if let Some(digest) = self.tagged(repository, &tag)? {
                holding.tags.insert(tag, Tagged { digest, set });
            }
        }
        for digest in self.manifests(repository)? {
            let link = layout.read(&layout.manifest(repository, &digest)?)?;
            let Some(media_type) = link.and_then(|bytes| String::from_utf8(bytes).ok()) else {
                continue;
            };
            let listed = self.listed(&digest, &media_type, held, read, seen)?;
            holding.manifests.insert(digest, listed);
        }
        holding.links = self.linked(repository)?;
        Ok(holding)
    }

    fn listed(
        &self,
        digest: &AnyDigest,
        media_type: &str,
        held: &HashMap<Digest, Held>,
        read: &Read,
        seen: &mut Read,
    ) -> Result<Listed> {
        let lost = Listed {
            blob: None,
            size: 0,
            used: SystemTime::UNIX_EPOCH,
            parts: None,
        };
        let Some(blob) = self.resolve(digest)? else {
            return Ok(lost);
        };
        let found = match held.get(&blob) {
            Some(found) => Some(*found),
            // It may have come since.
            None => self.held_now(&blob)?,
        };
        let Some(Held { size, used }) = found else {
            return Ok(lost);
        };
        let known = seen.get(digest).or_else(|| read.get(digest)).cloned();
        let parts = match known {
            Some((_, parts)) => Some(parts),
            None => {
                let bytes = self.inspect(&blob)?;
                bytes.and_then(|bytes| Parts::read(media_type, &bytes).map(Arc::new))
            }
        };
        if let Some(parts) = &parts {
            seen.insert(digest.clone(), (size, parts.clone()));
        }
        Ok(Listed {
            blob: Some(blob),
            size,
            used,
            parts,
        })
    }

    /// The bytes of a document, which uses it not; `None` when they are lost or damaged.
    fn inspect(&self, blob: &Digest) -> Result<Option<Vec<u8>>> {
        if let Some(bucket) = self.bucket() {
            return bucket.inspect(blob, self.blobs());
        }
        match self.blobs().inspect(blob, MANIFEST_LIMIT) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(
                BlobError::NotFound(_) | BlobError::Mismatch { .. } | BlobError::TooLarge { .. },
            ) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a tag if it still points to `digest`, and that manifest was not used after the
    /// horizon; whether it did.
    ///
    /// # Errors
    /// `NameInvalid`, `TagInvalid`, `Blob`, `Io`.
    pub(crate) fn drop_tag(
        &self,
        repository: &str,
        tag: &str,
        digest: &AnyDigest,
        horizon: &Horizon,
    ) -> Result<bool> {
        let path = self.layout().tag(repository, tag)?;
        let _turn = self.change();
        if self.tagged(repository, tag)?.as_ref() != Some(digest) {
            return Ok(false);
        }
        self.unless_used(digest, horizon, || {
            around(Step::GcTag, || self.layout().remove(&path))?;
            self.heads().forget(repository, [tag]);
            Ok(())
        })
    }

    /// Removes manifests that no tag points to, that were not used after the horizon, and that no
    /// manifest of the repository needs: neither one of those that `needed_by` says of each, nor its
    /// subject. Gives those that it removed.
    ///
    /// # Errors
    /// `NameInvalid`, `Blob`, `Io`.
    pub(crate) fn drop_manifests(
        &self,
        repository: &str,
        digests: &[AnyDigest],
        needed_by: &HashMap<AnyDigest, Vec<AnyDigest>>,
        subjects: &HashMap<AnyDigest, AnyDigest>,
        horizon: &Horizon,
    ) -> Result<Vec<AnyDigest>> {
        let layout = self.layout();
        let mut removed = Vec::new();
        let _turn = self.change();
        let mut tagged = HashSet::new();
        for tag in layout.names(&layout.tags(repository)?)? {
            tagged.extend(self.tagged(repository, &tag)?);
        }
        for digest in digests {
            let there = |other: &AnyDigest| -> Result<bool> {
                layout.has(&layout.manifest(repository, other)?)
            };
            let mut needed = tagged.contains(digest);
            for other in needed_by.get(digest).into_iter().flatten() {
                needed = needed || there(other)?;
            }
            if let Some(subject) = subjects.get(digest) {
                needed = needed || there(subject)?;
            }
            if needed {
                continue;
            }
            let link = layout.manifest(repository, digest)?;
            let gone = self.unless_used(digest, horizon, || {
                around(Step::GcManifest, || layout.remove(&link))?;
                self.heads()
                    .forget(repository, [digest.to_string().as_str()]);
                // Within the removal: whoever finds the manifest gone may push it again.
                match subjects.get(digest) {
                    Some(subject) => super::referrers::remove(layout, repository, digest, subject),
                    None => Ok(()),
                }
            })?;
            if gone {
                removed.push(digest.clone());
            }
        }
        Ok(removed)
    }

    /// Takes blobs out of a repository that were not used after the horizon, and that no manifest
    /// names which came since: whoever pushes one uses them. Gives how many went.
    ///
    /// # Errors
    /// `NameInvalid`, `Blob`, `Io`.
    pub(crate) fn drop_links(
        &self,
        repository: &str,
        digests: &[AnyDigest],
        horizon: &Horizon,
    ) -> Result<usize> {
        let mut gone = 0;
        let _turn = self.change();
        for digest in digests {
            let link = self.layout().layer(repository, digest)?;
            // Nothing comes of a link that a crash brings back: its blob is there, or not.
            gone += usize::from(self.unless_used(digest, horizon, || {
                around(Step::GcLink, || self.layout().drop(&link))
            })?);
        }
        Ok(gone)
    }

    /// Removes a blob that was not used after the horizon from where blobs lie.
    ///
    /// # Errors
    /// `Blob`, `Bucket`, `BucketShared`.
    pub(crate) fn discard(&self, digest: &Digest, horizon: &Horizon) -> Result<Unused> {
        match self.bucket() {
            Some(bucket) => bucket.discard(digest, horizon),
            None => Ok(self.blobs().remove_unused(digest, horizon)?),
        }
    }

    /// Removes names by other algorithms of blobs that are gone.
    ///
    /// # Errors
    /// As [`discard`](Self::discard).
    pub(crate) fn drop_dead_names(&self, horizon: &Horizon) -> Result<()> {
        if let Some(bucket) = self.bucket() {
            bucket.remove_dead_names(horizon)?;
        }
        self.blobs().remove_dead_names()?;
        Ok(())
    }

    /// Forgets uses that are noted on the disk and before the horizon.
    pub(crate) fn forget_uses(&self, horizon: &Horizon) {
        if let Some(bucket) = self.bucket() {
            bucket.forget_uses(horizon);
        }
        self.blobs().forget_uses(horizon);
    }

    /// Removes something of a blob or manifest that was not used after the horizon, while nobody can
    /// be told of it; whether it did.
    fn unless_used(
        &self,
        digest: &AnyDigest,
        horizon: &Horizon,
        remove: impl FnOnce() -> Result<()>,
    ) -> Result<bool> {
        let blobs = self.blobs();
        let Some(blob) = self.resolve(digest)? else {
            match self.bucket() {
                Some(bucket) => bucket.within_collection(remove)?,
                None => remove()?,
            }
            return Ok(true);
        };
        if let Some(bucket) = self.bucket() {
            return bucket.unless_used(&blob, horizon, remove);
        }
        let held = blobs.hold(&blob);
        if blobs.is_used(&held, &blob, horizon)? {
            return Ok(false);
        }
        remove()?;
        drop(held);
        Ok(true)
    }
}
