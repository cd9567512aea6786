//! A root file system becomes an image of one layer.

use std::io::{self, Read, Write};

use serde_json::json;

use super::{
    ArchiveError, CONFIG, Format, ImportOptions, Imported, ImportedLayer, MANIFEST, Result,
};
use crate::blobs::BlobStore;
use crate::layer::{Compression, decompress, inspect};

/// Imports the archive of a root. Its bytes become the layer; a plain tar is compressed.
pub(super) fn from_rootfs(
    store: &BlobStore,
    mut source: impl Read + Send + io::Seek,
    origin: &str,
    options: &ImportOptions,
) -> Result<Imported> {
    let found = decompress(&mut source)
        .map_err(ArchiveError::io("read", origin))?
        .compression();
    source.rewind().map_err(ArchiveError::io("read", origin))?;
    let compression = match found {
        Compression::None => options.compression,
        // As it is: compressing again would only change its digest.
        _ => Compression::None,
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let failed = ArchiveError::io("store the layer of", origin);
    let out = match compression.writer(store.writer()?, threads) {
        Ok(out) => out,
        Err(e) => return Err(failed(e)),
    };
    let mut tee = Tee { source, out };
    let inspected = inspect(&mut tee, origin, &options.limits)?;
    let writer = tee
        .out
        .finish()
        .map_err(ArchiveError::io("store the layer of", origin))?;
    let blob = writer.commit(None)?;
    let media_type = match found {
        Compression::None => compression.media_type(),
        found => found.media_type(),
    };

    let platform = &options.platform;
    let mut config = json!({
        "architecture": platform.architecture,
        "os": platform.os,
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": [inspected.diff_id] },
        "history": [{ "created_by": "chalk import" }],
    });
    if let Some(variant) = &platform.variant {
        config["variant"] = json!(variant);
    }
    if !options.env.is_empty() {
        config["config"]["Env"] = json!(options.env);
    }
    if !options.cmd.is_empty() {
        config["config"]["Cmd"] = json!(options.cmd);
    }
    let config = store.put(config.to_string().as_bytes())?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": { "mediaType": CONFIG, "digest": config.digest, "size": config.size },
        "layers": [{ "mediaType": media_type, "digest": blob.digest, "size": blob.size }],
    });
    let manifest = store.put(manifest.to_string().as_bytes())?;
    Ok(Imported {
        manifest,
        config,
        layers: vec![ImportedLayer {
            blob,
            media_type: media_type.to_owned(),
            diff_id: inspected.diff_id,
        }],
        platform: platform.clone(),
        names: Vec::new(),
        format: Format::RootFs,
        rewritten_from: None,
    })
}

/// Copies what is read to a writer.
struct Tee<R, W> {
    source: R,
    out: W,
}

impl<R: Read, W: Write> Read for Tee<R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.source.read(buffer)?;
        self.out.write_all(&buffer[..n])?;
        Ok(n)
    }
}
