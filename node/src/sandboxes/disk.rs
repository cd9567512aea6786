//! The writable layer of a sandbox: a filesystem of its own with a size, so that a sandbox that
//! fills its disk fills no other.
//!
//! It is ext4 in a sparse file, without a journal (nothing of it outlives the sandbox). Made and
//! mounted ahead of time, it costs a start nothing; made on demand, for a size of its own, 10 to
//! 30 ms. A filesystem in memory would need no making, but what a sandbox writes would count
//! against its memory, and `pip install` of a big package would end it; it is what remains where
//! `mkfs.ext4` or loop devices are missing. Project quotas would need a state directory on a
//! filesystem that was made and mounted for them.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::mount::{MountFlags, UnmountFlags};

/// Least size that ext4 has any use for.
pub(super) const MIN_SIZE: u64 = 4 << 20;

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
    /// Makes one of `size` bytes, by the name `name` in `parent`.
    pub(super) fn make(parent: &Path, name: &str, size: u64) -> io::Result<Disk> {
        let size = size.max(MIN_SIZE);
        let mut disk = Disk {
            dir: parent.join(name),
            image: parent.join(format!("{name}.img")),
            in_memory: None,
        };
        fs::create_dir(&disk.dir)?;
        if let Err(error) = disk.mount_file(size) {
            let _ = fs::remove_file(&disk.image);
            let options = std::ffi::CString::new(format!("size={size},mode=0755"))?;
            rustix::mount::mount("tmpfs", &disk.dir, "tmpfs", MountFlags::NODEV, &*options)?;
            disk.in_memory = Some(error.to_string());
        }
        for name in ["upper", "work", "mounts", "empty"] {
            let path = disk.dir.join(name);
            fs::DirBuilder::new().mode(0o755).create(&path)?;
            // Whatever the umask is: `/` of the sandbox shows these bits.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        Ok(disk)
    }

    fn mount_file(&self, size: u64) -> io::Result<()> {
        let file = fs::File::create_new(&self.image)?;
        file.set_len(size)?;
        drop(file);
        let mut format = Command::new("mkfs.ext4");
        format
            .args(["-q", "-F", "-O", "^has_journal,^resize_inode", "-m", "0"])
            .args(["-E", "lazy_itable_init=1,nodiscard,root_owner=0:0"])
            .arg(&self.image);
        run(&mut format)?;
        // The inode tables are holes of the file, which read as zeros.
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "ext4", "-o", "loop,nodev,noatime,noinit_itable"])
            .args([&self.image, &self.dir]);
        run(&mut mount)
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
        if let Err(error) = rustix::mount::unmount(&self.dir, UnmountFlags::DETACH) {
            tracing::warn!(dir = %self.dir.display(), %error, "cannot unmount a disk");
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

fn run(command: &mut Command) -> io::Result<()> {
    let program = command.get_program().to_owned();
    let output = command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| io::Error::other(format!("cannot run {}: {error}", program.display())))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!(
        "{} failed: {}",
        program.display(),
        text.trim()
    )))
}
