//! Bringing an image in.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::contents::{detect, open_layout, read_archive};
use super::resolve::{from_docker, from_index};
use super::rootfs::from_rootfs;
use super::{ArchiveError, Format, ImportOptions, Imported, Result};
use crate::blobs::BlobStore;

/// Imports the image at `path`: a layout directory, or an archive of any kind, plain or
/// compressed by gzip or zstd.
///
/// Every layer is read to its end: its digest, its `diff_id`, its paths and its size are checked.
/// Layers keep their bytes. Docker's media types become those of OCI, which gives a new manifest.
/// Blobs of an archive that the chosen image does not use stay in the store until a collector
/// takes them.
pub fn import(store: &BlobStore, path: &Path, options: &ImportOptions) -> Result<Imported> {
    let origin = match &options.origin {
        Some(origin) => origin.clone(),
        None => path.display().to_string(),
    };
    let meta = std::fs::metadata(path).map_err(ArchiveError::io("open", &origin))?;
    if meta.is_dir() {
        return from_index(store, &open_layout(path)?, options);
    }
    let format = detect(path, &origin, options.limits)?;
    let file = File::open(path).map_err(ArchiveError::io("open", &origin))?;
    match format {
        Format::RootFs => from_rootfs(store, file, &origin, options),
        Format::Oci => {
            let contents = read_archive(store, file, &origin, options.limits)?;
            from_index(store, &contents, options)
        }
        Format::Docker => {
            let contents = read_archive(store, file, &origin, options.limits)?;
            from_docker(store, &contents, options)
        }
    }
}

/// [`import`] of an archive that comes as a stream, such as standard input or a request's body.
/// It is kept in a temporary file of the store while it is looked at.
pub fn import_stream(
    store: &BlobStore,
    mut source: impl Read,
    options: &ImportOptions,
) -> Result<Imported> {
    let mut spool = tempfile::Builder::new()
        .prefix("import-")
        .tempfile_in(store.temp_dir())
        .map_err(ArchiveError::io("create a file in", store.root().display()))?;
    // So that no other process that opens the store sweeps it.
    spool
        .as_file()
        .lock()
        .map_err(ArchiveError::io("lock", spool.path().display()))?;
    let limit = options.limits.bytes;
    let size = std::io::copy(&mut source.by_ref().take(limit + 1), &mut spool)
        .map_err(ArchiveError::io("receive", "the archive"))?;
    if size > limit {
        return Err(crate::layer::LayerError::Limit {
            layer: "archive".into(),
            what: "bytes",
            limit,
        }
        .into());
    }
    let named = ImportOptions {
        origin: Some(options.origin.clone().unwrap_or("archive".into())),
        ..options.clone()
    };
    import(store, spool.path(), &named)
}
