//! Makes a terminal in the sandbox's own `devpts`.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use super::report::{At as _, refusal};
use crate::error::{SetupError, Stage};
use crate::terminal::TerminalSize;

/// `statfs` type of `devpts`.
const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;

/// Both ends of a terminal.
pub(super) struct Pair {
    /// The end that shows and types.
    pub(super) master: OwnedFd,
    /// The end that programs have.
    pub(super) terminal: OwnedFd,
}

/// Makes a terminal of this size; `pts` is the directory of its `devpts`, which may have been
/// tampered with.
pub(super) fn open(pts: BorrowedFd<'_>, size: TerminalSize) -> Result<Pair, SetupError> {
    let subject = "a terminal";
    let stat = rustix::fs::fstatfs(pts).at(Stage::Streams, subject)?;
    if stat.f_type != DEVPTS_SUPER_MAGIC {
        return Err(refusal(Stage::Streams, subject, "/dev/pts is no devpts"));
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let master = rustix::fs::openat2(pts, "ptmx", flags, Mode::empty(), resolve)
        .at(Stage::Streams, subject)?;
    let stat = rustix::fs::fstat(&master).at(Stage::Streams, subject)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice {
        return Err(refusal(Stage::Streams, subject, "ptmx is no device"));
    }
    rustix::pty::unlockpt(&master).at(Stage::Streams, subject)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let terminal = rustix::pty::ioctl_tiocgptpeer(&master, flags).at(Stage::Streams, subject)?;
    let size = Winsize {
        ws_row: size.rows,
        ws_col: size.cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(&master, size).at(Stage::Streams, subject)?;
    Ok(Pair { master, terminal })
}
