//! The disk of the state directory.

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Check;
use crate::progress::bytes;

/// Free bytes below which builds are about to fail, and below which they may.
const LITTLE: u64 = 1 << 30;
const ENOUGH: u64 = 10 << 30;
/// Writes of the trial, and what one may take.
const WRITES: usize = 16;
const SLOW: Duration = Duration::from_millis(50);

/// Free space, file system, and time to make bytes durable.
pub(super) fn checks(state: &Path) -> Vec<Check> {
    let place = existing(state);
    vec![space(&place), kind(&place), durability(state, &place)]
}

/// The directory, or the first above it that is there.
fn existing(state: &Path) -> PathBuf {
    let mut all = state.ancestors().filter(|path| path.is_dir());
    all.next().unwrap_or(Path::new("/")).to_owned()
}

fn space(place: &Path) -> Check {
    let name = "disk space";
    let stat = match rustix::fs::statvfs(place) {
        Ok(stat) => stat,
        Err(error) => {
            let found = format!("{}: {error}", place.display());
            return Check::warn(name, found, "see that `state.dir` can be read");
        }
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let found = format!("{} free at {}", bytes(free), place.display());
    let todo = "remove images (`chalk compute image rm`), or set `state.dir` to a larger disk";
    match free {
        0..LITTLE => Check::fail(name, found, todo),
        LITTLE..ENOUGH => Check::warn(name, found, todo),
        _ if stat.f_files > 0 && stat.f_favail == 0 => {
            Check::fail(name, format!("no inodes left at {}", place.display()), todo)
        }
        _ => Check::ok(name, found),
    }
}

fn kind(place: &Path) -> Check {
    let name = "file system";
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let path = place.canonicalize().unwrap_or_else(|_| place.to_owned());
    judge(name, type_of(&mounts, &path))
}

/// Type of the file system that a path is on, by a text of the form of `/proc/self/mountinfo`.
fn type_of<'a>(mounts: &'a str, path: &Path) -> Option<&'a str> {
    let mounted = mounts.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let point = Path::new(left.split(' ').nth(4)?);
        let kind = right.split(' ').next()?;
        path.starts_with(point)
            .then(|| (point.components().count(), kind))
    });
    // Of several mounts at one place the last one counts.
    mounted
        .max_by_key(|(depth, _)| *depth)
        .map(|(_, kind)| kind)
}

fn judge(name: &'static str, kind: Option<&str>) -> Check {
    let Some(kind) = kind else {
        return Check::warn(name, "it cannot be found out", "see that /proc is mounted");
    };
    match kind {
        "overlay" | "nfs" | "nfs4" | "cifs" | "smb3" | "9p" | "vfat" | "exfat" | "msdos" => {
            Check::fail(
                name,
                format!("{kind}, which cannot hold the writable layer of an overlay"),
                "set `state.dir` to a directory on a local file system (ext4, xfs, btrfs): in a container, to a volume",
            )
        }
        "tmpfs" | "ramfs" => Check::warn(
            name,
            format!("{kind}: images are gone after a restart of the machine"),
            "set `state.dir` to a directory on a disk",
        ),
        kind => Check::ok(name, kind),
    }
}

fn durability(state: &Path, place: &Path) -> Check {
    let name = "fsync";
    let trial = || -> std::io::Result<Duration> {
        let mut file: File = tempfile::tempfile_in(place)?;
        let mut times = Vec::with_capacity(WRITES);
        for _ in 0..WRITES {
            file.rewind()?;
            file.write_all(&[7; 4096])?;
            let began = Instant::now();
            file.sync_all()?;
            times.push(began.elapsed());
        }
        times.sort();
        Ok(times.get(WRITES / 2).copied().unwrap_or_default())
    };
    match trial() {
        Ok(time) => {
            let found = format!("{:.1} ms for 4 KiB", time.as_secs_f64() * 1e3);
            match time > SLOW {
                true => Check::warn(
                    name,
                    found,
                    "every published layer and manifest waits for it: set `state.dir` to a faster disk",
                ),
                false => Check::ok(name, found),
            }
        }
        Err(error) => Check::fail(
            name,
            format!("{} cannot be written to: {error}", place.display()),
            format!(
                "give this user {} (`chown`), or set `state.dir` (--state, CHALK_STATE_DIR) to a directory of its own",
                state.display()
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn file_systems_by_place() {
        let mounts = "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                      22 21 0:5 / /var rw - overlay none rw\n\
                      23 22 0:6 / /var/lib rw shared:1 - xfs /dev/b rw\n";
        let check = |path: &str, expect: &str| {
            assert_eq!(type_of(mounts, Path::new(path)), Some(expect), "{path}");
        };
        check("/home", "ext4");
        check("/var", "overlay");
        check("/various", "ext4");
        check("/var/lib/chalk", "xfs");
        assert_eq!(type_of("", Path::new("/")), None);
    }

    #[test]
    fn file_systems_by_use() {
        let check = |kind, expect: Status| assert_eq!(judge("x", kind).status, expect);
        check(Some("ext4"), Status::Ok);
        check(Some("tmpfs"), Status::Warn);
        check(Some("overlay"), Status::Fail);
        check(Some("nfs4"), Status::Fail);
        check(None, Status::Warn);
    }

    #[test]
    fn the_nearest_directory_is_looked_at() {
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(existing(&temp.path().join("a/b/c")), temp.path());
        let absent = temp.path().join("absent");
        assert_eq!(durability(&absent, &absent).status, Status::Fail);
    }
}
