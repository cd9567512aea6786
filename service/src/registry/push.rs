//! Manifests into the registry.

use std::path::Path;

use chalk_core::AnyDigest;
use chalk_core::any_digest::Algorithm;
use chalk_store::failpoint::{Step, around};
use chalk_store::registry::MANIFEST_LIMIT;

use super::condition::Condition;
use super::content::{self, Content};
use super::error::EmbeddedError;
use super::layout::Layout;
use super::referrers;
use super::store::{Name, Registry};

type Result<T> = std::result::Result<T, EmbeddedError>;

/// A manifest that is to be kept.
#[derive(Debug)]
pub(super) struct Push<'a> {
    /// Tag or digest.
    pub(super) name: &'a str,
    /// May be empty when the document names it.
    pub(super) media_type: &'a str,
    pub(super) bytes: &'a [u8],
    /// Further tags for it.
    pub(super) tags: &'a [String],
    /// What must be true of what `name` names now.
    pub(super) condition: Condition,
}

/// A manifest that was kept.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) digest: AnyDigest,
    /// What it is filed under as a referrer.
    pub(super) subject: Option<AnyDigest>,
}

impl Registry {
    /// Keeps a manifest or index. All that it names must be in the repository.
    ///
    /// # Errors
    /// `NameInvalid`, `TagInvalid`, `DigestInvalid`, `DigestMismatch`, `TooLarge`,
    /// `ManifestInvalid`, `ManifestBlobUnknown`, `ConditionFailed`, `Blob`, `Io`.
    pub(super) fn push(&self, repository: &str, push: &Push<'_>) -> Result<Kept> {
        let kept = self.write(repository, push);
        let heads = self.heads();
        match &kept {
            Ok(Kept { digest, .. }) => {
                let digest = digest.to_string();
                let tags = push.tags.iter().map(String::as_str);
                heads.forget(repository, tags.chain([push.name, &digest]));
            }
            // Some of its names may be there.
            Err(_) => heads.forget_all(repository),
        }
        kept
    }

    fn write(&self, repository: &str, push: &Push<'_>) -> Result<Kept> {
        let layout = self.layout();
        let name = Name::parse(push.name)?;
        layout.repository(repository)?;
        if push.bytes.len() as u64 > MANIFEST_LIMIT {
            return Err(EmbeddedError::TooLarge {
                what: "the manifest",
                limit: MANIFEST_LIMIT,
            });
        }
        let (digest, tag) = match name {
            Name::Tag(tag) => (AnyDigest::of(Algorithm::Sha256, push.bytes), Some(tag)),
            Name::Digest(expected) => {
                let actual = AnyDigest::of(expected.algorithm(), push.bytes);
                if expected != actual {
                    return Err(EmbeddedError::DigestMismatch { expected, actual });
                }
                (actual, None)
            }
        };
        let by_tag = tag.is_some();
        let mut tags = Vec::new();
        for tag in tag.iter().chain(push.tags) {
            tags.push(layout.tag(repository, tag)?);
        }
        let content =
            content::read(push.media_type, push.bytes).map_err(EmbeddedError::ManifestInvalid)?;
        if self.bucket().is_some() {
            // Takes its time, in which others may change something. What is refused below stays as
            // garbage.
            self.put_manifest(&digest, push.bytes)?;
        }
        let _turn = self.change();
        let mut seen = match tags.first() {
            Some(first) if by_tag && push.condition != Condition::default() => {
                Some(layout.seen(first)?)
            }
            _ => None,
        };
        self.check_condition(repository, push.name, &push.condition)?;
        self.check_parts(repository, &content)?;
        // In a bucket, this looks whether a collector has taken it meanwhile.
        self.put_manifest(&digest, push.bytes)?;
        // What makes the manifest visible comes after all that must be there with it.
        let size = push.bytes.len() as u64;
        around(Step::ManifestReferrer, || {
            referrers::add(layout, repository, &digest, size, &content)
        })?;
        let link = layout.manifest(repository, &digest)?;
        around(Step::ManifestLink, || {
            write_if_other(layout, &link, content.media_type.as_bytes())
        })?;
        for tag in tags {
            let text = digest.to_string();
            around(Step::ManifestTag, || match seen.take() {
                Some(seen) => layout.replace(&tag, text.as_bytes(), seen),
                None => write_if_other(layout, &tag, text.as_bytes()),
            })?;
        }
        Ok(Kept {
            digest,
            subject: content.subject,
        })
    }

    /// Makes the bytes of a manifest durable where blobs lie.
    fn put_manifest(&self, digest: &AnyDigest, bytes: &[u8]) -> Result<()> {
        around(Step::ManifestBlob, || match digest.algorithm() {
            Algorithm::Sha256 => self.blobs().put(bytes),
            Algorithm::Sha512 => self.blobs().put_as(bytes, digest),
        })?;
        self.keep(digest)?;
        Ok(())
    }

    pub(super) fn check_condition(
        &self,
        repository: &str,
        name: &str,
        condition: &Condition,
    ) -> Result<()> {
        if *condition == Condition::default() {
            return Ok(());
        }
        let current = self.find(repository, name)?;
        let current = current.map(|(digest, _)| digest.to_string());
        match condition.holds(current.as_deref()) {
            true => Ok(()),
            false => Err(EmbeddedError::ConditionFailed),
        }
    }

    /// Every part must be linked in the repository and have its bytes.
    fn check_parts(&self, repository: &str, content: &Content) -> Result<()> {
        let layout = self.layout();
        let mut missing = Vec::new();
        for digest in &content.blobs {
            let link = layout.layer(repository, digest)?;
            if !layout.has(&link)? || self.size(digest)?.is_none() {
                missing.push(digest.clone());
            }
        }
        for digest in &content.manifests {
            let link = layout.manifest(repository, digest)?;
            if !layout.has(&link)? || self.size(digest)?.is_none() {
                missing.push(digest.clone());
            }
        }
        missing.dedup();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(EmbeddedError::ManifestBlobUnknown(missing))
        }
    }
}

/// Spares the disk a write when the file is as it should be: a republished image costs nothing.
fn write_if_other(layout: &Layout, path: &Path, bytes: &[u8]) -> Result<()> {
    if layout.read(path)?.as_deref() == Some(bytes) {
        return Ok(());
    }
    layout.write(path, bytes)
}
