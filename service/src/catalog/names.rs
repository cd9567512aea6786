//! Names of images. A name `team/app:v1` is the tag `v1` of repository `team/app` in the regional
//! registry, so that everybody can pull by it.
//!
//! A registry cannot be asked which repositories it has. So each name is also filed as a small
//! manifest in [`NAMES`], which only serves to find the names again when the index is made
//! anew; where a name points is always read from its tag.

use bytes::Bytes;
use chalk_core::Digest;
use chalk_store::Blob;
use chalk_store::registry::Progress;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::json;

use super::{Catalog, CatalogError, Result, manifest};
use crate::places::{IMAGES, NAMES, Name};

/// Artifact type of an entry.
const ENTRY_TYPE: &str = "application/vnd.chalk.name.v1+json";
/// Annotation of an entry that holds the name.
pub(crate) const NOTE: &str = "chalk.name";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// Blobs that are linked into a repository at once.
const PARALLEL: usize = 6;

impl Catalog {
    /// The image that a name points to; `None` when it points nowhere, or to an image that is not
    /// ours.
    pub(crate) async fn by_name(&self, name: &Name) -> Result<Option<Digest>> {
        let _turn = match &self.noted {
            Some(_) => Some(self.turns.read().await),
            None => None,
        };
        let text = name.to_string();
        let indexed = self.index.named(&text);
        let head = self
            .regional
            .head_manifest(&name.repository, &name.tag)
            .await?;
        let digest = head.map(|head| head.digest);
        if let (Some(noted), Some(digest)) = (&self.noted, &digest) {
            noted.note(digest);
        }
        let fits = |hash: &Digest| {
            let known = self.index.image(hash);
            digest.is_some() && known.map(|known| known.digest) == digest
        };
        if let Some(hash) = indexed.filter(fits) {
            return Ok(Some(hash));
        }
        // Somebody pushed to or deleted the tag.
        let images = self.index.images();
        let found = images.into_iter().map(|(hash, _)| hash).find(fits);
        if found != indexed {
            self.indexed(move |index| index.put_name(&text, found.as_ref()))
                .await?;
        }
        Ok(found)
    }

    /// Gives a name to an image, taking it from the one that had it.
    ///
    /// # Errors
    /// When there is no such image, or the registry or the index fails.
    pub(crate) async fn name(&self, hash: &Digest, name: &Name) -> Result<()> {
        let Some(manifest) = self.regional.manifest(IMAGES, &hash.hex()).await? else {
            return Err(CatalogError::NotFound(format!("there is no image {hash}")));
        };
        let Name { repository, tag } = name;
        let already = self.regional.head_manifest(repository, tag).await?;
        if already.is_none_or(|head| head.digest != manifest.digest) {
            let parsed = manifest::parse(&manifest)?;
            let blobs = parsed.layers.iter().chain([&parsed.config]);
            let blobs: Vec<Blob> = blobs
                .map(|d| Blob {
                    digest: d.digest,
                    size: d.size,
                })
                .collect();
            stream::iter(blobs)
                .map(|blob| self.link(blob, repository))
                .buffer_unordered(PARALLEL)
                .try_collect::<()>()
                .await?;
            self.regional
                .put_manifest(repository, tag, &manifest.media_type, manifest.bytes)
                .await?;
        }
        if self.index.named(&name.to_string()).is_none() {
            self.file(name).await?;
        }
        let (text, owner) = (name.to_string(), *hash);
        self.indexed(move |index| index.put_name(&text, Some(&owner)))
            .await
    }

    /// Gives a name to an image unless it has it.
    ///
    /// # Errors
    /// As [`name`](Self::name).
    pub(crate) async fn ensure_name(&self, hash: &Digest, name: &Name) -> Result<()> {
        if self.by_name(name).await? != Some(*hash) {
            self.name(hash, name).await?;
        }
        Ok(())
    }

    /// Takes a name away.
    ///
    /// # Errors
    /// When the registry or the index fails.
    pub(crate) async fn remove_name(&self, name: &Name) -> Result<()> {
        self.regional.delete(&name.repository, &name.tag).await?;
        self.regional.delete(NAMES, &entry_tag(name)).await?;
        let text = name.to_string();
        self.indexed(move |index| index.put_name(&text, None)).await
    }

    /// Makes a blob of the images' repository known to another.
    async fn link(&self, blob: Blob, repository: &str) -> Result<()> {
        let (regional, digest) = (&self.regional, &blob.digest);
        if regional.has_blob(repository, digest).await?
            || regional.mount_blob(repository, digest, IMAGES).await?
        {
            return Ok(());
        }
        let progress = Progress::none();
        self.regional
            .pull_blob(IMAGES, &blob, &self.blobs, &progress)
            .await?;
        self.regional
            .push_blob(repository, &blob, &self.blobs, &progress)
            .await?;
        Ok(())
    }

    /// Files a name in the directory again, if somebody gave it while its entry was collected.
    ///
    /// # Errors
    /// When the registry fails.
    pub(crate) async fn refile(&self, name: &Name) -> Result<()> {
        let there = self.regional.head_manifest(&name.repository, &name.tag);
        match there.await? {
            Some(_) => self.file(name).await,
            None => Ok(()),
        }
    }

    /// Files a name in the directory.
    async fn file(&self, name: &Name) -> Result<()> {
        let tag = entry_tag(name);
        self.put_note(NAMES, &tag, ENTRY_TYPE, &name.to_string())
            .await?;
        Ok(())
    }

    /// Publishes a text in the annotation of an artifact manifest without contents (OCI image
    /// specification, `manifest.md`, "Guidelines for Artifact Usage").
    async fn put_note(
        &self,
        repository: &str,
        tag: &str,
        artifact_type: &str,
        text: &str,
    ) -> Result<Digest> {
        let empty = self.blobs.run(|store| store.put(b"{}")).await?;
        self.regional
            .push_blob(repository, &empty, &self.blobs, &Progress::none())
            .await?;
        let descriptor = json!({
            "mediaType": "application/vnd.oci.empty.v1+json",
            "digest": empty.digest,
            "size": empty.size,
        });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": artifact_type,
            "config": descriptor,
            "layers": [descriptor],
            "annotations": { NOTE: text },
        });
        let bytes = Bytes::from(manifest.to_string());
        let put = self
            .regional
            .put_manifest(repository, tag, MANIFEST_TYPE, bytes);
        Ok(put.await?.digest)
    }
}

fn entry_tag(name: &Name) -> String {
    Digest::of(name.to_string().as_bytes()).hex()
}
