//! From bytes of a blob to a layer in its final form, in one pass and on a thread of its own:
//! compressed digest, copy for other nodes, decompression, uncompressed digest, image.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, Bytes};
use chalk_core::Digest;
use chalk_store::layer::{LayerError, Limits, UnpackOptions};
use chalk_store::{BlobError, VerifyingReader, erofs, layer};
use tokio::sync::mpsc;

use super::spool::SpoolWriter;
use crate::cache::{Cache, CacheError, LayerForm, LayerNote, NewLayer, Result};

/// Room is taken for a growing layer in steps of this many bytes.
const STEP: u64 = 16 << 20;

/// What was written is sent to the disk in steps of this many bytes, so that little is left to wait
/// for at the end.
const WRITEBACK: u64 = 8 << 20;

/// What is handed to the thread.
pub(super) enum Part {
    Data(Bytes),
    /// All bytes of the blob were sent. A channel that ends without it was given up.
    End,
}

/// What came of the bytes.
pub(super) enum Outcome {
    /// A whole, verified layer.
    Layer(Box<Prepared>),
    /// The bytes do not have the blob's digest.
    WrongBytes,
    /// The layer has more names than this pull's share of memory holds.
    ManyNames(CacheError),
    /// No room on the disk.
    DiskFull,
    Failed(CacheError),
}

/// A layer that waits for its name.
pub(super) struct Prepared {
    pub(super) new: NewLayer,
    pub(super) note: LayerNote,
    pub(super) grant: Grant,
    pub(super) spool: Option<SpoolWriter>,
}

/// What is to be made.
pub(super) struct Order {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) limits: Limits,
    /// Bytes of memory for the names of the layer.
    pub(super) names: u64,
    pub(super) spool: Option<SpoolWriter>,
    /// Where to say how much room was taken.
    pub(super) reserved: Arc<AtomicU64>,
}

/// Runs on a blocking thread until the channel ends.
pub(super) fn run(cache: &Cache, order: Order, parts: mpsc::Receiver<Part>) -> Outcome {
    match prepare(cache, order, parts) {
        Ok(prepared) => Outcome::Layer(Box::new(prepared)),
        Err(outcome) => outcome,
    }
}

fn prepare(cache: &Cache, order: Order, parts: mpsc::Receiver<Part>) -> Result<Prepared, Outcome> {
    let new = cache.inner.disk.new_layer().map_err(Outcome::Failed)?;
    let form = cache.form();
    let image = match form {
        LayerForm::Erofs => Some(new.image().map_err(Outcome::Failed)?),
        LayerForm::Directory => None,
    };
    let intake = Intake {
        parts,
        current: Bytes::new(),
        ended: false,
        spool: order.spool,
        grant: Grant::new(cache, order.digest, order.reserved),
        image: image.as_ref(),
        flushed: 0,
        failure: None,
    };
    let mut source = VerifyingReader::new(intake, order.digest);
    let name = order.digest.to_string();
    let made = match &image {
        Some(image) => {
            let options = erofs::Options {
                limits: order.limits,
                memory: order.names,
                ..erofs::Options::default()
            };
            erofs::write(&mut source, &name, image, &options)
                .map(|written| (written.layer, written.size))
        }
        None => {
            let tree = new.tree().map_err(Outcome::Failed)?;
            let options = UnpackOptions {
                limits: order.limits,
                ..UnpackOptions::default()
            };
            layer::unpack(&mut source, &name, &tree, &options).map(|layer| (layer, 0))
        }
    };
    let (made, length) = made.map_err(|error| refused(&mut source, error))?;
    let mut intake = source.into_inner();
    let bytes = new.usage();
    let failed = |error| match error {
        CacheError::Io { source, .. } if is_full(&source) => Outcome::DiskFull,
        error => Outcome::Failed(error),
    };
    intake.grant.grow(bytes).map_err(failed)?;
    Ok(Prepared {
        note: LayerNote {
            digest: order.digest,
            size: order.size,
            diff_id: made.diff_id,
            form,
            bytes,
            length,
            opaque_root: made.opaque_root,
        },
        new,
        grant: intake.grant,
        spool: intake.spool,
    })
}

/// Finds out what stands behind an error: perhaps the layer is fine and these are not its bytes.
fn refused(source: &mut VerifyingReader<Intake<'_>>, error: LayerError) -> Outcome {
    if let Some(failure) = source.get_mut().failure.take() {
        return Outcome::Failed(failure);
    }
    match &error {
        LayerError::Limit { what, .. } if *what == erofs::NAMES => {
            return Outcome::ManyNames(error.into());
        }
        LayerError::Io { source, .. } if is_full(source) => return Outcome::DiskFull,
        LayerError::Io { .. } => return Outcome::Failed(error.into()),
        LayerError::Blob(BlobError::Mismatch { .. }) => return Outcome::WrongBytes,
        _ => {}
    }
    match (
        io::copy(source, &mut io::sink()),
        source.get_mut().failure.take(),
    ) {
        (Ok(_), _) => Outcome::Failed(error.into()),
        (Err(_), Some(failure)) => Outcome::Failed(failure),
        (Err(_), None) => Outcome::WrongBytes,
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// The blob's bytes, from the channel.
struct Intake<'a> {
    parts: mpsc::Receiver<Part>,
    current: Bytes,
    ended: bool,
    spool: Option<SpoolWriter>,
    grant: Grant,
    /// The image that grows.
    image: Option<&'a File>,
    /// Bytes of it that were sent to the disk.
    flushed: u64,
    /// Why reading failed.
    failure: Option<CacheError>,
}

impl Intake<'_> {
    fn fail(&mut self, failure: CacheError) -> io::Error {
        let words = failure.to_string();
        self.failure = Some(failure);
        io::Error::other(words)
    }
}

impl Intake<'_> {
    fn watch_growth(&mut self) -> io::Result<()> {
        let Some(image) = self.image else {
            return Ok(());
        };
        let bytes = image.metadata()?.blocks() * 512;
        if bytes >= self.flushed + WRITEBACK {
            self.flushed = bytes;
            // SAFETY: the descriptor is open; the call reads no memory of ours. It only starts what
            // the sync at the end would start, so its failure is no matter.
            unsafe {
                libc::sync_file_range(image.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE);
            }
        }
        match self.grant.grow(bytes) {
            Ok(()) => Ok(()),
            Err(failure) => Err(self.fail(failure)),
        }
    }
}

impl Read for Intake<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            if self.ended {
                return Ok(0);
            }
            match self.parts.blocking_recv() {
                Some(Part::Data(bytes)) => {
                    if let Some(spool) = &mut self.spool {
                        spool.write(&bytes);
                    }
                    self.current = bytes;
                }
                Some(Part::End) => self.ended = true,
                None => return Err(self.fail(CacheError::Cancelled)),
            }
        }
        self.watch_growth()?;
        let n = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..n]);
        Ok(n)
    }
}

/// Room granted to a layer on its way in; given back when dropped.
pub(super) struct Grant {
    cache: Cache,
    layer: Digest,
    bytes: u64,
    shown: Arc<AtomicU64>,
}

impl Grant {
    fn new(cache: &Cache, layer: Digest, shown: Arc<AtomicU64>) -> Self {
        Self {
            cache: cache.clone(),
            layer,
            bytes: 0,
            shown,
        }
    }

    /// Takes room for a layer of `bytes`, evicting others if need be.
    fn grow(&mut self, bytes: u64) -> Result<()> {
        if bytes <= self.bytes {
            return Ok(());
        }
        // Ahead of need where there is plenty, to the byte where there is not.
        let what = format!("layer {}", self.layer);
        let more = bytes - self.bytes;
        // What all pulls take ahead must be little of a small cache, too, or the last of them fails.
        let limit = self.cache.inner.settings.size_limit;
        let step = more.next_multiple_of(STEP.min(limit / 256).max(1));
        let granted = match self.cache.inner.free_for(step, &what) {
            Ok(()) => step,
            Err(_) => self.cache.inner.free_for(more, &what).map(|()| more)?,
        };
        self.bytes += granted;
        self.shown.store(self.bytes, Ordering::Relaxed);
        Ok(())
    }
}

impl Grant {
    /// Ends the grant without giving it back: whoever calls this does.
    pub(super) fn disarm(mut self) -> u64 {
        std::mem::take(&mut self.bytes)
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        // Without a grant there is nothing to give back, and the lock may be held.
        if self.bytes > 0 {
            self.cache.inner.release(self.bytes);
        }
        self.shown.store(0, Ordering::Relaxed);
    }
}
