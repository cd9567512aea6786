//! The filesystems of every sandbox, attached nowhere yet: nothing here depends on what will run.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags};

use super::mounts::{attach, open_in};
use super::report::{At as _, refusal};
use super::root::make_directory;
use crate::error::{SetupError, Stage};
use crate::mount_attributes::{self, Attributes};

/// Devices of every sandbox, taken from the host.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Links in `/dev`, by the OCI runtime specification ("Dev symbolic links") and, for `core`, as
/// Docker has it.
const DEV_LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
    ("core", "/proc/kcore"),
];

/// `statfs` type of a cgroup version 2 filesystem.
const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;

/// Where control groups are, below `/sys`.
pub(super) const CGROUPS: &str = "fs/cgroup";

/// The usual flags of a filesystem that holds no programs and no devices.
pub(super) const NO_SUID_DEV_EXEC: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// What becomes `/proc`, `/sys` and `/dev`.
pub(super) struct Filesystems {
    pub(super) proc: OwnedFd,
    pub(super) sys: OwnedFd,
    pub(super) cgroup: Option<OwnedFd>,
    /// Paths in `sys` where mounts of the host show, which are no business of the sandbox.
    pub(super) foreign: Vec<String>,
    pub(super) dev: OwnedFd,
    pub(super) pts: OwnedFd,
    shm: OwnedFd,
    mqueue: OwnedFd,
    devices: Vec<(&'static str, OwnedFd)>,
}

impl Filesystems {
    /// Makes them, in the namespaces of this process.
    pub(super) fn make(user_namespace: bool) -> Result<Filesystems, SetupError> {
        let tmpfs = |options: &[(&str, &str)], attributes, subject: &str| {
            filesystem("tmpfs", options, attributes, subject)
        };
        // No device can be opened but those that are mounted one by one: without a cgroup to
        // forbid it, CAP_MKNOD would otherwise give the host's disks.
        let no_dev = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        let dev = tmpfs(
            &[("mode", "0755"), ("size", "65536k")],
            no_dev | MountAttrFlags::MOUNT_ATTR_STRICTATIME,
            "/dev",
        )?;
        let pts_options = [
            ("newinstance", ""),
            ("ptmxmode", "0666"),
            ("mode", "0620"),
            ("gid", "5"),
        ];
        let pts_flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        for name in ["pts", "shm", "mqueue"] {
            make_directory(dev.as_fd(), name)?;
        }
        for name in DEVICES {
            make_file(&dev, name)?;
        }
        for (name, target) in DEV_LINKS {
            rustix::fs::symlinkat(target, &dev, name)
                .at(Stage::AttachMount, format!("/dev/{name}"))?;
        }
        let devices = DEVICES
            .into_iter()
            .map(|name| Ok((name, device(Path::new("/dev").join(name).as_path())?)))
            .collect::<Result<_, SetupError>>()?;
        let cgroup = cgroup(user_namespace)?;
        let (sys, mut foreign) = match user_namespace {
            false => (sys()?, Vec::new()),
            true => (sys_of_host()?, mounts_below("/sys/")?),
        };
        foreign.retain(|path| cgroup.is_none() || path != CGROUPS);
        Ok(Filesystems {
            proc: proc(user_namespace)?,
            sys,
            cgroup,
            foreign,
            dev,
            pts: filesystem("devpts", &pts_options, pts_flags, "/dev/pts")?,
            shm: tmpfs(
                &[("mode", "1777"), ("size", "65536k")],
                NO_SUID_DEV_EXEC,
                "/dev/shm",
            )?,
            mqueue: filesystem("mqueue", &[], NO_SUID_DEV_EXEC, "/dev/mqueue")?,
            devices,
        })
    }

    /// Makes `/sys` again: it shows the network namespace in which it was made.
    pub(super) fn renew_sys(&mut self) -> Result<(), SetupError> {
        self.sys = sys()?;
        self.foreign.clear();
        Ok(())
    }

    /// Attaches what belongs into `/dev`, which is attached itself by now.
    pub(super) fn fill_dev(&self) -> Result<(), SetupError> {
        let directories = [
            ("pts", &self.pts),
            ("shm", &self.shm),
            ("mqueue", &self.mqueue),
        ];
        let devices = self.devices.iter().map(|(name, fd)| (*name, fd));
        for (name, fd) in directories.into_iter().chain(devices) {
            let subject = format!("/dev/{name}");
            let point = open_in(&self.dev, name).at(Stage::AttachMount, &subject)?;
            let point = point.ok_or_else(|| refusal(Stage::AttachMount, &subject, "it is gone"))?;
            attach(fd, &point).at(Stage::AttachMount, &subject)?;
        }
        Ok(())
    }
}

/// Makes an empty file in `/dev` to mount over.
pub(super) fn make_file(dev: &OwnedFd, name: &str) -> Result<OwnedFd, SetupError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    rustix::fs::openat(dev, name, flags, Mode::from_raw_mode(0o666))
        .at(Stage::AttachMount, format!("/dev/{name}"))
}

fn sys() -> Result<OwnedFd, SetupError> {
    let read_only = MountAttrFlags::MOUNT_ATTR_RDONLY;
    filesystem("sysfs", &[], NO_SUID_DEV_EXEC | read_only, "/sys")
}

/// The `/sys` of the host, read-only, with all that is mounted below: it shows the network of the
/// host, so only root of the machine may make another.
fn sys_of_host() -> Result<OwnedFd, SetupError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = rustix::mount::open_tree(CWD, "/sys", flags).at(Stage::PrepareMount, "/sys")?;
    let attributes = Attributes {
        read_only: true,
        no_suid: true,
        no_dev: true,
    };
    mount_attributes::set_tree(&tree, attributes).at(Stage::PrepareMount, "/sys")?;
    Ok(tree)
}

/// What is mounted below a directory, relative to it.
fn mounts_below(directory: &str) -> Result<Vec<String>, SetupError> {
    let file = "/proc/self/mountinfo";
    let mounts = std::fs::read_to_string(file).at(Stage::PrepareMount, file)?;
    // The fifth field is the mount point (proc(5)). Names in `/sys` need no escapes.
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    let below = points.filter_map(|point| point.strip_prefix(directory));
    Ok(below.map(str::to_owned).collect())
}

fn proc(user_namespace: bool) -> Result<OwnedFd, SetupError> {
    filesystem("proc", &[], NO_SUID_DEV_EXEC, "/proc").map_err(|mut error| {
        if user_namespace && error.errno == libc::EPERM {
            error.detail = "something is mounted over parts of this /proc, as in a container, so no other can \
                            be made in a user namespace (start the container with `--security-opt \
                            systempaths=unconfined`)"
                .to_owned();
        }
        error
    })
}

/// Makes a filesystem that is mounted nowhere.
pub(super) fn filesystem(
    kind: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
    subject: &str,
) -> Result<OwnedFd, SetupError> {
    let make = || -> rustix::io::Result<OwnedFd> {
        let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_set_string(&context, "source", kind)?;
        for (name, value) in options {
            if value.is_empty() {
                rustix::mount::fsconfig_set_flag(&context, *name)?;
            } else {
                rustix::mount::fsconfig_set_string(&context, *name, *value)?;
            }
        }
        rustix::mount::fsconfig_create(&context)?;
        rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    make().at(Stage::PrepareMount, subject)
}

/// A device of the host as a mount of its own.
pub(super) fn device(path: &Path) -> Result<OwnedFd, SetupError> {
    let shown = path.display();
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(CWD, path, flags).at(Stage::PrepareMount, &shown)?;
    let attributes = Attributes {
        no_suid: true,
        ..Attributes::default()
    };
    mount_attributes::set_tree(&tree, attributes).at(Stage::PrepareMount, &shown)?;
    let stat = rustix::fs::fstat(&tree).at(Stage::PrepareMount, &shown)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice | FileType::BlockDevice => Ok(tree),
        _ => Err(refusal(
            Stage::PrepareMount,
            &shown,
            "it is no device on the host",
        )),
    }
}

/// The cgroup filesystem, read-only, on hosts that have version 2 alone. On others (version 1,
/// both side by side) the directory stays empty: nothing of theirs is of use to a step.
fn cgroup(user_namespace: bool) -> Result<Option<OwnedFd>, SetupError> {
    match rustix::fs::statfs("/sys/fs/cgroup") {
        Ok(stat) if stat.f_type == CGROUP2_SUPER_MAGIC => {}
        _ => return Ok(None),
    }
    let attributes = NO_SUID_DEV_EXEC | MountAttrFlags::MOUNT_ATTR_RDONLY;
    match filesystem("cgroup2", &[], attributes, "/sys/fs/cgroup") {
        // Some kernels keep it to root of the machine.
        Err(error) if user_namespace && error.errno == libc::EPERM => Ok(None),
        made => made.map(Some),
    }
}
