//! `mount_setattr(2)`, which `rustix` does not offer: sets flags of a mount that is attached
//! nowhere yet.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Attributes of one mount (not of the filesystem behind it).
#[derive(Clone, Copy, Default)]
pub(crate) struct Attributes {
    pub(crate) read_only: bool,
    pub(crate) no_suid: bool,
    pub(crate) no_dev: bool,
    pub(crate) no_exec: bool,
}

/// Sets `attributes` on the mount whose root `mount` is, and on all mounts below it.
pub(crate) fn set(mount: impl AsFd, attributes: Attributes) -> io::Result<()> {
    let mut flags = 0;
    for (wanted, flag) in [
        (attributes.read_only, libc::MOUNT_ATTR_RDONLY),
        (attributes.no_suid, libc::MOUNT_ATTR_NOSUID),
        (attributes.no_dev, libc::MOUNT_ATTR_NODEV),
        (attributes.no_exec, libc::MOUNT_ATTR_NOEXEC),
    ] {
        if wanted {
            flags |= flag;
        }
    }
    call(mount, libc::AT_RECURSIVE, flags)
}

/// Makes the one mount whose root `mount` is read-only.
pub(crate) fn set_read_only(mount: impl AsFd) -> io::Result<()> {
    call(mount, 0, libc::MOUNT_ATTR_RDONLY)
}

fn call(mount: impl AsFd, recursive: libc::c_int, flags: u64) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: flags,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the path is a NUL-terminated constant and the structure outlives the call, whose
    // last argument is its size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
