//! System calls that `rustix` does not offer in a form that can be used here. The processes that
//! call these have a single thread.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::ptr;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal};

use crate::wire::Report;

/// Which side of a fork this is.
pub(crate) enum Forked {
    Parent(Pid),
    Child,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Code(i32),
    Signal(i32),
}

impl Ended {
    /// What the parent is told.
    pub(super) fn report(self) -> Report {
        match self {
            Ended::Code(code) => Report::Exited { code },
            Ended::Signal(signal) => Report::Signalled { signal },
        }
    }

    /// The code of a shell.
    pub(super) fn shell_code(self) -> i32 {
        match self {
            Ended::Code(code) => code,
            Ended::Signal(signal) => 128 + signal,
        }
    }
}

/// A signal that was waited for.
pub(super) struct Received {
    pub(super) signal: i32,
    /// Whether it came from outside of this pid namespace.
    pub(super) from_outside: bool,
}

/// `fork(2)`.
pub(crate) fn fork() -> io::Result<Forked> {
    // SAFETY: this process has a single thread, so the child's memory is consistent.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => Pid::from_raw(pid)
            .map(Forked::Parent)
            .ok_or_else(|| io::Error::other("no pid")),
    }
}

/// Ends the process without running anything else of the program it was made from.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Sleeps until a signal comes.
pub(super) fn pause() {
    // SAFETY: `pause` has no preconditions.
    unsafe { libc::pause() };
}

/// Closes every descriptor from `first` on.
pub(super) fn close_from(first: u32) -> rustix::io::Result<()> {
    close_range(first, 0)
}

/// Has every descriptor from `first` on closed by the next `execve`.
pub(super) fn close_from_on_exec(first: u32) -> rustix::io::Result<()> {
    close_range(first, libc::CLOSE_RANGE_CLOEXEC)
}

fn close_range(first: u32, flags: libc::c_uint) -> rustix::io::Result<()> {
    // SAFETY: the callers own no descriptors in the range that they use afterwards.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, flags) };
    if result == 0 {
        Ok(())
    } else {
        Err(last_errno())
    }
}

/// Waits until every writer of `pipe` has closed it without having written; false if one wrote.
pub(super) fn closed(pipe: &OwnedFd) -> bool {
    let mut byte = [0];
    matches!(
        rustix::io::retry_on_intr(|| rustix::io::read(pipe, &mut byte)),
        Ok(0)
    )
}

/// Has the kernel kill this process when its parent dies, which holds the reading end of `pipe`
/// and may have died already.
pub(super) fn die_with_parent(pipe: &OwnedFd) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let mut fds = [PollFd::new(pipe, PollFlags::empty())];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut fds, Some(&now))?;
    if fds[0].revents().contains(PollFlags::ERR) {
        exit(0);
    }
    Ok(())
}

/// Waits for `pid`, and tells what it and all its descendants that were waited for used.
pub(super) fn wait_with_usage(pid: Pid) -> io::Result<(Ended, Report)> {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    loop {
        // SAFETY: both pointers are valid for writes during the call.
        let result =
            unsafe { libc::wait4(pid.as_raw_pid(), &raw mut status, 0, usage.as_mut_ptr()) };
        if result == pid.as_raw_pid() {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    // SAFETY: the structure was zeroed, which is a valid value, and filled by the kernel.
    let usage = unsafe { usage.assume_init() };
    let micros = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
    let report = Report::Gone {
        user_us: micros(usage.ru_utime),
        system_us: micros(usage.ru_stime),
        max_rss_bytes: usage.ru_maxrss as u64 * 1024,
    };
    Ok((ended(status), report))
}

/// Takes one ended child; `None` when there is none (or, with `block`, no child at all).
pub(super) fn reap(block: bool) -> Option<(i32, Ended)> {
    loop {
        let mut status = 0;
        let options = if block { 0 } else { libc::WNOHANG };
        // SAFETY: the pointer is valid for writes during the call.
        match unsafe { libc::waitpid(-1, &raw mut status, options) } {
            pid @ 1.. => return Some((pid, ended(status))),
            0 => return None,
            _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            _ => return None,
        }
    }
}

fn ended(status: i32) -> Ended {
    if libc::WIFEXITED(status) {
        Ended::Code(libc::WEXITSTATUS(status))
    } else {
        Ended::Signal(libc::WTERMSIG(status))
    }
}

/// Blocks all signals, so that [`wait_for_signal`] gets them.
pub(super) fn block_signals() {
    // SAFETY: the set is initialised by `sigfillset` before it is used.
    unsafe {
        let mut all = MaybeUninit::<libc::sigset_t>::zeroed();
        libc::sigfillset(all.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, all.as_ptr(), ptr::null_mut());
    }
}

/// Blocks no signal.
pub(super) fn unblock_signals() {
    // SAFETY: the set is initialised by `sigemptyset` before it is used.
    unsafe {
        let mut none = MaybeUninit::<libc::sigset_t>::zeroed();
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
    }
}

/// Leaves the session keyring for a new one. Kernels without keyrings have none to leave.
pub(super) fn new_session_keyring() {
    // SAFETY: this operation of `keyctl` takes a name, or null for a keyring without one.
    unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            libc::KEYCTL_JOIN_SESSION_KEYRING,
            ptr::null::<u8>(),
        );
    }
}

/// Closes abstract Unix sockets that others made to this process and those that it starts, by a
/// Landlock domain that forbids nothing else. Needs CAP_SYS_ADMIN; kernels without it ignore this.
pub(super) fn scope_abstract_sockets() {
    /// `struct landlock_ruleset_attr` of ABI 6.
    #[repr(C)]
    struct Ruleset {
        handled_access_fs: u64,
        handled_access_net: u64,
        scoped: u64,
    }
    const ABSTRACT_UNIX_SOCKET: u64 = 1;
    let rules = Ruleset {
        handled_access_fs: 0,
        handled_access_net: 0,
        scoped: ABSTRACT_UNIX_SOCKET,
    };
    let size = size_of::<Ruleset>();
    // SAFETY: the kernel reads `size` bytes of a structure that outlives the call.
    let ruleset =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &raw const rules, size, 0) };
    let Ok(ruleset) = i32::try_from(ruleset) else {
        return;
    };
    if ruleset < 0 {
        return;
    }
    // SAFETY: the descriptor was made just now and is nobody else's.
    unsafe {
        libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0);
        libc::close(ruleset);
    }
}

/// Waits for the next signal; all must be blocked.
pub(super) fn wait_for_signal() -> Option<Received> {
    // SAFETY: set and structure are initialised (zeroed is valid for both) and outlive the calls;
    // `si_pid` is a plain integer in every form of the structure.
    unsafe {
        let mut all = MaybeUninit::<libc::sigset_t>::zeroed();
        libc::sigfillset(all.as_mut_ptr());
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        match libc::sigwaitinfo(all.as_ptr(), info.as_mut_ptr()) {
            signal @ 1.. => Some(Received {
                signal,
                from_outside: info.assume_init().si_pid() == 0,
            }),
            _ => None,
        }
    }
}

/// Gives every signal its default action and blocks none: the command's start.
pub(super) fn reset_signals() {
    // `struct sigaction` of the kernel, which is no greater on any processor: all zero says
    // default action, no flags, empty mask. The C library's own call spares the signals that it
    // keeps for itself, which may have been inherited as ignored.
    let default_action = [0_u64; 8];
    let signal_set_size = size_of::<u64>();
    // SAFETY: the structure outlives the calls, which only read it; signals whose action cannot
    // be set are refused by the kernel without effect.
    unsafe {
        for signal in 1..=libc::SIGRTMAX() {
            let none = ptr::null_mut::<u64>();
            let action = default_action.as_ptr();
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                action,
                none,
                signal_set_size,
            );
        }
    }
    unblock_signals();
}

/// Sends `signal` to `pid`, or to everyone in the namespace but the caller for -1.
pub(super) fn kill(pid: i32, signal: i32) {
    // SAFETY: `kill` has no memory preconditions.
    unsafe { libc::kill(pid, signal) };
}

/// Takes `capability` out of the bounding set; `Ok(false)` when the kernel knows no such one.
pub(super) fn drop_from_bounding_set(capability: u32) -> io::Result<bool> {
    // SAFETY: this operation of `prctl` takes a number only.
    if unsafe {
        libc::prctl(
            libc::PR_CAPBSET_DROP,
            libc::c_ulong::from(capability),
            0,
            0,
            0,
        )
    } == 0
    {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::EINVAL) {
        Ok(false)
    } else {
        Err(error)
    }
}

/// Loads a filter, an array of `struct sock_filter`. Needs `CAP_SYS_ADMIN`, since
/// `no_new_privs` must stay unset for set-user-id programs to work.
pub(super) fn load_filter(program: &[u8]) -> io::Result<()> {
    let filters: Vec<libc::sock_filter> = program
        .chunks_exact(8)
        .map(|op| libc::sock_filter {
            code: u16::from_ne_bytes([op[0], op[1]]),
            jt: op[2],
            jf: op[3],
            k: u32::from_ne_bytes([op[4], op[5], op[6], op[7]]),
        })
        .collect();
    let len = u16::try_from(filters.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog {
        len,
        filter: filters.as_ptr().cast_mut(),
    };
    // SAFETY: the program points to `len` instructions that outlive the call; the kernel copies
    // and checks them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// `execve(2)`; returns only when it fails.
pub(super) fn execve(
    path: &CStr,
    args: &[*const libc::c_char],
    env: &[*const libc::c_char],
) -> i32 {
    debug_assert!(args.last().is_some_and(|last| last.is_null()));
    debug_assert!(env.last().is_some_and(|last| last.is_null()));
    // SAFETY: the callers pass arrays of pointers to live NUL-terminated strings, each closed by
    // a null pointer.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    last_errno().raw_os_error()
}

/// Brings `lo` up in the network namespace of this process.
pub(super) fn loopback_up(socket: std::os::fd::BorrowedFd<'_>) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;
    // SAFETY: zeroed is a valid value of the structure; the name is shorter than its field; the
    // structure outlives both calls, which read and write it as `SIOC?IFFLAGS` say.
    unsafe {
        let mut request: libc::ifreq = MaybeUninit::zeroed().assume_init();
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
            *to = *from as libc::c_char;
        }
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) != 0 {
            return Err(io::Error::last_os_error());
        }
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn last_errno() -> rustix::io::Errno {
    let errno = io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(libc::EIO);
    rustix::io::Errno::from_raw_os_error(errno)
}
