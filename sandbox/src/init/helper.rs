//! The helper process: stands between the parent and pid 1 of the sandbox, outside of the
//! sandbox's namespaces.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{DumpableBehavior, Pid, PidfdFlags, Resource, Rlimit, Signal};
use rustix::thread::UnshareFlags;

use super::channel::{self, send};
use super::report::At as _;
use super::system::{self, Ended, Forked};
use super::{exec, pid1, tidy};
use crate::error::{SetupError, Stage};
use crate::wire::{Order, Prepare, Report};

/// The helper's exit code when it could not do its work.
const FAILED: i32 = 125;

/// Does what the order on standard input says, and ends the process.
pub(super) fn main() -> ! {
    let code = match take_control() {
        Ok(control) => match run(&control) {
            Ok(code) => code,
            Err(error) => {
                send(control.as_fd(), &Report::Setup(error));
                FAILED
            }
        },
        Err(_) => FAILED,
    };
    system::exit(code)
}

/// Takes the socket from standard input and closes whatever else was inherited.
fn take_control() -> rustix::io::Result<OwnedFd> {
    system::close_from(3)?;
    let control = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    rustix::net::sockopt::socket_type(&control)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(control)
}

fn run(control: &OwnedFd) -> Result<i32, SetupError> {
    // Nobody in the sandbox may look into this process or its children; a session of its own
    // keeps the terminal's signals away.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .at(Stage::ReadSpec, "")?;
    let _ = rustix::process::setsid();
    rustix::thread::set_name(c"chalk-sandbox").at(Stage::ReadSpec, "")?;
    rustix::process::chdir("/").at(Stage::ReadSpec, "/")?;
    let limit = rustix::process::getrlimit(Resource::Nofile);
    rustix::process::setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )
    .at(Stage::Limits, "open files")?;

    let Some(frame) = channel::receive::<Order>(control.as_fd())? else {
        return Ok(0);
    };
    match frame.value {
        Order::Prepare(prepare) => keep(control, &prepare),
        Order::Exec(order) => exec::run(control, &order, frame.descriptors),
    }
}

/// Starts pid 1 of a new sandbox and stays until everything in it is gone.
fn keep(control: &OwnedFd, prepare: &Prepare) -> Result<i32, SetupError> {
    let (records, records_writer) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).at(Stage::Streams, "pid 1")?;
    // SAFETY: this process has a single thread and shares no descriptor table.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWPID) }
        .at(Stage::Namespaces, "(pid)")?;
    // Pid 1 must be born with its signals blocked: those that came earlier would be lost.
    system::block_signals();
    let pid = match system::fork().at(Stage::Fork, "pid 1")? {
        Forked::Child => {
            drop(records);
            pid1::main(prepare, control.as_fd(), records_writer)
        }
        Forked::Parent(pid) => pid,
    };
    system::unblock_signals();
    drop(records_writer);

    let (ended, usage, records) = supervise(pid, control, records)?;
    // Every process and mount is gone now, so the directory is the helper's alone.
    tidy::tidy(&records);
    send(control.as_fd(), &usage);
    Ok(ended.shell_code())
}

/// Waits until pid 1, and with it everything in its namespace, is gone. Kills it when the parent
/// wants so or dies; passes signals on to it; collects what it says about mount points.
fn supervise(
    pid: Pid,
    control: &OwnedFd,
    records: OwnedFd,
) -> Result<(Ended, Report, Vec<u8>), SetupError> {
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).at(Stage::Fork, "(pidfd)")?;
    let mut collected = Vec::new();
    let mut records = Some(records);
    // Pid 1 reads its spec from the same socket, and sees the end of it until then; its first
    // line says that the rest is the helper's.
    let mut listening = false;
    let mut open = true;
    loop {
        let mut fds = vec![PollFd::new(&pidfd, PollFlags::IN)];
        if let Some(records) = &records {
            fds.push(PollFd::new(records, PollFlags::IN));
        }
        if listening && open {
            fds.push(PollFd::new(control, PollFlags::IN));
        }
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).at(Stage::Fork, "(poll)"),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if listening && open && ready.last() == Some(&true) {
            open = pass_signals(control.as_fd(), pidfd.as_fd());
        }
        if let Some(pipe) = &records
            && ready[1]
            && !read_some(pipe, &mut collected)
        {
            records = None;
        }
        listening = listening || collected.contains(&b'\n');
        if ready[0] {
            break;
        }
    }
    if let Some(pipe) = &records {
        while read_some(pipe, &mut collected) {}
    }
    let (ended, usage) = system::wait_with_usage(pid).at(Stage::Fork, "(wait)")?;
    Ok((ended, usage, collected))
}

/// Passes on what is in the socket; at its end kills the process and returns false.
pub(super) fn pass_signals(control: BorrowedFd<'_>, pidfd: BorrowedFd<'_>) -> bool {
    let mut signals = [0; 64];
    match rustix::io::read(control, &mut signals) {
        Ok(count @ 1..) => {
            for signal in &signals[..count] {
                if let Some(signal) = Signal::from_named_raw(i32::from(*signal)) {
                    let _ = rustix::process::pidfd_send_signal(pidfd, signal);
                }
            }
            true
        }
        Err(Errno::INTR | Errno::AGAIN) => true,
        Ok(_) | Err(_) => {
            let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
            false
        }
    }
}

/// Reads what is there; false at the end of the pipe.
fn read_some(pipe: &OwnedFd, collected: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 4096];
    match rustix::io::read(pipe, &mut buffer) {
        Ok(0) => false,
        Ok(count) => {
            collected.extend_from_slice(&buffer[..count]);
            true
        }
        Err(errno) => errno == Errno::INTR,
    }
}
