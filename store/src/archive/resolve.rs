//! From an index or a `docker save` manifest to one verified image.

use chalk_core::{Digest, Platform};
use oci_spec::image::{ImageIndex, ImageManifest};
use serde::Deserialize;
use serde_json::{Value, json};

use super::contents::Contents;
use super::{
    ArchiveError, CONFIG, DOCUMENT, Format, ImportOptions, Imported, ImportedLayer, MANIFEST,
    Result,
};
use crate::blobs::{Blob, BlobStore};
use crate::layer::{Unpacked, inspect_blob};
use crate::registry::platform::{choose, from_words, runs};

/// An index may hold indexes; deeper than this nobody nests them.
const DEPTH: usize = 4;
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Where an index keeps a name: OCI's annotation, and containerd's with the whole reference.
const NAMES: [&str; 2] = [
    "io.containerd.image.name",
    "org.opencontainers.image.ref.name",
];

/// What matters of an image configuration.
#[derive(Deserialize)]
struct Config {
    os: String,
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<Digest>,
}

/// The image of an OCI layout.
pub(super) fn from_index(
    store: &BlobStore,
    contents: &Contents,
    options: &ImportOptions,
) -> Result<Imported> {
    let Some(bytes) = contents.document("index.json")? else {
        return Err(ArchiveError::NotAnImage {
            origin: contents.origin(),
        });
    };
    let mut index = parse_index("index.json", &bytes)?;
    let names_of = |descriptor: &oci_spec::image::Descriptor| -> Vec<String> {
        let annotations = descriptor.annotations().as_ref();
        let find = |key: &&str| annotations.and_then(|a| a.get(*key)).cloned();
        NAMES.iter().filter_map(find).collect()
    };
    let mut all: Vec<String> = index.manifests().iter().flat_map(names_of).collect();
    all.sort_unstable();
    all.dedup();
    if let Some(wanted) = &options.name {
        let named = |d: &oci_spec::image::Descriptor| names_of(d).contains(wanted);
        let kept: Vec<_> = index
            .manifests()
            .iter()
            .filter(|d| named(d))
            .cloned()
            .collect();
        if kept.is_empty() {
            return Err(ArchiveError::NoSuchName {
                wanted: wanted.clone(),
                available: all,
            });
        }
        index.set_manifests(kept);
    }
    let mut name = "index.json".to_owned();
    let mut names = Vec::new();
    for depth in 0.. {
        let descriptor = match &index.manifests()[..] {
            [only] => only.clone(),
            _ if !index.manifests().is_empty()
                && index.manifests().iter().all(|d| d.platform().is_none()) =>
            {
                let mut digests: Vec<_> = index
                    .manifests()
                    .iter()
                    .map(|d| d.digest().to_string())
                    .collect();
                digests.sort_unstable();
                digests.dedup();
                if digests.len() > 1 {
                    let available = if all.is_empty() { digests } else { all };
                    return Err(ArchiveError::Ambiguous { available });
                }
                index.manifests()[0].clone()
            }
            _ => choose(&index, &options.platform)
                .cloned()
                .map_err(|available| ArchiveError::Platform {
                    wanted: options.platform.clone(),
                    available,
                })?,
        };
        let same = |d: &&oci_spec::image::Descriptor| d.digest() == descriptor.digest();
        names.extend(index.manifests().iter().filter(same).flat_map(names_of));
        let digest = sha256(descriptor.digest().as_ref(), &name)?;
        let blob = contents.blob(store, &digest, &name)?;
        check_size(blob, descriptor.size(), &name)?;
        let bytes = store.read_small(digest, DOCUMENT)?;
        let media_type = media_type(&bytes, descriptor.media_type().as_ref());
        name = format!("manifest {digest}");
        match media_type.as_str() {
            super::INDEX | DOCKER_INDEX if depth < DEPTH => index = parse_index(&name, &bytes)?,
            MANIFEST | DOCKER_MANIFEST => {
                names.sort_unstable();
                names.dedup();
                let is_docker = media_type == DOCKER_MANIFEST;
                return from_manifest(store, contents, options, &bytes, is_docker, names);
            }
            other => {
                let problem = format!("has the type `{other}`, which is no container image");
                return Err(ArchiveError::document(name, problem));
            }
        }
    }
    Err(ArchiveError::document(name, "nests too deep"))
}

fn from_manifest(
    store: &BlobStore,
    contents: &Contents,
    options: &ImportOptions,
    bytes: &[u8],
    is_docker: bool,
    names: Vec<String>,
) -> Result<Imported> {
    let digest = Digest::of(bytes);
    let name = format!("manifest {digest}");
    let manifest: ImageManifest = serde_json::from_slice(bytes)
        .map_err(|e| ArchiveError::document(&name, format!("is no image manifest: {e}")))?;
    let config_digest = sha256(manifest.config().digest().as_ref(), &name)?;
    let config = contents.blob(store, &config_digest, &name)?;
    check_size(config, manifest.config().size(), &name)?;
    let mut layers = Vec::new();
    for layer in manifest.layers() {
        let digest = sha256(layer.digest().as_ref(), &name)?;
        let blob = contents.blob(store, &digest, &name)?;
        check_size(blob, layer.size(), &name)?;
        layers.push((blob, layer.media_type().to_string()));
    }
    let (platform, found) = verify(store, options, config, layers.iter().map(|(b, _)| *b))?;
    let layers: Vec<ImportedLayer> = layers
        .into_iter()
        .zip(&found)
        .map(|((blob, media_type), found)| ImportedLayer {
            blob,
            media_type: if is_docker {
                found.media_type.to_owned()
            } else {
                media_type
            },
            diff_id: found.diff_id,
        })
        .collect();
    let manifest = if is_docker {
        write_manifest(store, config, &layers)?
    } else {
        Blob {
            digest,
            size: bytes.len() as u64,
        }
    };
    Ok(Imported {
        manifest,
        config,
        layers,
        platform,
        names,
        format: Format::Oci,
        rewritten_from: is_docker.then_some(digest),
    })
}

/// One image of a `docker save` archive's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Saved {
    fn names(&self) -> &[String] {
        self.repo_tags.as_deref().unwrap_or_default()
    }
}

/// The image of a `docker save` archive.
pub(super) fn from_docker(
    store: &BlobStore,
    contents: &Contents,
    options: &ImportOptions,
) -> Result<Imported> {
    const NAME: &str = "manifest.json";
    let Some(bytes) = contents.document(NAME)? else {
        return Err(ArchiveError::NotAnImage {
            origin: contents.origin(),
        });
    };
    let saved: Vec<Saved> = serde_json::from_slice(&bytes)
        .map_err(|e| ArchiveError::document(NAME, format!("is not from `docker save`: {e}")))?;
    let all = || saved.iter().flat_map(Saved::names).cloned().collect();
    let image = match (&options.name, &saved[..]) {
        (Some(wanted), images) => images
            .iter()
            .find(|i| i.names().contains(wanted))
            .ok_or_else(|| ArchiveError::NoSuchName {
                wanted: wanted.clone(),
                available: all(),
            })?,
        (None, [only]) => only,
        (None, []) => {
            return Err(ArchiveError::NotAnImage {
                origin: contents.origin(),
            });
        }
        (None, _) => return Err(ArchiveError::Ambiguous { available: all() }),
    };
    let config = contents.file(&image.config, NAME)?;
    let blobs: Result<Vec<Blob>> = image
        .layers
        .iter()
        .map(|l| contents.file(l, NAME))
        .collect();
    let blobs = blobs?;
    let (platform, found) = verify(store, options, config, blobs.iter().copied())?;
    let layers: Vec<ImportedLayer> = blobs
        .into_iter()
        .zip(&found)
        .map(|(blob, found)| ImportedLayer {
            blob,
            media_type: found.media_type.to_owned(),
            diff_id: found.diff_id,
        })
        .collect();
    Ok(Imported {
        manifest: write_manifest(store, config, &layers)?,
        config,
        layers,
        platform,
        names: image.names().to_vec(),
        format: Format::Docker,
        rewritten_from: None,
    })
}

/// Reads every layer and holds it against the configuration.
fn verify(
    store: &BlobStore,
    options: &ImportOptions,
    config: Blob,
    layers: impl Iterator<Item = Blob>,
) -> Result<(Platform, Vec<Unpacked>)> {
    let name = format!("config {}", config.digest);
    let bytes = store.read_small(config.digest, DOCUMENT)?;
    let config: Config = serde_json::from_slice(&bytes)
        .map_err(|e| ArchiveError::document(&name, format!("is no image configuration: {e}")))?;
    let platform = from_words(&config.os, &config.architecture, config.variant.as_deref())
        .ok_or_else(|| ArchiveError::document(&name, "names no platform"))?;
    if !runs(&options.platform, &platform) {
        return Err(ArchiveError::Platform {
            wanted: options.platform.clone(),
            available: vec![platform.to_string()],
        });
    }
    let miscounted =
        || ArchiveError::document(&name, "lists another number of layers than the manifest");
    let mut found = Vec::new();
    for blob in layers {
        let layer = blob.digest.to_string();
        let unpacked = inspect_blob(store, &blob.digest, &options.limits)?;
        match config.rootfs.diff_ids.get(found.len()) {
            Some(expected) if *expected == unpacked.diff_id => found.push(unpacked),
            Some(expected) => {
                return Err(crate::layer::LayerError::DiffId {
                    layer,
                    expected: *expected,
                    actual: unpacked.diff_id,
                }
                .into());
            }
            None => return Err(miscounted()),
        }
    }
    if found.len() != config.rootfs.diff_ids.len() {
        return Err(miscounted());
    }
    Ok((platform, found))
}

/// Stores an OCI manifest over what is in the store.
fn write_manifest(store: &BlobStore, config: Blob, layers: &[ImportedLayer]) -> Result<Blob> {
    let layers: Vec<Value> = layers
        .iter()
        .map(|l| json!({ "mediaType": l.media_type, "digest": l.blob.digest, "size": l.blob.size }))
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": { "mediaType": CONFIG, "digest": config.digest, "size": config.size },
        "layers": layers,
    });
    Ok(store.put(manifest.to_string().as_bytes())?)
}

fn parse_index(name: &str, bytes: &[u8]) -> Result<ImageIndex> {
    serde_json::from_slice(bytes)
        .map_err(|e| ArchiveError::document(name, format!("is no image index: {e}")))
}

/// A document's own word on its type, else what its descriptor says.
fn media_type(bytes: &[u8], described: &str) -> String {
    #[derive(Deserialize)]
    struct Typed {
        #[serde(rename = "mediaType")]
        media_type: Option<String>,
    }
    let own = serde_json::from_slice::<Typed>(bytes).ok();
    own.and_then(|t| t.media_type)
        .unwrap_or_else(|| described.to_owned())
}

fn sha256(digest: &str, of: &str) -> Result<Digest> {
    digest
        .parse()
        .map_err(|e| ArchiveError::document(of, format!("names an unusable digest: {e}")))
}

fn check_size(blob: Blob, stated: u64, of: &str) -> Result<()> {
    if blob.size == stated {
        return Ok(());
    }
    let problem = format!(
        "says that {} has {stated} bytes, but it has {}",
        blob.digest, blob.size
    );
    Err(ArchiveError::document(of, problem))
}
