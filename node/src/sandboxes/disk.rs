//! The writable layer of a sandbox: a filesystem of its own with a size, so that a sandbox that
//! fills its disk fills no other.
//!
//! It is ext4 in a sparse file, without a journal (nothing of it outlives the sandbox). Made and
//! mounted ahead of time, it costs a start nothing. One of the usual size is a copy of the few
//! blocks that `mkfs.ext4` wrote once, so that starts one after the other do not wait for the
//! making either; one of another size is formatted on demand. A filesystem in memory would need no
//! making, but what a sandbox writes would count against its memory, and `pip install` of a big
//! package would end it; it is what remains where `mkfs.ext4` or loop devices are missing. Project
//! quotas would need a state directory on a filesystem that was made and mounted for them.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::fs::SeekFrom;
use rustix::mount::{MountFlags, UnmountFlags};

use super::loop_device::LoopDevice;

/// Least size that ext4 has any use for.
pub(super) const MIN_SIZE: u64 = 4 << 20;

/// Most bytes that a file of ext4 with blocks of 4 KiB takes, and so a disk on one.
pub(super) const MAX_SIZE: u64 = (16 << 40) - (4 << 10);

/// Why a disk cannot be made in a file.
#[derive(Debug)]
enum NoFile {
    /// The host has not what that needs.
    Missing(io::Error),
    Failed(io::Error),
}

impl From<io::Error> for NoFile {
    fn from(error: io::Error) -> NoFile {
        NoFile::Failed(error)
    }
}

/// A formatted filesystem without a name, that others of its size are copies of. Made when it is
/// first needed.
#[derive(Debug, Default)]
pub(super) struct Model(Mutex<Option<fs::File>>);

impl Model {
    fn copy(&self, to: &Path, size: u64) -> Result<fs::File, NoFile> {
        let mut model = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(model) = &*model {
            return Ok(copy_sparse(model, to)?);
        }
        let made = format(to, size)?;
        fs::remove_file(to)?;
        Ok(copy_sparse(model.insert(made), to)?)
    }
}

/// A mounted filesystem of the mount thread's namespace. Must be [`Disk::remove`]d.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    /// Where it is mounted.
    dir: PathBuf,
    image: PathBuf,
    /// Whether it had to be made in memory, and why.
    pub(super) in_memory: Option<String>,
}

impl Disk {
    /// Makes one of `size` bytes, by the name `name` in `parent`, as a copy of the model if one is
    /// given, which is of that size.
    pub(super) fn make(
        parent: &Path,
        name: &str,
        size: u64,
        model: Option<&Model>,
    ) -> io::Result<Disk> {
        let size = size.max(MIN_SIZE);
        let mut disk = Disk {
            dir: parent.join(name),
            image: parent.join(format!("{name}.img")),
            in_memory: None,
        };
        fs::create_dir(&disk.dir)?;
        match disk.mount(size, model).and_then(|()| disk.make_dirs()) {
            Ok(()) => Ok(disk),
            Err(error) => {
                disk.remove();
                Err(error)
            }
        }
    }

    fn mount(&mut self, size: u64, model: Option<&Model>) -> io::Result<()> {
        let missing = match self.mount_file(size, model) {
            Err(NoFile::Missing(error)) => error,
            Err(NoFile::Failed(error)) => return Err(error),
            Ok(()) => return Ok(()),
        };
        let _ = fs::remove_file(&self.image);
        // What is asked for as room on a disk may be more memory than there is.
        let size = size.min(memory() / 2);
        let options = std::ffi::CString::new(format!("size={size},mode=0755"))?;
        rustix::mount::mount("tmpfs", &self.dir, "tmpfs", MountFlags::NODEV, &*options)?;
        self.in_memory = Some(missing.to_string());
        Ok(())
    }

    fn mount_file(&self, size: u64, model: Option<&Model>) -> Result<(), NoFile> {
        let file = match model {
            Some(model) => model.copy(&self.image, size)?,
            None => format(&self.image, size)?,
        };
        let device = LoopDevice::attach(&file).map_err(|error| {
            if LoopDevice::is_missing(&error) {
                NoFile::Missing(io::Error::other(format!(
                    "loop devices cannot be used: {error}"
                )))
            } else {
                NoFile::Failed(error)
            }
        })?;
        // The inode tables are holes of the file, which read as zeros.
        rustix::mount::mount(
            device.path(),
            &self.dir,
            "ext4",
            MountFlags::NODEV | MountFlags::NOATIME,
            c"noinit_itable",
        )
        .map_err(|errno| match errno {
            rustix::io::Errno::NODEV => {
                NoFile::Missing(io::Error::other("the kernel does not know ext4"))
            }
            errno => NoFile::Failed(errno.into()),
        })
    }

    fn make_dirs(&self) -> io::Result<()> {
        for name in ["upper", "work", "mounts", "empty"] {
            let path = self.dir.join(name);
            fs::DirBuilder::new().mode(0o755).create(&path)?;
            // Whatever the umask is: `/` of the sandbox shows these bits.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        Ok(())
    }

    /// Where changes of the root go, and overlayfs's own directory beside it.
    pub(super) fn upper_and_work(&self) -> (PathBuf, PathBuf) {
        (self.dir.join("upper"), self.dir.join("work"))
    }

    /// A directory that stays empty.
    pub(super) fn empty_dir(&self) -> PathBuf {
        self.dir.join("empty")
    }

    /// Makes a pair of directories for the changes of one mount.
    pub(super) fn mount_dirs(&self, number: usize) -> io::Result<(PathBuf, PathBuf)> {
        let base = self.dir.join("mounts").join(number.to_string());
        let pair = (base.join("upper"), base.join("work"));
        for path in [&pair.0, &pair.1] {
            fs::create_dir_all(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        }
        Ok(pair)
    }

    /// Makes a directory for a file that a mount may change.
    pub(super) fn file_dir(&self, number: usize) -> io::Result<PathBuf> {
        let path = self.dir.join("mounts").join(number.to_string());
        fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// Unmounts and removes it. All users must be gone.
    pub(super) fn remove(&self) {
        match rustix::mount::unmount(&self.dir, UnmountFlags::DETACH) {
            // It did not come to a mount.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => {
                tracing::warn!(dir = %self.dir.display(), %error, "cannot unmount a disk");
            }
        }
        let _ = fs::remove_dir(&self.dir);
        match fs::remove_file(&self.image) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(file = %self.image.display(), %error, "cannot remove a disk");
            }
            _ => {}
        }
    }
}

/// Makes a filesystem in a new file.
fn format(image: &Path, size: u64) -> Result<fs::File, NoFile> {
    let file = new_file(image)?;
    file.set_len(size)?;
    let mut format = Command::new("mkfs.ext4");
    format
        .args(["-q", "-F", "-O", "^has_journal,^resize_inode", "-m", "0"])
        .args(["-E", "lazy_itable_init=1,nodiscard,root_owner=0:0"])
        .arg(image);
    run(&mut format)?;
    Ok(file)
}

/// Bytes of memory of the host.
fn memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(info.mem_unit.into())
}

/// Copies what of a file is no hole.
fn copy_sparse(source: &fs::File, to: &Path) -> io::Result<fs::File> {
    let target = new_file(to)?;
    let size = source.metadata()?.len();
    target.set_len(size)?;
    let mut buffer = vec![0; 64 << 10];
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(source, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole up to the end.
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(source, SeekFrom::Hole(start))?;
        at = start;
        while at < end {
            let count = (end - at).min(buffer.len() as u64) as usize;
            source.read_exact_at(&mut buffer[..count], at)?;
            target.write_all_at(&buffer[..count], at)?;
            at += count as u64;
        }
    }
    Ok(target)
}

fn new_file(path: &Path) -> io::Result<fs::File> {
    let mut options = fs::File::options();
    options.read(true).write(true).create_new(true).open(path)
}

fn run(command: &mut Command) -> Result<(), NoFile> {
    let program = command.get_program().to_owned();
    let output = command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| {
            let text = format!("cannot run {}: {error}", program.display());
            match error.kind() {
                io::ErrorKind::NotFound => NoFile::Missing(io::Error::other(text)),
                kind => NoFile::Failed(io::Error::new(kind, text)),
            }
        })?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let kind = if text.contains("No space left on device") {
        io::ErrorKind::StorageFull
    } else {
        io::ErrorKind::Other
    };
    let text = format!("{} failed: {}", program.display(), text.trim());
    Err(NoFile::Failed(io::Error::new(kind, text)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn copies_have_the_same_bytes_and_holes() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        let file = new_file(&from).expect("made");
        file.set_len(64 << 20).expect("grown");
        for (at, count) in [(0, 5000), (1 << 20, 200_000), ((64 << 20) - 10, 10)] {
            file.write_all_at(&vec![7; count], at).expect("written");
        }
        copy_sparse(&file, &to).expect("copied");
        assert!(fs::read(&from).expect("read") == fs::read(&to).expect("read"));
        let blocks = fs::metadata(&to).expect("there").blocks();
        assert!(blocks * 512 < 1 << 20, "{blocks} blocks");
        copy_sparse(&file, &to).expect_err("it is there");
    }

    /// Needs root.
    #[tokio::test]
    async fn a_disk_that_finds_no_room_is_not_made_in_memory_and_leaves_nothing() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mounts = crate::mounts::Mounts::start(&directory.path().join("mounts"));
        let dir = directory.path().join("disks");
        fs::create_dir(&dir).expect("made");
        let make = move || {
            let options = c"size=64k";
            rustix::mount::mount("tmpfs", &dir, "tmpfs", MountFlags::empty(), options)?;
            let made = Disk::make(&dir, "1", 1 << 30, None);
            assert_eq!(fs::read_dir(&dir)?.count(), 0);
            Ok(made)
        };
        let made: io::Result<_> = mounts.expect("started").within(make).await.expect("done");
        let error = made.expect("mounted").expect_err("no room");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
    }

    #[test]
    fn a_file_that_is_one_hole() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        let file = new_file(&from).expect("made");
        file.set_len(1 << 20).expect("grown");
        copy_sparse(&file, &to).expect("copied");
        assert_eq!(fs::metadata(&to).expect("there").len(), 1 << 20);
    }
}
