//! Files as block devices (`loop(4)`), by the system calls that `mount -o loop` makes, without a
//! process for it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// `LOOP_CTL_GET_FREE`: the number of a device that nobody uses, made where there is none.
const GET_FREE: libc::c_ulong = 0x4C82;
/// `LOOP_CONFIGURE`: ties a device to a file (Linux 5.8).
const CONFIGURE: libc::c_ulong = 0x4C0A;
/// `LO_FLAGS_AUTOCLEAR`: the device lets go of its file when nobody uses it any more.
const AUTOCLEAR: u32 = 4;
/// Others may take a free device first; each try asks for another one.
const TRIES: usize = 64;

/// `struct loop_info64` of `linux/loop.h`.
#[repr(C)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of `linux/loop.h`.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// A device that shows a file. It lets go of the file when this value and all mounts of it are
/// gone.
#[derive(Debug)]
pub(super) struct LoopDevice {
    path: PathBuf,
    _open: File,
}

impl LoopDevice {
    /// Takes a free device for `file`, which is open for reading and writing.
    ///
    /// # Errors
    /// Those of the system: no `/dev/loop-control`, no right to it, a kernel before 5.8.
    pub(super) fn attach(file: &File) -> io::Result<LoopDevice> {
        let open = |path: &Path| {
            let mut options = File::options();
            options.read(true).write(true);
            options.custom_flags(libc::O_CLOEXEC).open(path)
        };
        let control = open(Path::new("/dev/loop-control"))?;
        for _ in 0..TRIES {
            // SAFETY: the request takes no argument and reads no memory of ours.
            let number = unsafe { libc::ioctl(control.as_raw_fd(), GET_FREE as _) };
            if number < 0 {
                return Err(io::Error::last_os_error());
            }
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device = open(&path)?;
            // SAFETY: all fields are numbers, for which zero is a value.
            let mut config: Config = unsafe { std::mem::zeroed() };
            config.fd = file.as_raw_fd().cast_unsigned();
            config.info.flags = AUTOCLEAR;
            // SAFETY: `config` has the layout that the request reads, and lives until it returns.
            let done =
                unsafe { libc::ioctl(device.as_raw_fd(), CONFIGURE as _, &raw const config) };
            if done == 0 {
                return Ok(LoopDevice {
                    path,
                    _open: device,
                });
            }
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::EBUSY) {
                return Err(error);
            }
        }
        Err(io::Error::from_raw_os_error(libc::EBUSY))
    }

    /// Whether an error of [`attach`](Self::attach) means that this host has no loop devices for
    /// us: no driver, none that we may use (in a container), or a kernel before 5.8.
    pub(super) fn is_missing(error: &io::Error) -> bool {
        matches!(
            error.raw_os_error(),
            Some(
                libc::ENOENT
                    | libc::ENODEV
                    | libc::ENXIO
                    | libc::EACCES
                    | libc::EPERM
                    | libc::ENOTTY
                    | libc::EINVAL
                    | libc::ENOSYS
            )
        )
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_that_of_the_kernel() {
        assert_eq!(size_of::<Info>(), 232);
        assert_eq!(size_of::<Config>(), 304);
    }
}
