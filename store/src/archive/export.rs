//! Writing an image out.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use chalk_core::Digest;
use oci_spec::image::ImageManifest;
use serde_json::{Value, json};

use super::{ArchiveError, DOCUMENT, INDEX, MANIFEST, Result};
use crate::blobs::{Blob, BlobError, BlobStore, sync_dir};
use crate::layer::{
    EntryHeader, Kind, Limits, decompress, inspect_blob, write_end, write_header, write_padding,
};

/// Contents of a layout's `oci-layout` file.
const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// What an image is made of.
struct Parts {
    manifest: Blob,
    config: Blob,
    layers: Vec<Blob>,
}

fn parts(store: &BlobStore, manifest: &Digest) -> Result<Parts> {
    let bytes = store.read_small(manifest, DOCUMENT)?;
    let name = format!("manifest {manifest}");
    let parsed: ImageManifest = serde_json::from_slice(&bytes)
        .map_err(|e| ArchiveError::document(&name, format!("is no image manifest: {e}")))?;
    let blob = |digest: &str| -> Result<Blob> {
        let digest: Digest = digest
            .parse()
            .map_err(|e| ArchiveError::document(&name, format!("names an unusable digest: {e}")))?;
        let size = store
            .size(digest)?
            .ok_or(BlobError::NotFound(digest.into()))?;
        Ok(Blob { digest, size })
    };
    let layers: Result<Vec<Blob>> = parsed
        .layers()
        .iter()
        .map(|l| blob(l.digest().as_ref()))
        .collect();
    Ok(Parts {
        manifest: Blob {
            digest: *manifest,
            size: bytes.len() as u64,
        },
        config: blob(parsed.config().digest().as_ref())?,
        layers: layers?,
    })
}

impl Parts {
    /// Every blob once, in a fixed order.
    fn blobs(&self) -> Vec<Blob> {
        let mut blobs = vec![self.manifest, self.config];
        blobs.extend(&self.layers);
        blobs.sort_unstable();
        blobs.dedup();
        blobs
    }

    /// The layout's index: the image under each of its names, or once without.
    fn index(&self, names: &[String]) -> Vec<u8> {
        let describe = |name: Option<&String>| -> Value {
            let mut descriptor = json!({
                "mediaType": MANIFEST,
                "digest": self.manifest.digest,
                "size": self.manifest.size,
            });
            if let Some(name) = name {
                descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
            }
            descriptor
        };
        let manifests: Vec<Value> = if names.is_empty() {
            vec![describe(None)]
        } else {
            names.iter().map(|n| describe(Some(n))).collect()
        };
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
        index.to_string().into_bytes()
    }
}

/// Writes the image `manifest` as an OCI image layout into `dir`, which must be empty or absent;
/// `names` become its `org.opencontainers.image.ref.name`. The index comes last, when all that it
/// names is on disk.
pub fn export_layout(
    store: &BlobStore,
    manifest: &Digest,
    names: &[String],
    dir: &Path,
) -> Result<()> {
    let failed = |action| ArchiveError::io(action, dir.display());
    let parts = parts(store, manifest)?;
    let blobs = dir.join("blobs/sha256");
    let is_used = fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
    if is_used {
        return Err(ArchiveError::NotEmpty(dir.to_owned()));
    }
    fs::create_dir_all(&blobs).map_err(failed("create"))?;
    let write = |path: &Path, source: &mut dyn Read| -> Result<()> {
        let failed = |action| ArchiveError::io(action, path.display());
        let mut file = File::create_new(path).map_err(failed("create"))?;
        std::io::copy(source, &mut file).map_err(failed("write"))?;
        file.sync_all().map_err(failed("sync"))
    };
    for blob in parts.blobs() {
        let path = blobs.join(blob.digest.hex());
        write(&path, &mut store.open_verified(blob.digest)?)?;
    }
    sync_dir(&blobs)?;
    write(&dir.join("oci-layout"), &mut &LAYOUT[..])?;
    write(&dir.join("index.json"), &mut parts.index(names).as_slice())?;
    sync_dir(dir)?;
    Ok(())
}

/// Writes the image `manifest` as an OCI archive: an image layout as a tar.
pub fn export_oci(
    store: &BlobStore,
    manifest: &Digest,
    names: &[String],
    out: &mut dyn Write,
) -> Result<()> {
    let parts = parts(store, manifest)?;
    let mut archive = Archive { out };
    archive.dir("blobs")?;
    archive.dir("blobs/sha256")?;
    for blob in parts.blobs() {
        let path = format!("blobs/sha256/{}", blob.digest.hex());
        archive.file(&path, blob.size, store.open_verified(blob.digest)?)?;
    }
    let index = parts.index(names);
    archive.file("index.json", index.len() as u64, index.as_slice())?;
    archive.file("oci-layout", LAYOUT.len() as u64, LAYOUT)?;
    archive.end()
}

/// Writes the image `manifest` as `docker save` does, for `docker load` of any age: layers
/// uncompressed, named by their `diff_id`; `names` become its `RepoTags`.
pub fn export_docker(
    store: &BlobStore,
    manifest: &Digest,
    names: &[String],
    out: &mut dyn Write,
) -> Result<()> {
    let parts = parts(store, manifest)?;
    let mut archive = Archive { out };
    let config = format!("{}.json", parts.config.digest.hex());
    let bytes = store.read_small(parts.config.digest, DOCUMENT)?;
    archive.file(&config, bytes.len() as u64, bytes.as_slice())?;
    let mut layers: Vec<String> = Vec::new();
    for layer in &parts.layers {
        // A tar names sizes before contents, so the layer is read once for its size.
        let origin = layer.digest.to_string();
        let found = inspect_blob(store, &layer.digest, &Limits::default())?;
        let path = format!("{}.tar", found.diff_id.hex());
        if !layers.contains(&path) {
            let failed = ArchiveError::io("read layer", &origin);
            let stream = match decompress(store.open_verified(layer.digest)?) {
                Ok(stream) => stream,
                Err(e) => return Err(failed(e)),
            };
            archive.file(&path, found.uncompressed_size, stream)?;
        }
        layers.push(path);
    }
    let index = json!([{ "Config": config, "RepoTags": names, "Layers": layers }]);
    let index = index.to_string();
    archive.file("manifest.json", index.len() as u64, index.as_bytes())?;
    archive.end()
}

/// A deterministic archive.
struct Archive<'a> {
    out: &'a mut dyn Write,
}

impl Archive<'_> {
    fn dir(&mut self, path: &str) -> Result<()> {
        let mut header = EntryHeader::new(path, Kind::Dir);
        header.mode = 0o755;
        write_header(&mut self.out, &header).map_err(ArchiveError::io("write", path))
    }

    fn file(&mut self, path: &str, size: u64, mut source: impl Read) -> Result<()> {
        let mut header = EntryHeader::new(path, Kind::File);
        header.size = size;
        let mut write = || {
            write_header(&mut self.out, &header)?;
            let written = std::io::copy(&mut source, &mut self.out)?;
            if written != size {
                return Err(std::io::Error::other("its size changed while it was read"));
            }
            write_padding(&mut self.out, size)
        };
        write().map_err(ArchiveError::io("write", path))
    }

    fn end(&mut self) -> Result<()> {
        write_end(&mut self.out)
            .and_then(|()| self.out.flush())
            .map_err(ArchiveError::io("write", "the archive's end"))
    }
}
