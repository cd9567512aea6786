//! The filesystems and mounts inside a root: prepared before the root changes, as mounts that are
//! attached nowhere, and attached afterwards at points found inside.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};

use super::mountpoint::{Kind, Tree};
use super::report::{At as _, refusal};
use super::root::make_directory;
use crate::error::{SetupError, Stage};
use crate::mount_attributes::{self, Attributes};
use crate::spec::Mount;

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

/// Docker's masked paths, and the tables of physical pages that root may read; relative to `/proc`.
const MASKED_PROC: [&str; 12] = [
    "acpi",
    "asound",
    "interrupts",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
    "kpagecount",
    "kpageflags",
];

/// Docker's masked paths, relative to `/sys`.
const MASKED_SYS: [&str; 2] = ["firmware", "devices/virtual/powercap"];

/// Docker's read-only paths, relative to `/proc`.
const READ_ONLY_PROC: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// `statfs` type of a cgroup version 2 filesystem.
const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;

/// The usual flags of a filesystem that holds no programs and no devices.
const NO_SUID_DEV_EXEC: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// Everything that will be mounted over the root, attached nowhere yet.
pub(super) struct Prepared {
    proc: OwnedFd,
    sys: OwnedFd,
    cgroup: Option<OwnedFd>,
    dev: OwnedFd,
    pts: OwnedFd,
    shm: OwnedFd,
    mqueue: OwnedFd,
    devices: Vec<(&'static str, OwnedFd)>,
    others: Vec<(PathBuf, Kind, OwnedFd)>,
}

/// What is needed of the attached filesystems later.
pub(super) struct Attached {
    pub(super) proc: OwnedFd,
}

/// Makes the filesystems and opens the sources of `mounts`; `scratch` is an attached filesystem
/// of the host's side, for files on the way.
pub(super) fn prepare(mounts: &[Mount], scratch: &OwnedFd) -> Result<Prepared, SetupError> {
    let read_only = MountAttrFlags::MOUNT_ATTR_RDONLY;
    let tmpfs = |options: &[(&str, &str)], attributes, subject: &str| {
        filesystem("tmpfs", options, attributes, subject)
    };
    // No device can be opened but those that are mounted one by one: without a cgroup to forbid
    // it, CAP_MKNOD would otherwise give the host's disks.
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
    let devices = DEVICES
        .into_iter()
        .map(|name| Ok((name, device(name)?)))
        .collect::<Result<_, SetupError>>()?;
    let mut files = None;
    let others = mounts
        .iter()
        .enumerate()
        .map(|(number, mount)| {
            let (kind, fd) = prepare_one(mount, number, scratch, &mut files)?;
            Ok((mount.target().to_owned(), kind, fd))
        })
        .collect::<Result<_, SetupError>>()?;
    Ok(Prepared {
        proc: filesystem("proc", &[], NO_SUID_DEV_EXEC, "/proc")?,
        sys: filesystem("sysfs", &[], NO_SUID_DEV_EXEC | read_only, "/sys")?,
        cgroup: cgroup()?,
        dev,
        pts: filesystem("devpts", &pts_options, pts_flags, "/dev/pts")?,
        shm: tmpfs(
            &[("mode", "1777"), ("size", "65536k")],
            NO_SUID_DEV_EXEC,
            "/dev/shm",
        )?,
        mqueue: filesystem("mqueue", &[], NO_SUID_DEV_EXEC, "/dev/mqueue")?,
        devices,
        others,
    })
}

impl Prepared {
    /// Attaches everything inside `tree`, which is the root of this process by now.
    pub(super) fn attach(self, tree: &mut Tree) -> Result<Attached, SetupError> {
        for (path, fd) in [
            ("/proc", &self.proc),
            ("/sys", &self.sys),
            ("/dev", &self.dev),
        ] {
            refuse_link(tree, path)?;
            let point = tree.mount_point(Path::new(path), Kind::Directory)?;
            attach(fd, &point).at(Stage::AttachMount, path)?;
        }
        if let Some(cgroup) = &self.cgroup
            && let Some(point) = open_in(&self.sys, "fs/cgroup").at(Stage::AttachMount, "/sys")?
        {
            attach(cgroup, &point).at(Stage::AttachMount, "/sys/fs/cgroup")?;
        }
        self.fill_dev()?;
        for (target, kind, fd) in &self.others {
            let point = tree.mount_point(target, *kind)?;
            attach(fd, &point).at(Stage::AttachMount, target.display())?;
        }
        let null = open_in(&self.dev, "null").at(Stage::MaskPath, "/dev/null")?;
        let null = null.ok_or_else(|| refusal(Stage::MaskPath, "/dev/null", "it is gone"))?;
        for (base, fd, paths) in [
            ("/proc", &self.proc, MASKED_PROC.as_slice()),
            ("/sys", &self.sys, MASKED_SYS.as_slice()),
        ] {
            for path in paths {
                mask(fd, path, &null).at(Stage::MaskPath, format!("{base}/{path}"))?;
            }
        }
        Ok(Attached { proc: self.proc })
    }

    fn fill_dev(&self) -> Result<(), SetupError> {
        for (name, fd) in [
            ("pts", &self.pts),
            ("shm", &self.shm),
            ("mqueue", &self.mqueue),
        ] {
            let point = make_directory(self.dev.as_fd(), name)?;
            attach(fd, &point).at(Stage::AttachMount, format!("/dev/{name}"))?;
        }
        for (name, fd) in &self.devices {
            let subject = format!("/dev/{name}");
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            rustix::fs::openat(&self.dev, *name, flags, Mode::from_raw_mode(0o666))
                .at(Stage::AttachMount, &subject)?;
            let point = open_in(&self.dev, name).at(Stage::AttachMount, &subject)?;
            if let Some(point) = point {
                attach(fd, &point).at(Stage::AttachMount, &subject)?;
            }
        }
        for (name, target) in DEV_LINKS {
            rustix::fs::symlinkat(target, &self.dev, name)
                .at(Stage::AttachMount, format!("/dev/{name}"))?;
        }
        Ok(())
    }
}

/// Makes the parts of `/proc` read-only that change the kernel.
pub(super) fn protect_proc(attached: &Attached) -> Result<(), SetupError> {
    for path in READ_ONLY_PROC {
        let subject = format!("/proc/{path}");
        let Some(point) = open_in(&attached.proc, path).at(Stage::MaskPath, &subject)? else {
            continue;
        };
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH;
        let copy = rustix::mount::open_tree(&point, "", flags).at(Stage::MaskPath, &subject)?;
        let attributes = Attributes {
            read_only: true,
            ..Attributes::default()
        };
        mount_attributes::set_tree(&copy, attributes).at(Stage::MaskPath, &subject)?;
        attach(&copy, &point).at(Stage::MaskPath, &subject)?;
    }
    Ok(())
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

/// Attaches a mount at an open point.
pub(super) fn attach(mount: &OwnedFd, point: &OwnedFd) -> rustix::io::Result<()> {
    rustix::mount::move_mount(
        mount,
        "",
        point,
        "",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )
}

fn prepare_one(
    mount: &Mount,
    number: usize,
    scratch: &OwnedFd,
    files: &mut Option<OwnedFd>,
) -> Result<(Kind, OwnedFd), SetupError> {
    match mount {
        Mount::Bind {
            source, read_only, ..
        } => {
            let shown = source.display();
            let flags = OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_RECURSIVE;
            let tree =
                rustix::mount::open_tree(CWD, source, flags).at(Stage::PrepareMount, &shown)?;
            let attributes = Attributes {
                read_only: *read_only,
                no_dev: true,
                ..Attributes::default()
            };
            mount_attributes::set_tree(&tree, attributes).at(Stage::PrepareMount, &shown)?;
            let stat = rustix::fs::fstat(&tree).at(Stage::PrepareMount, &shown)?;
            let kind = match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => Kind::Directory,
                _ => Kind::File,
            };
            Ok((kind, tree))
        }
        Mount::Tmpfs { target, size, mode } => {
            let mode = format!("{mode:o}");
            let size = size.map(|size| size.to_string());
            let mut options = vec![("mode", mode.as_str())];
            if let Some(size) = &size {
                options.push(("size", size));
            }
            let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
            let shown = target.display().to_string();
            Ok((
                Kind::Directory,
                filesystem("tmpfs", &options, attributes, &shown)?,
            ))
        }
        Mount::File {
            contents,
            target,
            uid,
            gid,
            mode,
        } => {
            let files = match files {
                Some(files) => files,
                None => files.insert(file_store(scratch)?),
            };
            let shown = target.display();
            let name = number.to_string();
            write_file(files, &name, &contents.0, (*uid, *gid), *mode)
                .at(Stage::PrepareMount, &shown)?;
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            let tree =
                rustix::mount::open_tree(&*files, &name, flags).at(Stage::PrepareMount, &shown)?;
            let attributes = Attributes {
                read_only: true,
                no_suid: true,
                no_dev: true,
            };
            mount_attributes::set_tree(&tree, attributes).at(Stage::PrepareMount, &shown)?;
            Ok((Kind::File, tree))
        }
    }
}

/// A filesystem for files that must never reach a disk: `ramfs` is never swapped. It has to be
/// attached, on the host's side, since single files can be taken out of attached ones only.
fn file_store(scratch: &OwnedFd) -> Result<OwnedFd, SetupError> {
    let store = filesystem(
        "ramfs",
        &[("mode", "0700")],
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV,
        "(files)",
    )?;
    let point = make_directory(scratch.as_fd(), "files")?;
    attach(&store, &point).at(Stage::PrepareMount, "(files)")?;
    Ok(store)
}

fn write_file(
    store: &OwnedFd,
    name: &str,
    contents: &[u8],
    (uid, gid): (u32, u32),
    mode: u32,
) -> std::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(store, name, flags, Mode::RUSR)?);
    file.write_all(contents)?;
    // The mode comes last: a change of the owner takes set-id bits away.
    rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
    Ok(())
}

/// A device of the host as a mount of its own.
fn device(name: &str) -> Result<OwnedFd, SetupError> {
    let path = format!("/dev/{name}");
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(CWD, &path, flags).at(Stage::PrepareMount, &path)?;
    let attributes = Attributes {
        no_suid: true,
        ..Attributes::default()
    };
    mount_attributes::set_tree(&tree, attributes).at(Stage::PrepareMount, &path)?;
    let stat = rustix::fs::fstat(&tree).at(Stage::PrepareMount, &path)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice {
        return Err(refusal(
            Stage::PrepareMount,
            &path,
            "it is no character device on the host",
        ));
    }
    Ok(tree)
}

/// The cgroup filesystem, read-only, on hosts that have version 2 alone. On others (version 1,
/// both side by side) the directory stays empty: nothing of theirs is of use to a step.
fn cgroup() -> Result<Option<OwnedFd>, SetupError> {
    match rustix::fs::statfs("/sys/fs/cgroup") {
        Ok(stat) if stat.f_type == CGROUP2_SUPER_MAGIC => {
            let read_only = MountAttrFlags::MOUNT_ATTR_RDONLY;
            filesystem(
                "cgroup2",
                &[],
                NO_SUID_DEV_EXEC | read_only,
                "/sys/fs/cgroup",
            )
            .map(Some)
        }
        _ => Ok(None),
    }
}

/// `/proc`, `/sys` and `/dev` must be directories of the image: through a link, processes could be
/// shown another tree than the one that is protected here (CVE-2019-19921).
fn refuse_link(tree: &Tree, path: &str) -> Result<(), SetupError> {
    match rustix::fs::statat(tree.root(), &path[1..], AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => Err(refusal(
            Stage::AttachMount,
            path,
            "the image has a symbolic link there, a directory is needed",
        )),
        Ok(_) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno).at(Stage::AttachMount, path),
    }
}

/// Hides `path` of a filesystem: a directory under an empty one, anything else under `/dev/null`.
fn mask(filesystem_root: &OwnedFd, path: &str, null: &OwnedFd) -> std::io::Result<()> {
    let Some(point) = open_in(filesystem_root, path)? else {
        return Ok(());
    };
    let stat = rustix::fs::fstat(&point)?;
    let cover = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        let options = [("size", "4k"), ("nr_inodes", "1"), ("mode", "0555")];
        let attributes = NO_SUID_DEV_EXEC | MountAttrFlags::MOUNT_ATTR_RDONLY;
        filesystem("tmpfs", &options, attributes, path)
            .map_err(|error| std::io::Error::from_raw_os_error(error.errno))?
    } else {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH;
        rustix::mount::open_tree(null, "", flags)?
    };
    Ok(attach(&cover, &point)?)
}

/// Opens a path of a filesystem that was made here; `None` when it has none such.
fn open_in(root: &OwnedFd, path: &str) -> rustix::io::Result<Option<OwnedFd>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match rustix::fs::openat2(root.as_fd(), path, flags, Mode::empty(), resolve) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}
