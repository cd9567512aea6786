//! From bytes of a blob to a layer in its final form, in one pass and on a thread of its own:
//! compressed digest, copy for other nodes, decompression, uncompressed digest, image.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, Bytes};
use chalk_core::Digest;
use chalk_sandbox::userns;
use chalk_store::layer::{LayerError, Limits, OverlayAttrs, Target, UnpackOptions};
use chalk_store::{BlobError, VerifyingReader, erofs, layer};
use tokio::sync::mpsc;

use super::servers::Part;
use super::spool::SpoolWriter;
use crate::cache::{Cache, CacheError, LayerForm, LayerNote, NewLayer, Result, Taken};

/// What was written is sent to the disk in steps of this many bytes, so that little is left to wait
/// for at the end.
const WRITEBACK: u64 = 8 << 20;

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
    pub(super) grant: Taken,
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
    let what = format!("layer {}", order.digest);
    let growth = Growth(Mutex::new(Grown {
        grant: Taken::new(Arc::clone(&cache.inner), what, order.reserved),
        failure: None,
    }));
    let intake = Intake {
        parts,
        current: Bytes::new(),
        ended: false,
        spool: order.spool,
        growth: &growth,
        image: image.as_ref(),
        flushed: 0,
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
            let attrs = OverlayAttrs::by_root(userns::inside());
            let options = UnpackOptions {
                target: Target::Snapshot(attrs),
                limits: order.limits,
                ..UnpackOptions::default()
            };
            layer::unpack_watched(&mut source, &name, &tree, &options, |bytes| {
                growth.to(bytes)
            })
            .map(|layer| (layer, 0))
        }
    };
    let (made, length) = made.map_err(|error| refused(&mut source, error))?;
    let spool = source.into_inner().spool;
    let mut grant = growth.into_grant();
    let bytes = new.usage();
    let failed = |error| match error {
        CacheError::Io { source, .. } if is_full(&source) => Outcome::DiskFull,
        error => Outcome::Failed(error),
    };
    grant.grow(bytes).map_err(failed)?;
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
        grant,
        spool,
    })
}

/// Finds out what stands behind an error: perhaps the layer is fine and these are not its bytes.
fn refused(source: &mut VerifyingReader<Intake<'_>>, error: LayerError) -> Outcome {
    let growth = source.get_mut().growth;
    if let Some(failure) = growth.failure() {
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
    match (io::copy(source, &mut io::sink()), growth.failure()) {
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
    growth: &'a Growth,
    /// The image that grows.
    image: Option<&'a File>,
    /// Bytes of it that were sent to the disk.
    flushed: u64,
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
        self.growth.to(bytes)
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
                None => return Err(self.growth.fail(CacheError::Cancelled)),
            }
        }
        self.watch_growth()?;
        let n = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..n]);
        Ok(n)
    }
}

/// Room for the layer, taken by whichever thread sees it grow, and why that or reading failed.
struct Growth(Mutex<Grown>);

struct Grown {
    grant: Taken,
    failure: Option<CacheError>,
}

impl Growth {
    fn lock(&self) -> MutexGuard<'_, Grown> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes room for `bytes` altogether.
    fn to(&self, bytes: u64) -> io::Result<()> {
        let grown = self.lock().grant.grow(bytes);
        grown.map_err(|failure| self.fail(failure))
    }

    fn fail(&self, failure: CacheError) -> io::Error {
        let words = failure.to_string();
        self.lock().failure = Some(failure);
        io::Error::other(words)
    }

    fn failure(&self) -> Option<CacheError> {
        self.lock().failure.take()
    }

    fn into_grant(self) -> Taken {
        let grown = self.0.into_inner();
        grown.unwrap_or_else(PoisonError::into_inner).grant
    }
}
