//! The disk of a trial: a small ext4 on a loop device, so that it can be full, and lose power.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Size of the file system, in bytes.
const SIZE: u64 = 128 << 20;
const BALLAST: &str = "ballast";
/// How long the dead may keep a disk in use.
const BUSY: Duration = Duration::from_secs(5);

/// A mounted file system in a file. Dropping it unmounts it and removes all.
#[derive(Debug)]
pub(crate) struct Disk {
    folder: PathBuf,
    image: PathBuf,
    mount: PathBuf,
    mounted: bool,
}

fn run(program: &str, words: &[&str]) -> Result<(), String> {
    let mut command = Command::new(program);
    let ran = command.args(words).stdin(Stdio::null()).output();
    let ran = ran.map_err(|error| format!("{program}: {error}"))?;
    match ran.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{program} {}: {}",
            words.join(" "),
            String::from_utf8_lossy(&ran.stderr).trim()
        )),
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of ours")
}

impl Disk {
    /// A fresh one.
    pub(crate) fn format(folder: &Path) -> Self {
        let disk = Self::at(folder);
        let file = File::create(&disk.image).expect("make a disk");
        file.set_len(SIZE).expect("make a disk");
        drop(file);
        let options = [
            "-q",
            "-t",
            "ext4",
            "-J",
            "size=4",
            "-E",
            "lazy_itable_init=0",
            "-m",
            "0",
        ];
        let mut words = options.to_vec();
        words.push(text(&disk.image));
        run("mke2fs", &words).expect("format a disk");
        disk.mounted()
    }

    /// One that begins with what the unmounted file `template` holds.
    pub(crate) fn copy(folder: &Path, template: &Path) -> Self {
        let disk = Self::at(folder);
        copy(template, &disk.image).expect("copy a disk");
        disk.mounted()
    }

    fn at(folder: &Path) -> Self {
        fs::create_dir_all(folder.join("disk")).expect("make a folder");
        let folder = folder.canonicalize().expect("just made");
        Self {
            image: folder.join("disk.img"),
            mount: folder.join("disk"),
            folder,
            mounted: false,
        }
    }

    fn mounted(mut self) -> Self {
        self.attach().expect("mount a disk");
        self
    }

    fn attach(&mut self) -> Result<(), String> {
        let words = ["-o", "loop,noatime", text(&self.image), text(&self.mount)];
        run("mount", &words)?;
        self.mounted = true;
        Ok(())
    }

    fn detach(&mut self) -> Result<(), String> {
        if std::mem::take(&mut self.mounted) {
            run("umount", &[text(&self.mount)])?;
        }
        Ok(())
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.mount
    }

    /// Where there is room beside it.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Unmounts it for good; gives its file.
    pub(crate) fn into_image(mut self, to: &Path) {
        self.detach().expect("unmount");
        fs::rename(&self.image, to).expect("move a disk");
    }

    /// As [`lose_power`](Self::lose_power), when the dead have let go of it.
    ///
    /// # Errors
    /// When they do not.
    pub(crate) fn lose_power_when_free(&mut self) -> Result<(), String> {
        let until = Instant::now() + BUSY;
        while let Err(error) = self.lose_power() {
            if Instant::now() > until {
                return Err(format!("the disk stays in use: {error}"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// What the device has got so far: the file system as a sudden loss of power leaves it. Nothing
    /// may use it any more.
    fn lose_power(&mut self) -> Result<(), String> {
        // What the file system kept in memory has not come to the file behind the loop device.
        let lost = self.folder.join("lost.img");
        copy(&self.image, &lost)?;
        self.detach()?;
        fs::rename(&lost, &self.image).map_err(|error| error.to_string())?;
        self.attach()
    }

    /// Leaves only so many bytes free.
    pub(crate) fn fill(&self, room: u64) {
        let free = {
            let facts = rustix::fs::statvfs(&self.mount).expect("a file system");
            facts.f_bavail * facts.f_frsize
        };
        let file = File::create(self.mount.join(BALLAST)).expect("make the ballast");
        let flags = rustix::fs::FallocateFlags::empty();
        let size = free.saturating_sub(room);
        // A little less fits, since the file system needs some itself.
        for part in [size, size.saturating_sub(1 << 20), size / 2] {
            if part > 0 && rustix::fs::fallocate(&file, flags, 0, part).is_ok() {
                return;
            }
        }
    }

    /// Makes room again.
    pub(crate) fn empty(&self) {
        let _ = fs::remove_file(self.mount.join(BALLAST));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = self.detach() {
            eprintln!("{error}");
            let _ = run("umount", &["--lazy", text(&self.mount)]);
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    run(
        "cp",
        &["--sparse=always", "--reflink=auto", text(from), text(to)],
    )
}

/// Has a machine started anew, which this one did not, for whatever keeps the boot that it was
/// written in: a file `boot` in `folder` or in a folder of it.
pub(crate) fn boot_anew(folder: &Path) {
    let below = fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = below.map(|entry| entry.path()).chain([folder.to_owned()]);
    for marker in folders.map(|folder| folder.join("boot")) {
        if marker.exists() {
            fs::write(marker, "another boot").expect("write to the disk");
        }
    }
}

/// Blob files below a state directory, sorted.
pub(crate) fn blobs(state: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![state.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            // Below the layers lie the files of images.
            if is_dir && entry.file_name() != "layers" {
                open.push(path);
            } else if !is_dir
                && folder
                    .parent()
                    .is_some_and(|parent| parent.ends_with("blobs"))
            {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The name of a file, which is the digest of a blob.
pub(crate) fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Flips bytes in some of these blobs, as `numbers` choose; gives the digests of those that rotted.
pub(crate) fn rot_some(blobs: &[(String, PathBuf)], numbers: &[u64]) -> BTreeSet<String> {
    let mut rotten = BTreeSet::new();
    for number in numbers {
        if blobs.is_empty() {
            break;
        }
        let at = usize::try_from(number % blobs.len() as u64).unwrap_or(0);
        let (digest, path) = &blobs[at];
        // Twice would be none.
        if fs::metadata(path).is_ok_and(|meta| meta.len() > 0) && rotten.insert(digest.clone()) {
            rot(path);
        }
    }
    rotten
}

/// Flips a bit in the middle of a file, behind the back of its times.
fn rot(path: &Path) {
    let mut file = File::options()
        .read(true)
        .write(true)
        .open(path)
        .expect("a blob");
    let meta = file.metadata().expect("a blob");
    if meta.size() == 0 {
        return;
    }
    let middle = meta.size() / 2;
    let mut byte = [0];
    file.seek(SeekFrom::Start(middle)).expect("a blob");
    file.read_exact(&mut byte).expect("a blob");
    file.seek(SeekFrom::Start(middle)).expect("a blob");
    file.write_all(&[byte[0] ^ 0x10]).expect("a blob");
}
