//! When what lies elsewhere was last used here, since neither an external registry nor a bucket says
//! so: images of the one, blobs of the other.
//!
//! Each is a file named by the digest, whose time of modification is that of its last use.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use chalk_core::Digest;
use chalk_store::uses::{Horizon, Uses};

/// Uses of what lies elsewhere.
#[derive(Debug)]
pub(crate) struct Noted {
    dir: PathBuf,
    uses: Uses<Digest>,
}

impl Noted {
    /// Keeps its files in `dir`, which is made.
    pub(crate) fn open(dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        Ok(Self {
            dir,
            uses: Uses::default(),
        })
    }

    /// Notes a use.
    pub(crate) fn note(&self, digest: &Digest) {
        let path = self.dir.join(digest.hex());
        self.uses
            .hold(digest)
            .used(|| File::create(path)?.set_modified(SystemTime::now()));
    }

    /// All last uses.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub(crate) fn all(&self) -> io::Result<Vec<(Digest, SystemTime)>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let Ok(digest) = format!("sha256:{}", name.to_string_lossy()).parse() else {
                continue;
            };
            // It may just be removed.
            if let Ok(used) = entry.metadata().and_then(|meta| meta.modified()) {
                all.push((digest, used));
            }
        }
        Ok(all)
    }

    /// The last use.
    pub(crate) fn last(&self, digest: &Digest) -> Option<SystemTime> {
        let meta = fs::metadata(self.dir.join(digest.hex()));
        meta.and_then(|meta| meta.modified()).ok()
    }

    /// Whether it was used after the horizon.
    pub(crate) fn is_used(&self, digest: &Digest, horizon: &Horizon) -> bool {
        let on_disk = self.last(digest).unwrap_or(SystemTime::UNIX_EPOCH);
        self.uses.hold(digest).is_used(horizon, on_disk)
    }

    /// Forgets what is gone.
    pub(crate) fn forget(&self, digest: &Digest) {
        // What stays behind is an empty file.
        let _ = fs::remove_file(self.dir.join(digest.hex()));
        self.uses.hold(digest).gone();
    }

    /// Removes something of what goes by `digest`, if it was used after the horizon neither by what is
    /// noted nor by `also`, while nobody can note another use; whether it did.
    pub(crate) fn unless_used<E>(
        &self,
        digest: &Digest,
        horizon: &Horizon,
        also: SystemTime,
        remove: impl FnOnce() -> Result<(), E>,
    ) -> Result<bool, E> {
        let held = self.uses.hold(digest);
        let noted = self.last(digest).unwrap_or(SystemTime::UNIX_EPOCH);
        if held.is_used(horizon, noted.max(also)) {
            return Ok(false);
        }
        remove()?;
        Ok(true)
    }

    /// Forgets what is remembered though the disk has it.
    pub(crate) fn forget_before(&self, horizon: &Horizon) {
        self.uses.forget_before(horizon);
    }
}
