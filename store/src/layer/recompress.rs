//! The same layer, compressed in another way.

use std::io;

use chalk_core::Digest;

use super::stream::with_stream;
use super::{LayerError, Limits, PackOptions, PackedLayer, Result};
use crate::blobs::BlobStore;

/// Compresses a stored layer anew, as `options` say: its uncompressed bytes, and so its
/// `diff_id`, stay as they are. For clients that cannot read how a layer is compressed.
///
/// # Errors
/// When the blob is missing or damaged, does not decompress, or exceeds `limits`.
pub fn recompress(
    store: &BlobStore,
    digest: &Digest,
    options: &PackOptions,
    limits: Limits,
) -> Result<PackedLayer> {
    let layer = digest.to_string();
    let to_blob = |e| LayerError::io("write the layer's blob for", b".", e);
    let compression = options.compression;
    let writer = compression.writer(store.writer()?, options.threads);
    let mut out = writer.map_err(to_blob)?;
    let source = store.open_verified(digest)?;
    let ((), total) = with_stream(source, &layer, limits, |mut stream| {
        io::copy(&mut stream, &mut out)
            .map(drop)
            .map_err(|source| LayerError::Read {
                layer: layer.clone(),
                source,
            })
    })?;
    let blob = out.finish().map_err(to_blob)?.commit(None)?;
    Ok(PackedLayer {
        digest: blob.digest,
        size: blob.size,
        diff_id: total.diff_id,
        media_type: compression.media_type(),
        uncompressed_size: total.uncompressed,
        entries: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::Compression;

    #[test]
    fn the_bytes_stay() {
        let temp = tempfile::tempdir().unwrap();
        let store = BlobStore::open(temp.path()).unwrap();
        let plain: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut digest = store.put(&plain).unwrap().digest;
        for compression in [
            Compression::Zstd(3),
            Compression::Gzip(6),
            Compression::None,
        ] {
            let options = PackOptions {
                compression,
                ..PackOptions::default()
            };
            let layer = recompress(&store, &digest, &options, Limits::default()).unwrap();
            assert_eq!(layer.diff_id, Digest::of(&plain));
            assert_eq!(layer.uncompressed_size, plain.len() as u64);
            digest = layer.digest;
        }
        assert_eq!(digest, Digest::of(&plain));
        let damaged = store.path(&digest);
        std::fs::write(damaged, b"rotten").unwrap();
        let options = PackOptions::default();
        assert!(recompress(&store, &digest, &options, Limits::default()).is_err());
    }
}
