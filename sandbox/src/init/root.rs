//! Mounts the root of a run, and changes into it.
//!
//! All this happens in the private mount namespace of the run. A scratch filesystem in memory is
//! put over the writable directory of the root; in it the root is mounted, and after the change
//! of the root it goes away with everything else of the host.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

use super::filesystems::filesystem;
use super::mounts::attach;
use super::report::{At as _, failure};
use crate::error::{SetupError, Stage};
use crate::mount_attributes::{self, Attributes};
use crate::spec::Root;

/// Longest option string that `mount(2)` takes, a page less its NUL.
const MAX_OPTIONS: usize = 4095;

/// A mounted root that is not `/` yet.
pub(super) struct MountedRoot {
    /// The scratch filesystem; attached, on the host's side of the change.
    pub(super) scratch: OwnedFd,
    /// The top of the root.
    pub(super) root: OwnedFd,
    /// The upper directory of an overlay, as it is on the host.
    pub(super) upper: Option<OwnedFd>,
}

/// Mounts the root of `spec`, in a user namespace or as root of the machine.
pub(super) fn mount(spec: &Root, user_namespace: bool) -> Result<MountedRoot, SetupError> {
    // Whatever is mounted from here on stays in this namespace; what the host unmounts goes.
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )
    .at(Stage::MountRoot, "/")?;
    let scratch = filesystem(
        "tmpfs",
        &[("mode", "0700")],
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV,
        "(scratch)",
    )?;
    match spec {
        Root::Plain(path) => {
            let tree = rustix::mount::open_tree(
                CWD,
                path,
                OpenTreeFlags::OPEN_TREE_CLONE
                    | OpenTreeFlags::OPEN_TREE_CLOEXEC
                    | OpenTreeFlags::AT_RECURSIVE,
            )
            .at(Stage::MountRoot, path.display())?;
            let attributes = Attributes {
                no_dev: true,
                ..Attributes::default()
            };
            mount_attributes::set_tree(&tree, attributes).at(Stage::MountRoot, path.display())?;
            put_over(&scratch, &directory(path)?, path)?;
            let point = make_directory(scratch.as_fd(), "root")?;
            attach(&tree, &point).at(Stage::MountRoot, path.display())?;
            Ok(MountedRoot {
                scratch,
                root: tree,
                upper: None,
            })
        }
        Root::Overlay {
            lower,
            upper,
            work,
            volatile,
        } => {
            let upper_fd = directory(upper)?;
            // Directories are named by short links in the scratch filesystem: so 500 of them fit
            // into one page of options whatever their paths are, and no character of a path can
            // be taken for a separator.
            let work_fd = directory(work)?;
            put_over(&scratch, &upper_fd, upper)?;
            let mut options = "lowerdir=".to_owned();
            for (number, path) in lower.iter().enumerate() {
                link(path, &scratch, &number.to_string())?;
                if number > 0 {
                    options.push(':');
                }
                options.push_str(&number.to_string());
            }
            link(&own_descriptor(&upper_fd), &scratch, "upper")?;
            link(&own_descriptor(&work_fd), &scratch, "work")?;
            // Layers are packed from the upper directory, so it must hold whole files under
            // their own names: no redirects, no metadata-only copies. An index would tie the
            // lower directories to this mount.
            options.push_str(
                ",upperdir=upper,workdir=work,index=off,redirect_dir=nofollow,metacopy=off",
            );
            if user_namespace {
                options.push_str(",userxattr");
            }
            if *volatile {
                options.push_str(",volatile");
            }
            debug_assert!(options.len() <= MAX_OPTIONS);
            make_directory(scratch.as_fd(), "root")?;
            rustix::process::fchdir(&scratch).at(Stage::MountRoot, "(scratch)")?;
            let options = std::ffi::CString::new(options)
                .map_err(|error| failure(Stage::MountRoot, "(options)", &error.into()))?;
            rustix::mount::mount("overlay", "root", "overlay", MountFlags::NODEV, &*options)
                .map_err(|errno| explain(errno, lower, upper))?;
            let root = open_directory(scratch.as_fd(), Path::new("root"))
                .at(Stage::MountRoot, upper.display())?;
            let upper = reopen_for_reading(&upper_fd).at(Stage::MountRoot, upper.display())?;
            Ok(MountedRoot {
                scratch,
                root,
                upper: Some(upper),
            })
        }
    }
}

/// Makes `root` the root of this process and of its namespace, and lets go of the host's tree.
pub(super) fn change_to(root: BorrowedFd<'_>) -> Result<(), SetupError> {
    let host = open_directory(CWD, Path::new("/")).at(Stage::PivotRoot, "")?;
    rustix::process::fchdir(root).at(Stage::PivotRoot, "")?;
    // The old root comes to lie over the new one, so no directory for it is needed.
    rustix::process::pivot_root(".", ".").at(Stage::PivotRoot, "")?;
    rustix::process::fchdir(&host).at(Stage::PivotRoot, "")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).at(Stage::PivotRoot, "")?;
    rustix::process::chdir("/").at(Stage::PivotRoot, "")
}

/// Makes a directory and opens it.
pub(super) fn make_directory(parent: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, SetupError> {
    rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)).at(Stage::MountRoot, name)?;
    open_directory(parent, Path::new(name)).at(Stage::MountRoot, name)
}

fn directory(path: &Path) -> Result<OwnedFd, SetupError> {
    open_directory(CWD, path).at(Stage::MountRoot, path.display())
}

fn open_directory(parent: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(parent, path, flags, Mode::empty())
}

fn reopen_for_reading(directory: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(directory, c".", flags, Mode::empty())
}

fn own_descriptor(fd: &OwnedFd) -> std::path::PathBuf {
    use std::os::fd::AsRawFd as _;
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

fn put_over(scratch: &OwnedFd, point: &OwnedFd, path: &Path) -> Result<(), SetupError> {
    rustix::mount::move_mount(
        scratch,
        "",
        point,
        "",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )
    .at(Stage::MountRoot, path.display())
}

fn link(to: &Path, directory: &OwnedFd, name: &str) -> Result<(), SetupError> {
    rustix::fs::symlinkat(to, directory, name).at(Stage::MountRoot, to.display())
}

/// The kernel gives one number for all that can be wrong with an overlay.
fn explain(errno: rustix::io::Errno, lower: &[std::path::PathBuf], upper: &Path) -> SetupError {
    for path in lower {
        if let Err(error) = directory(path) {
            return error;
        }
    }
    let mut error = failure(Stage::MountRoot, upper.display(), &errno.into());
    if errno == rustix::io::Errno::INVAL {
        error.detail = "overlayfs does not take these directories: upper and work must lie on one \
                        filesystem that is no overlay itself (in a container, put the state \
                        directory on a volume), and not have been cut off by a crash in a volatile run (then \
                        throw both away); the kernel's log says more"
            .to_owned();
    }
    error
}
