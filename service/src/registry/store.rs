//! The registry without HTTP: repositories, their manifests, tags, blobs and referrers.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use chalk_core::reference::is_tag;
use chalk_core::{AnyDigest, Digest};
use chalk_store::registry::MANIFEST_LIMIT;
use chalk_store::uploads::Uploads;
use chalk_store::{BlobError, BlobStore, Follower};

use super::bucket::Bucket;
use super::condition::Condition;
use super::content;
use super::error::EmbeddedError;
use super::heads::Heads;
use super::layout::Layout;
use super::referrers::{self, Descriptor, Wanted};

type Result<T> = std::result::Result<T, EmbeddedError>;

/// The embedded registry. Clones share it. Its calls block (files are read and synced): from
/// async code use [`BlobStore::run`], the router, or the
/// [`Regional`](super::Regional) interface.
///
/// Blobs lie in the shared [`BlobStore`]; a repository only links to them. One process at a time
/// may have a registry directory open. With a [`Bucket`] all of the registry lies there, where several
/// processes may use it; the store then only holds copies of blobs, and brings those that it lacks.
#[derive(Debug, Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    layout: Layout,
    blobs: BlobStore,
    /// Changes take turns, so that no manifest is accepted while a blob it names is unlinked, and
    /// no tag points to a manifest that goes at the same time. Reads need no lock: files are
    /// replaced whole.
    changes: Mutex<()>,
    heads: Heads,
    uploads: Uploads,
}

/// A tag or a digest.
pub(super) enum Name {
    Tag(String),
    Digest(AnyDigest),
}

/// A manifest that is there, its bytes checked.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) digest: AnyDigest,
    pub(super) media_type: Arc<str>,
    pub(super) bytes: Bytes,
}

/// A manifest that is there, its bytes not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FoundHead {
    pub(super) digest: AnyDigest,
    pub(super) media_type: Arc<str>,
    pub(super) size: u64,
}

impl Name {
    pub(super) fn parse(text: &str) -> Result<Self> {
        if text.contains(':') {
            return Ok(Self::Digest(text.parse()?));
        }
        if is_tag(text) {
            return Ok(Self::Tag(text.to_owned()));
        }
        Err(EmbeddedError::TagInvalid(text.to_owned()))
    }
}

impl Registry {
    /// Opens the registry in `dir`, creating it when it is not there.
    ///
    /// # Errors
    /// When the directory cannot be created, read or synced.
    pub fn open(dir: impl AsRef<Path>, blobs: BlobStore) -> Result<Self> {
        Self::open_on(None, dir, blobs)
    }

    /// Opens the registry in a bucket, if there is one; `dir` is then for what is on its way.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_on(
        bucket: Option<Bucket>,
        dir: impl AsRef<Path>,
        blobs: BlobStore,
    ) -> Result<Self> {
        Ok(Self {
            inner: Arc::new(Inner {
                layout: Layout::open(dir.as_ref(), bucket)?,
                uploads: Uploads::new(blobs.clone()),
                blobs,
                changes: Mutex::new(()),
                heads: Heads::default(),
            }),
        })
    }

    /// The store that the blobs are in.
    pub fn blobs(&self) -> &BlobStore {
        &self.inner.blobs
    }

    /// The bucket that the registry lies in, if it lies in one.
    pub(crate) fn bucket(&self) -> Option<&Bucket> {
        self.inner.layout.bucket()
    }

    /// Size of a blob of the store or the bucket, where that is the place of blobs.
    pub(super) fn size(&self, digest: &AnyDigest) -> Result<Option<u64>> {
        match self.bucket() {
            Some(bucket) => bucket.blob(digest),
            None => Ok(self.inner.blobs.size(digest.clone())?),
        }
    }

    /// Makes a blob of the store durable where blobs lie; `false` when it is nowhere.
    pub(super) fn keep(&self, digest: &AnyDigest) -> Result<bool> {
        match self.bucket() {
            Some(bucket) => bucket.keep(digest, &self.inner.blobs),
            None => Ok(self.inner.blobs.contains(digest.clone())?),
        }
    }

    /// Brings a blob into the store, if it lies elsewhere and is there.
    ///
    /// # Errors
    /// `Bucket`, `Blob`, `Io`.
    pub(super) fn bring(&self, digest: &AnyDigest) -> Result<()> {
        match self.bucket() {
            Some(bucket) => bucket.bring(digest, &self.inner.blobs).map(drop),
            None => Ok(()),
        }
    }

    /// A blob that the store lacks, as it comes, and its size; `None` when the store has it, when it is
    /// nowhere, and when it cannot be checked on the way.
    ///
    /// # Errors
    /// `Bucket`, `Blob`, `Io`.
    pub(super) fn follow(&self, digest: &AnyDigest) -> Result<Option<(Follower, u64)>> {
        match (self.bucket(), digest) {
            (Some(bucket), AnyDigest::Sha256(digest)) if !self.inner.blobs.contains(*digest)? => {
                bucket.follow(digest, &self.inner.blobs)
            }
            _ => Ok(None),
        }
    }

    /// The SHA-256 digest of what goes by `digest`.
    ///
    /// # Errors
    /// `Bucket`, `Blob`.
    pub(crate) fn resolve(&self, digest: &AnyDigest) -> Result<Option<Digest>> {
        match self.bucket() {
            Some(bucket) => bucket.resolve(digest),
            None => Ok(self.inner.blobs.resolve(digest)?),
        }
    }

    /// Blobs that arrive in pieces.
    pub(crate) fn uploads(&self) -> &Uploads {
        &self.inner.uploads
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.inner.layout
    }

    pub(super) fn heads(&self) -> &Heads {
        &self.inner.heads
    }

    pub(super) fn change(&self) -> MutexGuard<'_, ()> {
        // Each change is made of whole steps on disk: one that panicked spoils nothing.
        self.inner
            .changes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The manifest under a tag or digest, its bytes checked against its digest; `None` when
    /// there is none, and also when its bytes have rotted: then it has to be pushed anew.
    ///
    /// # Errors
    /// `NameInvalid`, `TagInvalid`, `DigestInvalid`, `Blob`, `Io`.
    pub(super) fn read(&self, repository: &str, name: &str) -> Result<Option<Found>> {
        let Some((digest, media_type)) = self.find(repository, name)? else {
            return Ok(None);
        };
        self.bring(&digest)?;
        match self.inner.blobs.read_small(&digest, MANIFEST_LIMIT) {
            // A collector may have removed it before it was used just now.
            Ok(_) if self.find(repository, name)?.is_none() => Ok(None),
            Ok(bytes) => Ok(Some(Found {
                digest,
                media_type,
                bytes: bytes.into(),
            })),
            Err(error @ (BlobError::NotFound(_) | BlobError::Mismatch { .. })) => {
                tracing::warn!(repository, name, %error, "manifest is lost");
                Ok(None)
            }
            Err(other) => Err(other.into()),
        }
    }

    /// Digest, type and size of the manifest under a tag or digest; its bytes are not read.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(super) fn look(&self, repository: &str, name: &str) -> Result<Option<FoundHead>> {
        let moment = self.inner.heads.moment();
        let Some((digest, media_type)) = self.find(repository, name)? else {
            return Ok(None);
        };
        let Some(size) = self.size(&digest)? else {
            return Ok(None);
        };
        // A collector may have removed it before it was used just now.
        if self.find(repository, name)?.is_none() {
            return Ok(None);
        }
        let head = FoundHead {
            digest,
            media_type,
            size,
        };
        // Others may change what is in a bucket.
        if self.bucket().is_none() {
            let heads = &self.inner.heads;
            heads.remember(moment, repository, name, head.clone());
        }
        Ok(Some(head))
    }

    /// What [`look`](Self::look) would say, if it is remembered; does not block. That the bytes are
    /// still in the store is looked up each time, since others may set them aside.
    pub(super) fn remembered(&self, repository: &str, name: &str) -> Option<FoundHead> {
        let head = self.inner.heads.get(repository, name)?;
        let size = self.inner.blobs.size(&head.digest).ok()?;
        // Looked up again once it is used: a collector may have removed it before.
        let same = self.inner.heads.get(repository, name).as_ref() == Some(&head);
        (same && size == Some(head.size)).then_some(head)
    }

    pub(super) fn find(
        &self,
        repository: &str,
        name: &str,
    ) -> Result<Option<(AnyDigest, Arc<str>)>> {
        let layout = &self.inner.layout;
        let digest = match Name::parse(name)? {
            Name::Digest(digest) => digest,
            Name::Tag(tag) => match self.tagged(repository, &tag)? {
                Some(digest) => digest,
                None => return Ok(None),
            },
        };
        let link = layout.read(&layout.manifest(repository, &digest)?)?;
        let media_type = link.and_then(|bytes| String::from_utf8(bytes).ok());
        Ok(media_type.map(|media_type| (digest, media_type.into())))
    }

    pub(super) fn tagged(&self, repository: &str, tag: &str) -> Result<Option<AnyDigest>> {
        let layout = &self.inner.layout;
        let text = layout.read(&layout.tag(repository, tag)?)?;
        Ok(text.and_then(|bytes| std::str::from_utf8(&bytes).ok()?.trim().parse().ok()))
    }

    /// Blobs that a manifest of the repository names; `None` when it has no such manifest.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(crate) fn named_by(
        &self,
        repository: &str,
        digest: &Digest,
    ) -> Result<Option<Vec<AnyDigest>>> {
        let Some(found) = self.read(repository, &digest.to_string())? else {
            return Ok(None);
        };
        let content = content::read(&found.media_type, &found.bytes);
        Ok(Some(content.map_err(EmbeddedError::ManifestInvalid)?.blobs))
    }

    /// Size of a blob of the repository; `None` when it has no such blob.
    ///
    /// # Errors
    /// `NameInvalid`, `Blob`, `Io`.
    pub fn blob(&self, repository: &str, digest: impl Into<AnyDigest>) -> Result<Option<u64>> {
        let digest = digest.into();
        let layout = &self.inner.layout;
        let link = layout.layer(repository, &digest)?;
        // In this order: a blob that is used is not taken out of a repository by a collector.
        let size = self.size(&digest)?;
        Ok(if layout.has(&link)? { size } else { None })
    }

    /// Makes a blob of the store part of a repository.
    ///
    /// # Errors
    /// `BlobUnknown` when the store does not have it; `NameInvalid`, `Blob`, `Io`.
    pub fn link_blob(&self, repository: &str, digest: impl Into<AnyDigest>) -> Result<()> {
        let digest = digest.into();
        let path = self.inner.layout.layer(repository, &digest)?;
        if self.bucket().is_some() {
            // Takes its time, in which others may change something.
            self.keep(&digest)?;
        }
        let _turn = self.change();
        if self.size(&digest)?.is_none() {
            return Err(EmbeddedError::BlobUnknown(digest));
        }
        self.inner.layout.touch(&path)
    }

    /// Tags of a repository, sorted.
    ///
    /// # Errors
    /// `NameUnknown` when there is no such repository; `NameInvalid`, `Io`.
    pub fn tags(&self, repository: &str) -> Result<Vec<String>> {
        if !self.inner.layout.exists(repository)? {
            return Err(EmbeddedError::NameUnknown(repository.to_owned()));
        }
        let layout = &self.inner.layout;
        layout.names(&layout.tags(repository)?)
    }

    /// All repositories, sorted.
    ///
    /// # Errors
    /// `Io`.
    pub fn repositories(&self) -> Result<Vec<String>> {
        self.inner.layout.all()
    }

    /// Digests of all manifests of a repository, tagged or not, sorted.
    ///
    /// # Errors
    /// `NameInvalid`, `Io`.
    pub fn manifests(&self, repository: &str) -> Result<Vec<AnyDigest>> {
        self.inner.layout.manifests(repository)
    }

    /// Digests of all blobs of a repository, sorted.
    ///
    /// # Errors
    /// `NameInvalid`, `Io`.
    pub fn linked(&self, repository: &str) -> Result<Vec<AnyDigest>> {
        self.inner.layout.layers(repository)
    }

    /// Manifests whose `subject` is `subject`, and whether there are more than were wanted.
    ///
    /// # Errors
    /// `NameInvalid`, `Io`.
    pub(super) fn referrers_of(
        &self,
        repository: &str,
        subject: &AnyDigest,
        wanted: Wanted<'_>,
    ) -> Result<(Vec<Descriptor>, bool)> {
        referrers::list(&self.inner.layout, repository, subject, wanted)
    }

    /// Removes a tag, or the manifest behind a digest with all its tags; `false` when there was
    /// none. Bytes stay in the store until it is cleaned.
    ///
    /// # Errors
    /// `NameInvalid`, `TagInvalid`, `DigestInvalid`, `ConditionFailed`, `Io`.
    pub(super) fn remove(
        &self,
        repository: &str,
        name: &str,
        condition: &Condition,
    ) -> Result<bool> {
        let removed = self.unlink(repository, name, condition);
        match (&removed, name.contains(':')) {
            (Ok(_), false) => self.inner.heads.forget(repository, [name]),
            // With a manifest go its tags.
            _ => self.inner.heads.forget_all(repository),
        }
        removed
    }

    fn unlink(&self, repository: &str, name: &str, condition: &Condition) -> Result<bool> {
        let layout = &self.inner.layout;
        let parsed = Name::parse(name)?;
        let _turn = self.change();
        self.check_condition(repository, name, condition)?;
        let digest = match parsed {
            Name::Tag(tag) => return layout.remove(&layout.tag(repository, &tag)?),
            Name::Digest(digest) => digest,
        };
        let Some((_, media_type)) = self.find(repository, name)? else {
            return Ok(false);
        };
        for tag in layout.names(&layout.tags(repository)?)? {
            if self.tagged(repository, &tag)?.as_ref() == Some(&digest) {
                layout.remove(&layout.tag(repository, &tag)?)?;
            }
        }
        layout.remove(&layout.manifest(repository, &digest)?)?;
        self.bring(&digest)?;
        let bytes = self.inner.blobs.read_small(&digest, MANIFEST_LIMIT).ok();
        let content = bytes.and_then(|bytes| content::read(&media_type, &bytes).ok());
        if let Some(subject) = content.and_then(|content| content.subject) {
            referrers::remove(layout, repository, &digest, &subject)?;
        }
        Ok(true)
    }

    /// Takes a blob out of a repository; `false` when it was not there. Its bytes stay in the
    /// store until it is cleaned.
    ///
    /// # Errors
    /// `NameInvalid`, `Io`.
    pub fn delete_blob(&self, repository: &str, digest: impl Into<AnyDigest>) -> Result<bool> {
        let layout = &self.inner.layout;
        let path = layout.layer(repository, &digest.into())?;
        let _turn = self.change();
        layout.remove(&path)
    }
}
