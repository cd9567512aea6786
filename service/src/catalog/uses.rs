//! When images of an external registry were last asked for here, since such a registry does not say.
//!
//! Each is a file named by the digest of the manifest, whose time of modification is that of its last
//! use. Whoever finds an image holds `turns` until its use is noted, and whoever removes one that
//! nobody used holds it alone: so none goes that somebody was just told of.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use chalk_core::Digest;
use chalk_store::uses::{Horizon, Uses};

/// Uses of images.
#[derive(Debug)]
pub(super) struct Noted {
    dir: PathBuf,
    uses: Uses<Digest>,
    pub(super) turns: tokio::sync::RwLock<()>,
}

impl Noted {
    /// Keeps its files in `dir`, which is made.
    pub(super) fn open(dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        Ok(Self {
            dir,
            uses: Uses::default(),
            turns: tokio::sync::RwLock::default(),
        })
    }

    /// Notes a use.
    pub(super) fn note(&self, digest: &Digest) {
        let path = self.dir.join(digest.hex());
        self.uses
            .hold(digest)
            .used(|| File::create(path)?.set_modified(SystemTime::now()));
    }

    /// The last use.
    pub(super) fn last(&self, digest: &Digest) -> Option<SystemTime> {
        let meta = fs::metadata(self.dir.join(digest.hex()));
        meta.and_then(|meta| meta.modified()).ok()
    }

    /// Whether it was used after the horizon.
    pub(super) fn is_used(&self, digest: &Digest, horizon: &Horizon) -> bool {
        let on_disk = self.last(digest).unwrap_or(SystemTime::UNIX_EPOCH);
        self.uses.hold(digest).is_used(horizon, on_disk)
    }

    /// Forgets an image that is gone.
    pub(super) fn forget(&self, digest: &Digest) {
        // What stays behind is an empty file.
        let _ = fs::remove_file(self.dir.join(digest.hex()));
        self.uses.hold(digest).gone();
    }
}
