//! The registry without HTTP: repositories, their manifests, tags, blobs and referrers.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chalk_core::Digest;
use chalk_core::reference::is_tag;
use chalk_store::failpoint::{Step, around};
use chalk_store::registry::{MANIFEST_LIMIT, Manifest, ManifestHead, Published, Referrer};
use chalk_store::{Blob, BlobError, BlobStore};

use super::content::{self, Content};
use super::error::EmbeddedError;
use super::layout::{self, Layout};

type Result<T> = std::result::Result<T, EmbeddedError>;

/// The embedded registry. Clones share it. Its calls block (files are read and synced): from
/// async code use [`BlobStore::run`], the router, or the
/// [`Regional`](super::Regional) interface.
///
/// Blobs lie in the shared [`BlobStore`]; a repository only links to them. One process at a time
/// may have a registry directory open.
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
}

/// A tag or a digest.
enum Name {
    Tag(String),
    Digest(Digest),
}

impl Name {
    fn parse(text: &str) -> Result<Self> {
        if text.contains(':') {
            let digest = text.parse();
            return digest
                .map(Self::Digest)
                .map_err(|_| EmbeddedError::DigestInvalid(text.to_owned()));
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
        Ok(Self {
            inner: Arc::new(Inner {
                layout: Layout::open(dir.as_ref())?,
                blobs,
                changes: Mutex::new(()),
            }),
        })
    }

    /// The store that the blobs are in.
    pub fn blobs(&self) -> &BlobStore {
        &self.inner.blobs
    }

    fn change(&self) -> MutexGuard<'_, ()> {
        // Each change is made of whole steps on disk: one that panicked spoils nothing.
        self.inner
            .changes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a manifest or index under a tag or its digest. All that it names must be in the
    /// repository; `media_type` may be empty when the document names it.
    ///
    /// # Errors
    /// `NameInvalid`, `TagInvalid`, `DigestInvalid`, `DigestMismatch`, `TooLarge`,
    /// `ManifestInvalid`, `ManifestBlobUnknown`, `Blob`, `Io`.
    pub fn put_manifest(
        &self,
        repository: &str,
        name: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<Published> {
        let layout = &self.inner.layout;
        let name = Name::parse(name)?;
        layout.repository(repository)?;
        if bytes.len() as u64 > MANIFEST_LIMIT {
            return Err(EmbeddedError::TooLarge {
                what: "the manifest",
                limit: MANIFEST_LIMIT,
            });
        }
        let digest = Digest::of(bytes);
        if let Name::Digest(expected) = &name
            && *expected != digest
        {
            return Err(EmbeddedError::DigestMismatch {
                expected: *expected,
                actual: digest,
            });
        }
        let content = content::read(media_type, bytes)?;
        let _turn = self.change();
        self.check_parts(repository, &content)?;
        around(Step::ManifestBlob, || self.inner.blobs.put(bytes))?;
        // What makes the manifest visible comes after all that must be there with it.
        if let Some(subject) = &content.subject {
            let referrer = Referrer {
                media_type: content.media_type.clone(),
                digest,
                size: bytes.len() as u64,
                artifact_type: content.artifact_type.clone(),
                annotations: content.annotations.clone(),
            };
            let path = layout.referrers(repository, subject)?.join(digest.hex());
            let text = serde_json::to_vec(&referrer)
                .map_err(|e| EmbeddedError::ManifestInvalid(e.to_string()))?;
            around(Step::ManifestReferrer, || layout.write(&path, &text))?;
        }
        let link = layout.manifest(repository, &digest)?;
        around(Step::ManifestLink, || {
            write_if_other(layout, &link, content.media_type.as_bytes())
        })?;
        if let Name::Tag(tag) = &name {
            let path = layout.tag(repository, tag)?;
            around(Step::ManifestTag, || {
                write_if_other(layout, &path, digest.to_string().as_bytes())
            })?;
        }
        Ok(Published {
            digest,
            subject: content.subject,
        })
    }

    /// Every part must be linked in the repository and have its bytes.
    fn check_parts(&self, repository: &str, content: &Content) -> Result<()> {
        let Inner { layout, blobs, .. } = &*self.inner;
        let mut missing = Vec::new();
        for digest in &content.blobs {
            if !layout.layer(repository, digest)?.exists() || !blobs.contains(digest)? {
                missing.push(*digest);
            }
        }
        for digest in &content.manifests {
            if !layout.manifest(repository, digest)?.exists() || !blobs.contains(digest)? {
                missing.push(*digest);
            }
        }
        missing.dedup();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(EmbeddedError::ManifestBlobUnknown(missing))
        }
    }

    /// The manifest under a tag or digest, its bytes checked against its digest; `None` when
    /// there is none, and also when its bytes have rotted: then it has to be pushed anew.
    ///
    /// # Errors
    /// `NameInvalid`, `TagInvalid`, `DigestInvalid`, `Blob`, `Io`.
    pub fn manifest(&self, repository: &str, name: &str) -> Result<Option<Manifest>> {
        let Some((digest, media_type)) = self.find(repository, name)? else {
            return Ok(None);
        };
        match self.inner.blobs.read_small(&digest, MANIFEST_LIMIT) {
            Ok(bytes) => Ok(Some(Manifest {
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
    /// As [`manifest`](Self::manifest).
    pub fn head(&self, repository: &str, name: &str) -> Result<Option<ManifestHead>> {
        let Some((digest, media_type)) = self.find(repository, name)? else {
            return Ok(None);
        };
        let size = self.inner.blobs.size(&digest)?;
        Ok(size.map(|size| ManifestHead {
            digest,
            media_type,
            size: Some(size),
        }))
    }

    fn find(&self, repository: &str, name: &str) -> Result<Option<(Digest, String)>> {
        let layout = &self.inner.layout;
        let digest = match Name::parse(name)? {
            Name::Digest(digest) => digest,
            Name::Tag(tag) => match self.tagged(repository, &tag)? {
                Some(digest) => digest,
                None => return Ok(None),
            },
        };
        let link = layout::read(&layout.manifest(repository, &digest)?)?;
        let media_type = link.and_then(|bytes| String::from_utf8(bytes).ok());
        Ok(media_type.map(|media_type| (digest, media_type)))
    }

    fn tagged(&self, repository: &str, tag: &str) -> Result<Option<Digest>> {
        let text = layout::read(&self.inner.layout.tag(repository, tag)?)?;
        Ok(text.and_then(|bytes| std::str::from_utf8(&bytes).ok()?.trim().parse().ok()))
    }

    /// Size of a blob of the repository; `None` when it has no such blob.
    ///
    /// # Errors
    /// `NameInvalid`, `Blob`, `Io`.
    pub fn blob(&self, repository: &str, digest: &Digest) -> Result<Option<u64>> {
        if !self.inner.layout.layer(repository, digest)?.exists() {
            return Ok(None);
        }
        Ok(self.inner.blobs.size(digest)?)
    }

    /// Makes a blob of the store part of a repository.
    ///
    /// # Errors
    /// `BlobUnknown` when the store does not have it; `NameInvalid`, `Blob`, `Io`.
    pub fn link_blob(&self, repository: &str, digest: &Digest) -> Result<Blob> {
        let path = self.inner.layout.layer(repository, digest)?;
        let _turn = self.change();
        let size = self.inner.blobs.size(digest)?;
        let size = size.ok_or(EmbeddedError::BlobUnknown(*digest))?;
        self.inner.layout.touch(&path)?;
        Ok(Blob {
            digest: *digest,
            size,
        })
    }

    /// Tags of a repository, sorted.
    ///
    /// # Errors
    /// `NameUnknown` when there is no such repository; `NameInvalid`, `Io`.
    pub fn tags(&self, repository: &str) -> Result<Vec<String>> {
        if !self.inner.layout.exists(repository)? {
            return Err(EmbeddedError::NameUnknown(repository.to_owned()));
        }
        layout::names(&self.inner.layout.tags(repository)?)
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
    pub fn manifests(&self, repository: &str) -> Result<Vec<Digest>> {
        layout::digests(&self.inner.layout.manifests(repository)?)
    }

    /// Digests of all blobs of a repository, sorted.
    ///
    /// # Errors
    /// `NameInvalid`, `Io`.
    pub fn linked(&self, repository: &str) -> Result<Vec<Digest>> {
        layout::digests(&self.inner.layout.layers(repository)?)
    }

    /// Manifests whose `subject` is `subject`, of one kind only if `artifact_type` is given,
    /// sorted by digest.
    ///
    /// # Errors
    /// `NameInvalid`, `Io`.
    pub fn referrers(
        &self,
        repository: &str,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Referrer>> {
        let layout = &self.inner.layout;
        let dir = layout.referrers(repository, subject)?;
        let mut all = Vec::new();
        for digest in layout::digests(&dir)? {
            // Written before the manifest, it may be there without it after a crash.
            if !layout.manifest(repository, &digest)?.exists() {
                continue;
            }
            let text = layout::read(&dir.join(digest.hex()))?;
            let referrer = text.and_then(|t| serde_json::from_slice::<Referrer>(&t).ok());
            all.extend(referrer.filter(|one| {
                artifact_type.is_none() || one.artifact_type.as_deref() == artifact_type
            }));
        }
        Ok(all)
    }

    /// Removes a tag, or the manifest behind a digest with all its tags; `false` when there was
    /// none. Bytes stay in the store until it is cleaned.
    ///
    /// # Errors
    /// `NameInvalid`, `TagInvalid`, `DigestInvalid`, `Io`.
    pub fn delete_manifest(&self, repository: &str, name: &str) -> Result<bool> {
        let layout = &self.inner.layout;
        let name = Name::parse(name)?;
        let _turn = self.change();
        let digest = match name {
            Name::Tag(tag) => return layout::remove(&layout.tag(repository, &tag)?),
            Name::Digest(digest) => digest,
        };
        let link = layout.manifest(repository, &digest)?;
        if !link.exists() {
            return Ok(false);
        }
        for tag in layout::names(&layout.tags(repository)?)? {
            if self.tagged(repository, &tag)? == Some(digest) {
                layout::remove(&layout.tag(repository, &tag)?)?;
            }
        }
        layout::remove(&link)?;
        let bytes = self.inner.blobs.read_small(&digest, MANIFEST_LIMIT);
        let content = bytes.ok().and_then(|bytes| content::read("", &bytes).ok());
        if let Some(subject) = content.and_then(|content| content.subject) {
            layout::remove(&layout.referrers(repository, &subject)?.join(digest.hex()))?;
        }
        Ok(true)
    }

    /// Takes a blob out of a repository; `false` when it was not there. Its bytes stay in the
    /// store until it is cleaned.
    ///
    /// # Errors
    /// `NameInvalid`, `Io`.
    pub fn delete_blob(&self, repository: &str, digest: &Digest) -> Result<bool> {
        let _turn = self.change();
        layout::remove(&self.inner.layout.layer(repository, digest)?)
    }
}

/// Spares the disk a write when the file is as it should be: a republished image costs nothing.
fn write_if_other(layout: &Layout, path: &Path, bytes: &[u8]) -> Result<()> {
    if layout::read(path)?.as_deref() == Some(bytes) {
        return Ok(());
    }
    layout.write(path, bytes)
}
