//! `mount_setattr(2)`, which `rustix` does not offer: sets flags of mounts, also of such that are
//! attached nowhere yet.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Attributes of a mount (not of the filesystem behind it).
#[derive(Clone, Copy, Default)]
pub(crate) struct Attributes {
    pub(crate) read_only: bool,
    pub(crate) no_suid: bool,
    pub(crate) no_dev: bool,
}

/// Sets `attributes` on the mount whose root `mount` is and on all mounts below it, and makes
/// them private: what happens to their originals does not reach them, nor the other way round.
pub(crate) fn set_tree(mount: impl AsFd, attributes: Attributes) -> io::Result<()> {
    call(
        mount,
        libc::AT_RECURSIVE,
        flags(attributes),
        libc::MS_PRIVATE,
    )
}

/// Sets `attributes` on the one mount whose root `mount` is.
pub(crate) fn set(mount: impl AsFd, attributes: Attributes) -> io::Result<()> {
    call(mount, 0, flags(attributes), 0)
}

fn flags(attributes: Attributes) -> u64 {
    [
        (attributes.read_only, libc::MOUNT_ATTR_RDONLY),
        (attributes.no_suid, libc::MOUNT_ATTR_NOSUID),
        (attributes.no_dev, libc::MOUNT_ATTR_NODEV),
    ]
    .into_iter()
    .filter_map(|(wanted, flag)| wanted.then_some(flag))
    .fold(0, |all, flag| all | flag)
}

fn call(
    mount: impl AsFd,
    recursive: libc::c_int,
    attr_set: u64,
    propagation: libc::c_ulong,
) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set,
        attr_clr: 0,
        propagation,
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
