//! Points before and after every durable step, where a test lets the program die.
//!
//! What is to survive a crash goes to the disk in steps: a temporary file is written and synced,
//! renamed, its directory synced, a database commits. Each such step of the workspace has a name
//! here and runs in [`around`], so that a test can stop the program just before it and just after,
//! and look at what a restart makes of it ([`docs/durability.md`]).
//!
//! Without the feature `failpoints`, which no release has, all of this is nothing. With it:
//!
//! | variable | what |
//! |---|---|
//! | `CHALK_FAILPOINT=NAME:N` | the program kills itself when it comes to that point for the N-th time |
//! | `CHALK_FAILPOINT=list` | `chalk` prints the names of all points, one a line, and ends |
//! | `CHALK_FAILPOINT_LOG=FILE` | a line with the name for every point, when it is come to first |
//!
//! A name is that of the step and the side, such as `blob.rename.before`.
//!
//! [`docs/durability.md`]: https://github.com/chalkcompute/chalkcompute/blob/main/docs/durability.md

macro_rules! steps {
    ($($step:ident $name:literal $about:literal,)*) => {
        /// A durable step.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Step {
            $(#[doc = $about] $step,)*
        }

        impl Step {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$step,)*];

            /// Its name, without a side.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$step => $name,)*
                }
            }
        }
    };
}

steps! {
    BucketPut "bucket.put" "An object appears in the bucket of the registry.",
    BucketRemove "bucket.remove" "An object goes from the bucket of the registry.",
    BlobCreate "blob.create" "A temporary file for a blob is made.",
    BlobSync "blob.sync" "The bytes of a blob are synced.",
    BlobRename "blob.rename" "A blob gets its name.",
    BlobSyncDir "blob.sync-dir" "The names of blobs are synced.",
    BlobQuarantine "blob.quarantine" "A damaged blob is set aside.",
    UploadCreate "upload.create" "The file of an upload is made.",
    UploadCancel "upload.cancel" "The file of an upload is removed.",
    SnapshotMark "snapshot.mark" "A snapshot is marked as not synced yet.",
    SnapshotRename "snapshot.rename" "A snapshot gets its name.",
    SnapshotSync "snapshot.sync" "The file system of the snapshots is synced.",
    SnapshotSettle "snapshot.settle" "The mark of a synced snapshot is removed.",
    StateSync "state.sync" "A file of the state directory is synced.",
    StateRename "state.rename" "A file of the state directory gets its name.",
    StateSyncDir "state.sync-dir" "The state directory is synced.",
    IndexCommit "index.commit" "The index of images, names and builds commits.",
    LedgerCommit "ledger.commit" "The database of nodes, tokens, warms and sandboxes commits.",
    AuditSync "audit.sync" "Entries of the audit log are synced.",
    BuildDir "build.dir" "The directory of a build is made.",
    BuildRecord "build.record" "The record of a build is written.",
    BuildEventsSync "build.events-sync" "The events of an ended build are synced.",
    BuildForget "build.forget" "The directory of a build is removed.",
    LinkSync "link.sync" "A file of the registry is synced.",
    LinkRename "link.rename" "A file of the registry gets its name.",
    LinkTouch "link.touch" "A repository gets a link to a blob.",
    LinkRemove "link.remove" "A file of the registry is removed.",
    LinkSyncDir "link.sync-dir" "A directory of the registry is synced.",
    ManifestBlob "manifest.blob" "The bytes of a manifest are put into the store.",
    ManifestReferrer "manifest.referrer" "A manifest is listed with its subject.",
    ManifestLink "manifest.link" "A manifest becomes visible by its digest.",
    ManifestTag "manifest.tag" "A tag is pointed to a manifest.",
    ObjectSync "object.sync" "An uploaded object of volumes is synced.",
    ObjectRename "object.rename" "An uploaded object of volumes gets its name.",
    ObjectSyncDir "object.sync-dir" "A directory of uploaded objects is synced.",
    StepNote "step.note" "The note of a cached step is written.",
    StepPut "step.put" "A step is put into the step cache.",
    ImageLayers "image.layers" "The layers of an image are pushed.",
    ImageSpec "image.spec" "The spec is attached to an image.",
    ImagePut "image.put" "An image is published under its hash.",
    GcTag "gc.tag" "The collector removes a tag.",
    GcManifest "gc.manifest" "The collector removes a manifest from its repository.",
    GcLink "gc.link" "The collector takes a blob out of a repository.",
    GcBlob "gc.blob" "The collector removes the bytes of a blob.",
    GcName "gc.name" "The collector removes the other name of a blob that is gone.",
    GcUpload "gc.upload" "The collector removes what was uploaded and not used.",
    GcCache "gc.cache" "The collector removes a cache of the builder.",
    NodeLayerNote "node.layer-note" "The note of a layer is written into a node's cache.",
    NodeLayerSync "node.layer-sync" "A layer of a node's cache is synced.",
    NodeLayerRename "node.layer-rename" "A layer of a node's cache gets its name.",
    NodeImage "node.image" "The record of an image in a node's cache gets its name.",
    NodeCredentials "node.credentials" "The credentials of a node get their name.",
    NodeSandbox "node.sandbox" "The record of a sandbox on its node gets its name.",
    NodeFile "node.file" "A mounted file gets its name on the node.",
    NodeTree "node.tree" "A mounted directory gets its name on the node.",
}

/// Which side of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Nothing of it is done.
    Before,
    /// All of it is done.
    After,
}

/// Carries a durable step out between its two points; one that fails has no second.
///
/// # Errors
/// Those of `work`.
#[inline]
pub fn around<T, E>(step: Step, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    pass(step, Side::Before);
    let done = work()?;
    pass(step, Side::After);
    Ok(done)
}

/// Comes to a point, for a step that cannot be a closure.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub const fn pass(_: Step, _: Side) {}

/// Names of all points when they were asked for; whoever calls prints them and ends.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub const fn listed() -> Option<String> {
    None
}

#[cfg(feature = "failpoints")]
pub use armed::{listed, pass};

#[cfg(feature = "failpoints")]
mod armed {
    use std::collections::BTreeSet;
    use std::fs::{File, OpenOptions};
    use std::io::Write as _;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{LazyLock, Mutex, PoisonError};

    use super::{Side, Step};

    /// The point to die at.
    struct Armed {
        name: String,
        /// Passes that are left.
        left: AtomicU64,
    }

    static ARMED: LazyLock<Option<Armed>> = LazyLock::new(|| {
        let text = std::env::var("CHALK_FAILPOINT").ok()?;
        let (name, count) = text.rsplit_once(':')?;
        Some(Armed {
            name: name.to_owned(),
            left: AtomicU64::new(count.parse().ok()?),
        })
    });

    static LOG: LazyLock<Option<File>> = LazyLock::new(|| {
        let path = std::env::var_os("CHALK_FAILPOINT_LOG")?;
        OpenOptions::new().create(true).append(true).open(path).ok()
    });

    static SEEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

    fn name(step: Step, side: Side) -> String {
        let side = match side {
            Side::Before => "before",
            Side::After => "after",
        };
        format!("{}.{side}", step.name())
    }

    /// Comes to a point: notes it, and dies if it is the armed one.
    pub fn pass(step: Step, side: Side) {
        let name = name(step, side);
        if let Some(mut log) = LOG.as_ref() {
            let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.insert(name.clone()) {
                let _ = log.write_all(format!("{name}\n").as_bytes());
            }
        }
        let Some(armed) = ARMED.as_ref().filter(|armed| armed.name == name) else {
            return;
        };
        if armed.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            if let Some(mut log) = LOG.as_ref() {
                let _ = log.write_all(format!("killed {name}\n").as_bytes());
            }
            // As `kill -9` would: no handler, no destructor, no buffer is written.
            let _ = rustix::process::kill_process(
                rustix::process::getpid(),
                rustix::process::Signal::KILL,
            );
            loop {
                std::thread::park();
            }
        }
    }

    /// Names of all points when they were asked for.
    pub fn listed() -> Option<String> {
        if std::env::var("CHALK_FAILPOINT").as_deref() != Ok("list") {
            return None;
        }
        let sides = [Side::Before, Side::After];
        let all = Step::ALL
            .iter()
            .flat_map(|step| sides.map(|side| format!("{}\n", name(*step, side))));
        Some(all.collect())
    }
}
