//! The mounts of a node, and the thread that holds them.
//!
//! One thread leaves the mount namespace of the process and keeps one of its own; there each layer
//! in use is mounted once, so that sandboxes share its page cache, and there the helpers of
//! sandboxes are started, which inherit what it sees. When the process ends, by whatever means,
//! the namespace ends with its last sandbox, and the kernel drops every mount in it.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chalk_sandbox::{RunSpec, Running, SandboxError, Spare};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags,
};
use rustix::thread::UnshareFlags;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::cache::LayerMounts;

/// How long a mount stays when nobody uses it any more: the next sandbox of its image is likely.
const IDLE: Duration = Duration::from_secs(60);

/// How often unused mounts are looked for.
const SWEEP: Duration = Duration::from_secs(30);

/// A failure to mount.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// The thread with a mount namespace of its own cannot be started.
    #[error(
        "cannot make a mount namespace: a node needs root and CAP_SYS_ADMIN (run it outside of a \
         container, or in a privileged one)"
    )]
    Namespace(#[source] io::Error),
    /// Something cannot be mounted.
    #[error("cannot mount {path}")]
    Mount {
        /// What was to be mounted.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// No sandbox could be started from there.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The thread is gone: the node is ending.
    #[error("the node is ending")]
    Ended,
}

/// The mount thread of a node. Cheap to clone; the thread ends with the last clone and the last
/// [`Mounted`].
#[derive(Clone, Debug)]
pub struct Mounts {
    thread: Thread,
    /// For what takes its time.
    slow: Thread,
    /// For what nobody waits for.
    late: Thread,
    dir: Arc<PathBuf>,
    in_use: Arc<Mutex<Table>>,
}

/// A thread of the namespace that does what it is sent, one after the other.
#[derive(Clone, Debug)]
struct Thread(mpsc::Sender<Box<dyn FnOnce() + Send>>);

/// What is mounted where.
#[derive(Debug, Default)]
struct Table {
    next: u64,
    mounts: HashMap<PathBuf, Entry>,
}

#[derive(Debug)]
struct Entry {
    at: PathBuf,
    users: usize,
    unused_since: Instant,
}

/// A mounted file or directory; lets go of it when dropped.
#[derive(Debug)]
pub struct Mounted {
    path: PathBuf,
    /// What was mounted; `None` for a directory, which needs no mount.
    source: Option<PathBuf>,
    in_use: Arc<Mutex<Table>>,
}

impl Mounted {
    /// The directory to see it at, in the namespace of the mount thread only.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let mut table = lock(&self.in_use);
        let entry = self
            .source
            .as_ref()
            .and_then(|source| table.mounts.get_mut(source));
        if let Some(entry) = entry {
            entry.users -= 1;
            entry.unused_since = Instant::now();
        }
    }
}

impl Mounts {
    /// Starts the thread; `dir` takes the mount points and is emptied. Must be called within a
    /// Tokio runtime.
    ///
    /// # Errors
    /// [`MountError::Namespace`], [`MountError::Sandbox`], and [`MountError::Mount`] when `dir`
    /// cannot be used.
    pub fn start(dir: &Path) -> Result<Mounts, MountError> {
        chalk_sandbox::prepare()?;
        let failed = |source| MountError::Mount {
            path: dir.to_owned(),
            source,
        };
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        fs::create_dir_all(dir).map_err(failed)?;
        let dir = fs::canonicalize(dir).map_err(failed)?;

        let in_use = Arc::new(Mutex::new(Table::default()));
        let (sender, receiver) = mpsc::channel();
        let (slow_sender, slow_receiver) = mpsc::channel();
        let (late_sender, late_receiver) = mpsc::channel();
        let (ready_sender, ready) = mpsc::sync_channel(1);
        let (runtime, table) = (Handle::current(), Arc::downgrade(&in_use));
        let body = move || {
            // The other threads are born in the namespace of the first.
            let ready = enter_own_namespace().and_then(|()| {
                for (name, jobs) in [
                    ("slow mounts", slow_receiver),
                    ("late mounts", late_receiver),
                ] {
                    let spawn = std::thread::Builder::new().name(name.into());
                    spawn.spawn(move || work(&jobs, || ()))?;
                }
                Ok(())
            });
            let failed = ready.is_err();
            let _ = ready_sender.send(ready);
            if !failed {
                let _within = runtime.enter();
                work(&receiver, || {
                    if let Some(table) = table.upgrade() {
                        sweep(&table, IDLE);
                    }
                });
            }
        };
        std::thread::Builder::new()
            .name("mounts".into())
            .spawn(body)
            .map_err(MountError::Namespace)?;
        ready
            .recv()
            .map_err(|_| MountError::Ended)?
            .map_err(MountError::Namespace)?;
        Ok(Mounts {
            thread: Thread(sender),
            slow: Thread(slow_sender),
            late: Thread(late_sender),
            dir: Arc::new(dir),
            in_use,
        })
    }

    /// Mounts the EROFS image in the file `source`, once for all who ask; a directory is used as
    /// it is. Set-user-id programs of an image work, its device nodes do not.
    ///
    /// # Errors
    /// [`MountError::Mount`], [`MountError::Ended`].
    pub async fn mount(&self, source: &Path) -> Result<Mounted, MountError> {
        let (source, dir, in_use) = (
            source.to_owned(),
            Arc::clone(&self.dir),
            Arc::clone(&self.in_use),
        );
        self.thread
            .call(move || mount_once(&source, &dir, &in_use))
            .await?
    }

    /// Starts a sandbox that sees the mounts of this thread.
    ///
    /// # Errors
    /// Those of [`Running::start`].
    pub async fn spawn(&self, spec: RunSpec) -> Result<Running, SpawnError> {
        let started = self.thread.call(move || Running::start(&spec)).await?;
        Ok(started?)
    }

    /// Starts a sandbox with nothing in it, which sees the mounts of this thread.
    ///
    /// # Errors
    /// Those of [`Spare::start`].
    pub async fn spare(&self, cgroups: Vec<PathBuf>) -> Result<Spare, SpawnError> {
        let started = self.thread.call(move || Spare::start(&cgroups)).await?;
        Ok(started?)
    }

    /// Does something that may take its time in the namespace of the mount thread.
    ///
    /// # Errors
    /// [`MountError::Ended`].
    pub async fn within<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, MountError> {
        self.slow.call(job).await
    }

    /// Does something in the namespace of the mount thread, sometime.
    pub fn within_later(&self, job: impl FnOnce() + Send + 'static) {
        let _ = self.late.0.send(Box::new(job));
    }
}

impl LayerMounts for Mounts {
    fn let_go(&self, layers: &[PathBuf]) {
        let layers: BTreeSet<PathBuf> = layers.iter().cloned().collect();
        let (table, (done, wait)) = (Arc::clone(&self.in_use), mpsc::channel());
        // The mounts are in the namespace of the thread.
        let job = Box::new(move || {
            unmount(&table, |source, _| layers.contains(source));
            let _ = done.send(());
        });
        if self.thread.0.send(job).is_ok() {
            let _ = wait.recv();
        }
    }
}

/// A failure to start a sandbox from the mount thread.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The thread.
    #[error(transparent)]
    Mounts(#[from] MountError),
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}

impl Thread {
    async fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, MountError> {
        let (sender, receiver) = oneshot::channel();
        let job = Box::new(move || drop(sender.send(job())));
        self.0.send(job).map_err(|_| MountError::Ended)?;
        receiver.await.map_err(|_| MountError::Ended)
    }
}

fn work(jobs: &mpsc::Receiver<Box<dyn FnOnce() + Send>>, idle: impl Fn()) {
    let mut swept = Instant::now();
    loop {
        match jobs.recv_timeout(SWEEP) {
            Ok(job) => job(),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if swept.elapsed() >= SWEEP {
            idle();
            swept = Instant::now();
        }
    }
}

/// What the host mounts from now on is seen here, not the other way round.
fn enter_own_namespace() -> io::Result<()> {
    // SAFETY: of what a new mount namespace takes along, the working directory, nothing in this
    // thread makes use: paths are absolute.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    Ok(rustix::mount::mount_change("/", slave)?)
}

fn mount_once(
    source: &Path,
    dir: &Path,
    in_use: &Arc<Mutex<Table>>,
) -> Result<Mounted, MountError> {
    let failed = |source_error| MountError::Mount {
        path: source.to_owned(),
        source: source_error,
    };
    if fs::metadata(source).map_err(failed)?.is_dir() {
        return Ok(Mounted {
            path: source.to_owned(),
            source: None,
            in_use: Arc::clone(in_use),
        });
    }
    // Only this thread mounts, so nobody else can come between.
    let mut table = lock(in_use);
    if let Some(entry) = table.mounts.get_mut(source) {
        entry.users += 1;
        return Ok(Mounted {
            path: entry.at.clone(),
            source: Some(source.to_owned()),
            in_use: Arc::clone(in_use),
        });
    }
    table.next += 1;
    let at = dir.join(table.next.to_string());
    fs::create_dir(&at).map_err(failed)?;
    if let Err(error) = mount_erofs(source, &at) {
        let _ = fs::remove_dir(&at);
        return Err(failed(error));
    }
    let entry = Entry {
        at: at.clone(),
        users: 1,
        unused_since: Instant::now(),
    };
    table.mounts.insert(source.to_owned(), entry);
    Ok(Mounted {
        path: at,
        source: Some(source.to_owned()),
        in_use: Arc::clone(in_use),
    })
}

fn mount_erofs(image: &Path, at: &Path) -> io::Result<()> {
    let context = rustix::mount::fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(context.as_fd(), "source", image)?;
    rustix::mount::fsconfig_set_flag(context.as_fd(), "ro")?;
    rustix::mount::fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV;
    let mount = rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    rustix::mount::move_mount(
        mount.as_fd(),
        "",
        rustix::fs::CWD,
        at,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?;
    Ok(())
}

/// Unmounts what was not used for so long.
fn sweep(table: &Mutex<Table>, idle: Duration) {
    unmount(table, |_, entry| entry.unused_since.elapsed() >= idle);
}

/// Unmounts those that are not in use.
fn unmount(table: &Mutex<Table>, which: impl Fn(&Path, &Entry) -> bool) {
    lock(table).mounts.retain(|source, entry| {
        let keep = entry.users > 0 || !which(source, entry);
        if !keep {
            if let Err(error) = rustix::mount::unmount(&entry.at, UnmountFlags::DETACH) {
                tracing::warn!(path = %entry.at.display(), %error, "cannot unmount");
            }
            let _ = fs::remove_dir(&entry.at);
        }
        keep
    });
}

fn lock(table: &Mutex<Table>) -> std::sync::MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An EROFS image without anything in it.
    fn image(path: &Path) {
        let file = fs::File::create_new(path).expect("created");
        let options = chalk_store::erofs::Options::default();
        chalk_store::erofs::write(io::empty(), "image", &file, &options).expect("written");
    }

    #[tokio::test]
    async fn an_image_is_mounted_once_and_seen_in_the_namespace_alone() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("image");
        image(&path);
        let mounts = Mounts::start(&directory.path().join("mounts")).expect("started");
        let first = match mounts.mount(&path).await {
            Ok(first) => first,
            // A kernel that mounts no EROFS image from a file has none to share.
            Err(error) => {
                assert!(matches!(error, MountError::Mount { .. }), "{error}");
                return;
            }
        };
        let second = mounts.mount(&path).await.expect("mounted");
        assert_eq!(first.path(), second.path());
        let seen = |at: &Path| {
            let at = at.to_owned();
            move || {
                let text = fs::read_to_string("/proc/thread-self/mountinfo").expect("readable");
                text.contains(&at.display().to_string())
            }
        };
        let at = first.path().to_owned();
        assert!(mounts.within(seen(&at)).await.expect("done"));
        assert!(!seen(&at)());

        let sweep_now = async || {
            let table = Arc::clone(&mounts.in_use);
            mounts
                .within(move || sweep(&table, Duration::ZERO))
                .await
                .expect("done");
        };
        drop(first);
        sweep_now().await;
        assert!(mounts.within(seen(&at)).await.expect("done"));
        drop(second);
        sweep_now().await;
        assert!(!mounts.within(seen(&at)).await.expect("done"));
        assert!(!at.exists());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_evicted_is_let_go_of() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (one, other) = (directory.path().join("one"), directory.path().join("other"));
        image(&one);
        image(&other);
        let mounts = Mounts::start(&directory.path().join("mounts")).expect("started");
        let first = match mounts.mount(&one).await {
            Ok(first) => first,
            Err(error) => {
                assert!(matches!(error, MountError::Mount { .. }), "{error}");
                return;
            }
        };
        let kept = mounts
            .mount(&other)
            .await
            .expect("mounted")
            .path()
            .to_owned();
        let at = first.path().to_owned();
        let let_go = async |path: &Path| {
            let (mounts, paths) = (mounts.clone(), [path.to_owned()]);
            let done = tokio::task::spawn_blocking(move || mounts.let_go(&paths));
            done.await.expect("done");
        };
        let_go(&one).await;
        assert!(at.exists(), "it is in use");
        drop(first);
        let_go(&one).await;
        assert!(!at.exists() && kept.exists());
        let_go(&one).await;
    }

    #[tokio::test]
    async fn directories_need_no_mount_and_other_files_are_none() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mounts = Mounts::start(&directory.path().join("mounts")).expect("started");
        let mounted = mounts.mount(directory.path()).await.expect("as it is");
        assert_eq!(mounted.path(), directory.path());
        let path = directory.path().join("file");
        fs::write(&path, "no image").expect("written");
        let error = mounts.mount(&path).await.expect_err("no image");
        assert!(error.to_string().contains("file"), "{error}");
        let missing = directory.path().join("missing");
        mounts.mount(&missing).await.expect_err("not there");
        let left = fs::read_dir(directory.path().join("mounts")).expect("readable");
        assert_eq!(left.count(), 0);
    }
}
