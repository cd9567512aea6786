//! From a layer to a directory.

use std::io::{self, Read};
use std::path::Path;

use chalk_core::Digest;

use super::apply::Applier;
use super::stream::{Total, with_stream};
use super::{EntryHeader, EntryProblem, Kind, LayerError, LayerReader, OverlayAttrs, Result};
use crate::blobs::BlobStore;
use crate::verify::{VerifiedBlob, mismatch_or};

/// What becomes of device nodes in a layer. Base images made from distributions have some in
/// `/dev`; a sandbox brings its own `/dev`, and a node elsewhere would open the host's disks to
/// whoever may read it, so they are left out unless asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Devices {
    /// Left out and counted; what lower layers have under that name is hidden as it would be.
    #[default]
    Skip,
    /// Made, which needs root.
    Create,
    /// [`EntryProblem::Device`].
    Refuse,
}

/// What a layer may cost. A layer beyond is refused with [`LayerError::Limit`], and was at most
/// written up to the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Uncompressed bytes of the stream, and of all files with their holes filled.
    pub bytes: u64,
    /// Entries.
    pub entries: u64,
    /// Bytes of one path.
    pub path: usize,
    /// Uncompressed bytes per compressed byte, once there are [`ratio_from`](Self::ratio_from).
    pub ratio: u64,
    /// Uncompressed bytes from which on the ratio counts; long runs of zeros are not rare in
    /// small amounts.
    pub ratio_from: u64,
}

impl Default for Limits {
    /// 64 GiB, 5 million entries, Linux' longest path, 500 to 1 beyond 2 GiB.
    fn default() -> Self {
        Self {
            bytes: 64 << 30,
            entries: 5_000_000,
            path: 4095,
            ratio: 500,
            ratio_from: 2 << 30,
        }
    }
}

/// What the directory that a layer is unpacked into is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A fresh directory that overlayfs will stack: deletions are kept, as character devices 0/0
    /// and opaque marks.
    Snapshot(OverlayAttrs),
    /// A root that holds the layers below already: deletions are carried out.
    Root,
}

/// How a layer is unpacked.
#[derive(Debug, Clone, Copy)]
pub struct UnpackOptions {
    /// What the directory is for.
    pub target: Target,
    /// Device nodes.
    pub devices: Devices,
    /// Limits.
    pub limits: Limits,
    /// Whether files get the owners that the layer says; otherwise they belong to the caller.
    pub keep_owner: bool,
}

impl Default for UnpackOptions {
    /// A snapshot for mounts by root; owners are kept if the caller is root.
    fn default() -> Self {
        Self {
            target: Target::Snapshot(OverlayAttrs::Trusted),
            devices: Devices::default(),
            limits: Limits::default(),
            keep_owner: rustix::process::geteuid().is_root(),
        }
    }
}

/// What was unpacked or inspected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// Digest of the uncompressed stream.
    pub diff_id: Digest,
    /// Bytes of the uncompressed stream.
    pub uncompressed_size: u64,
    /// Bytes read from the source.
    pub size: u64,
    /// Media type of the layer, by its first bytes.
    pub media_type: &'static str,
    /// Entries, whiteouts included.
    pub entries: u64,
    /// Bytes of all files.
    pub file_bytes: u64,
    /// Device nodes left out.
    pub skipped_devices: u64,
    /// Extended attributes that the file system or missing rights did not let us set.
    pub dropped_attrs: u64,
    /// The layer hides everything below it (`.wh..wh..opq` at its root). overlayfs takes no such
    /// mark on the root of a layer: leave the lower layers out of the mount.
    pub opaque_root: bool,
}

/// Unpacks a layer (tar, plain or compressed, told by its first bytes) into the directory `dir`,
/// which must exist; `layer` names it in errors.
///
/// Nothing is written outside of `dir`, whatever the layer holds: absolute paths start at `dir`,
/// `..` is refused, symbolic links are kept as they are but lead nowhere outside when a later
/// entry goes through one, hard links reach only into `dir`. Of entries with the same path the
/// last one counts, as in every tar. Extended attributes other than `user.*` and file
/// capabilities are dropped, so that no layer forges overlayfs' marks.
///
/// Nothing is synced; [`crate::snapshots`] does it once for all. After an error `dir` holds a part
/// of the layer and must be thrown away.
pub fn unpack(
    source: impl Read + Send,
    layer: &str,
    dir: &Path,
    options: &UnpackOptions,
) -> Result<Unpacked> {
    unpack_watched(source, layer, dir, options, |_| Ok(()))
}

/// As [`unpack`], and calls `grows` with the bytes of the uncompressed layer that were read so far,
/// before they are written. An error of it ends the work.
pub fn unpack_watched(
    source: impl Read + Send,
    layer: &str,
    dir: &Path,
    options: &UnpackOptions,
    grows: impl FnMut(u64) -> io::Result<()>,
) -> Result<Unpacked> {
    let (unpacked, total) = with_stream(source, layer, options.limits, |stream| {
        let stream = Watched {
            stream,
            count: 0,
            grows,
        };
        let mut applier = Applier::new(dir, options)?;
        let mut reader = LayerReader::new(stream, layer);
        let mut tally = Tally::new(options.limits);
        while let Some(entry) = reader.next_entry()? {
            tally.count(&reader, &entry)?;
            applier.apply(&entry, &mut reader)?;
        }
        applier.finish()?;
        reader.finish()?;
        Ok((applier, tally))
    })?;
    let (applier, tally) = unpacked;
    Ok(Unpacked {
        skipped_devices: applier.skipped_devices,
        dropped_attrs: applier.dropped_attrs,
        opaque_root: applier.opaque_root,
        ..tally.unpacked(&total)
    })
}

/// A stream whose reader wants to know how much was read.
struct Watched<R, F> {
    stream: R,
    count: u64,
    grows: F,
}

impl<R: Read, F: FnMut(u64) -> io::Result<()>> Read for Watched<R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.stream.read(buffer)?;
        self.count += n as u64;
        (self.grows)(self.count)?;
        Ok(n)
    }
}

/// As [`unpack`], and checks the layer against its `diff_id`, if given.
pub fn unpack_as(
    source: impl Read + Send,
    layer: &str,
    diff_id: Option<&Digest>,
    dir: &Path,
    options: &UnpackOptions,
) -> Result<Unpacked> {
    let unpacked = unpack(source, layer, dir, options)?;
    match diff_id {
        Some(expected) if *expected != unpacked.diff_id => Err(LayerError::DiffId {
            layer: layer.to_owned(),
            expected: *expected,
            actual: unpacked.diff_id,
        }),
        _ => Ok(unpacked),
    }
}

/// [`unpack_as`] of a stored layer, which is checked against its digest, too. A damaged blob is set
/// aside ([`BlobStore::quarantine`]).
pub fn unpack_blob(
    store: &BlobStore,
    digest: &Digest,
    diff_id: Option<&Digest>,
    dir: &Path,
    options: &UnpackOptions,
) -> Result<Unpacked> {
    let layer = digest.to_string();
    verified(store, digest, |blob| {
        unpack_as(blob, &layer, diff_id, dir, options)
    })
}

/// Reads a layer to its end as [`unpack`] does, but writes nothing: gives its `diff_id` and finds
/// what is wrong with its framing, its paths and its size.
pub fn inspect(source: impl Read + Send, layer: &str, limits: &Limits) -> Result<Unpacked> {
    let (tally, total) = with_stream(source, layer, *limits, |stream| {
        let mut reader = LayerReader::new(stream, layer);
        let mut tally = Tally::new(*limits);
        while let Some(entry) = reader.next_entry()? {
            tally.count(&reader, &entry)?;
            let check = || {
                clean(&entry.path, limits.path)?;
                if entry.kind == Kind::HardLink {
                    clean_link(&entry.link, limits.path)?;
                }
                Ok(())
            };
            check().map_err(|problem| reader.entry_error(&entry.path, problem))?;
        }
        reader.finish()?;
        Ok(tally)
    })?;
    Ok(tally.unpacked(&total))
}

/// [`inspect`]s a stored layer and checks it against its digest; a damaged blob is set aside.
pub fn inspect_blob(store: &BlobStore, digest: &Digest, limits: &Limits) -> Result<Unpacked> {
    verified(store, digest, |blob| {
        inspect(blob, &digest.to_string(), limits)
    })
}

/// Runs `work` on a blob. When it finds the layer bad, the rest of the blob is read, too: perhaps
/// the layer was fine and our copy of it rotted, which is another error and heals itself.
pub(crate) fn verified<T>(
    store: &BlobStore,
    digest: &Digest,
    work: impl FnOnce(&mut VerifiedBlob) -> Result<T>,
) -> Result<T> {
    let mut blob = store.open_verified(digest)?;
    let done = work(&mut blob);
    if matches!(
        done,
        Err(LayerError::Read { .. } | LayerError::Format { .. } | LayerError::Entry { .. })
    ) {
        std::io::copy(&mut blob, &mut std::io::sink())
            .map_err(|e| mismatch_or(e, "read", &store.path(digest)))?;
    }
    done
}

/// Counts what a layer holds against its limits.
pub(crate) struct Tally {
    limits: Limits,
    entries: u64,
    file_bytes: u64,
}

impl Tally {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            entries: 0,
            file_bytes: 0,
        }
    }

    pub(crate) fn count<R: Read>(
        &mut self,
        reader: &LayerReader<R>,
        entry: &EntryHeader,
    ) -> Result<()> {
        self.entries += 1;
        self.file_bytes = self.file_bytes.saturating_add(entry.size);
        let limit = |what, limit| {
            Err(LayerError::Limit {
                layer: reader.layer().to_owned(),
                what,
                limit,
            })
        };
        if self.entries > self.limits.entries {
            return limit("entries", self.limits.entries);
        }
        if self.file_bytes > self.limits.bytes {
            return limit("unpacked bytes", self.limits.bytes);
        }
        Ok(())
    }

    pub(crate) fn unpacked(&self, total: &Total) -> Unpacked {
        Unpacked {
            diff_id: total.diff_id,
            uncompressed_size: total.uncompressed,
            size: total.compressed,
            media_type: total.media_type,
            entries: self.entries,
            file_bytes: self.file_bytes,
            skipped_devices: 0,
            dropped_attrs: 0,
            opaque_root: false,
        }
    }
}

/// A path of a layer in plain form: relative, no `.`, no doubled slash; empty for the root.
pub(crate) fn clean(path: &[u8], longest: usize) -> Result<Vec<u8>, EntryProblem> {
    /// Longest name on every Linux file system.
    const NAME: usize = 255;
    if path.contains(&0) {
        return Err(EntryProblem::PathBytes);
    }
    if path.len() > longest {
        return Err(EntryProblem::PathLength(path.len(), longest));
    }
    let mut clean = Vec::with_capacity(path.len());
    for name in path.split(|b| *b == b'/') {
        match name {
            b"" | b"." => continue,
            b".." => return Err(EntryProblem::ParentDir),
            _ if name.len() > NAME => return Err(EntryProblem::PathLength(name.len(), NAME)),
            _ => {}
        }
        if !clean.is_empty() {
            clean.push(b'/');
        }
        clean.extend_from_slice(name);
    }
    if clean.is_empty() && path.is_empty() {
        return Err(EntryProblem::PathBytes);
    }
    Ok(clean)
}

/// [`clean`] for the target of a hard link.
pub(crate) fn clean_link(link: &[u8], longest: usize) -> Result<Vec<u8>, EntryProblem> {
    clean(link, longest).map_err(|problem| match problem {
        EntryProblem::ParentDir => EntryProblem::LinkOutside(link.escape_ascii().to_string()),
        other => other,
    })
}
