//! The mounts inside a root: prepared before the root changes, as mounts that are attached nowhere,
//! and attached afterwards at points found inside.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MoveMountFlags, OpenTreeFlags};

use super::filesystems::{CGROUPS, Filesystems, NO_SUID_DEV_EXEC, device, filesystem, make_file};
use super::mountpoint::{Kind, Tree};
use super::report::{At as _, refusal};
use super::root::make_directory;
use crate::error::{SetupError, Stage};
use crate::mount_attributes::{self, Attributes};
use crate::spec::{Mount, RunSpec};

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

/// Everything that will be mounted over the root, attached nowhere yet.
pub(super) struct Prepared {
    filesystems: Filesystems,
    others: Vec<(PathBuf, Kind, OwnedFd)>,
}

/// What is needed of the attached filesystems later.
pub(super) struct Attached {
    pub(super) proc: OwnedFd,
    pub(super) dev: OwnedFd,
    pub(super) pts: OwnedFd,
}

/// Opens the sources of the mounts and devices of `spec`; `scratch` is an attached filesystem of
/// the host's side, for files on the way.
pub(super) fn prepare(
    filesystems: Filesystems,
    spec: &RunSpec,
    scratch: &OwnedFd,
    user_namespace: bool,
) -> Result<Prepared, SetupError> {
    let mut files = None;
    let devices = spec.devices.iter().map(|wanted| {
        let tree = device(&wanted.source)?;
        Ok((wanted.target.clone(), Kind::File, tree))
    });
    let mounts = spec.mounts.iter().enumerate().map(|(number, mount)| {
        let (kind, fd) = prepare_one(mount, number, scratch, &mut files, user_namespace)?;
        Ok((mount.target().to_owned(), kind, fd))
    });
    Ok(Prepared {
        filesystems,
        others: devices.chain(mounts).collect::<Result<_, SetupError>>()?,
    })
}

impl Prepared {
    /// Attaches everything inside `tree`, which is the root of this process by now.
    pub(super) fn attach(self, tree: &mut Tree) -> Result<Attached, SetupError> {
        let own = self.filesystems;
        for (path, fd) in [("/proc", &own.proc), ("/sys", &own.sys), ("/dev", &own.dev)] {
            refuse_link(tree, path)?;
            let point = tree.mount_point(Path::new(path), Kind::Directory)?;
            attach(fd, &point).at(Stage::AttachMount, path)?;
        }
        if let Some(cgroup) = &own.cgroup
            && let Some(point) = open_in(&own.sys, CGROUPS).at(Stage::AttachMount, "/sys")?
        {
            attach(cgroup, &point).at(Stage::AttachMount, "/sys/fs/cgroup")?;
        }
        own.fill_dev()?;
        for (target, kind, fd) in &self.others {
            let point = tree.mount_point(target, *kind)?;
            attach(fd, &point).at(Stage::AttachMount, target.display())?;
        }
        let null = open_in(&own.dev, "null").at(Stage::MaskPath, "/dev/null")?;
        let null = null.ok_or_else(|| refusal(Stage::MaskPath, "/dev/null", "it is gone"))?;
        for (base, fd, paths) in [
            ("/proc", &own.proc, MASKED_PROC.as_slice()),
            ("/sys", &own.sys, MASKED_SYS.as_slice()),
        ] {
            for path in paths {
                mask(fd, path, &null).at(Stage::MaskPath, format!("{base}/{path}"))?;
            }
        }
        for path in &own.foreign {
            mask(&own.sys, path, &null).at(Stage::MaskPath, format!("/sys/{path}"))?;
        }
        Ok(Attached {
            proc: own.proc,
            dev: own.dev,
            pts: own.pts,
        })
    }
}

/// Shows `terminal` as `/dev/console`, as OCI runtimes do.
pub(super) fn make_console(attached: &Attached, terminal: &OwnedFd) -> Result<(), SetupError> {
    let subject = "/dev/console";
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let copy = rustix::mount::open_tree(terminal, "", flags).at(Stage::AttachMount, subject)?;
    make_file(&attached.dev, "console")?;
    let point = open_in(&attached.dev, "console").at(Stage::AttachMount, subject)?;
    let point = point.ok_or_else(|| refusal(Stage::AttachMount, subject, "it is gone"))?;
    attach(&copy, &point).at(Stage::AttachMount, subject)
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
    user_namespace: bool,
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
        Mount::Overlay {
            lower,
            upper,
            work,
            target,
        } => Ok((
            Kind::Directory,
            overlay(lower, upper, work, target, user_namespace)?,
        )),
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

/// An overlay whose changes are thrown away with its upper directory.
fn overlay(
    lower: &Path,
    upper: &Path,
    work: &Path,
    target: &Path,
    user_namespace: bool,
) -> Result<OwnedFd, SetupError> {
    let shown = target.display().to_string();
    let open = |path: &Path| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).at(Stage::PrepareMount, path.display())
    };
    // Paths could hold characters that separate options.
    let (lower, upper, work) = (open(lower)?, open(upper)?, open(work)?);
    let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let (lower, upper, work) = (name(&lower), name(&upper), name(&work));
    let mut options = vec![
        ("lowerdir", lower.as_str()),
        ("upperdir", &upper),
        ("workdir", &work),
        ("volatile", ""),
    ];
    if user_namespace {
        options.push(("userxattr", ""));
    }
    filesystem(
        "overlay",
        &options,
        MountAttrFlags::MOUNT_ATTR_NODEV,
        &shown,
    )
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
pub(super) fn open_in(root: &OwnedFd, path: &str) -> rustix::io::Result<Option<OwnedFd>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match rustix::fs::openat2(root.as_fd(), path, flags, Mode::empty(), resolve) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}
