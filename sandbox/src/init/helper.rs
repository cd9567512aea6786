//! The helper process: stands between the parent and pid 1 of the sandbox, outside of the
//! sandbox's namespaces.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{DumpableBehavior, Pid, PidfdFlags, Resource, Rlimit, Signal};
use rustix::thread::UnshareFlags;

use super::report::{At as _, refusal, send};
use super::system::{self, Ended, Forked};
use super::{pid1, tidy};
use crate::error::{SetupError, Stage};
use crate::spec::MAX_CONTENTS;
use crate::wire::{Report, Request};

/// Longest request: the greatest contents in base64, and room for the rest of a spec.
const MAX_REQUEST: usize = MAX_CONTENTS / 3 * 4 + (16 << 20);

/// The helper's exit code when it could not do its work.
const FAILED: i32 = 125;

/// Does what the request on standard input says, and ends the process.
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
    let null = open_null()?;
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

    let Some(request) = read_request(control)? else {
        return Ok(0);
    };
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
            pid1::main(&request, control.as_fd(), records_writer)
        }
        Forked::Parent(pid) => pid,
    };
    system::unblock_signals();
    drop(records_writer);
    let null = open_null().at(Stage::Streams, "/dev/null")?;
    rustix::stdio::dup2_stdout(&null).at(Stage::Streams, "standard output")?;
    rustix::stdio::dup2_stderr(&null).at(Stage::Streams, "standard error")?;
    let root = request.spec.root.clone();
    drop(request);

    let (ended, usage, records) = supervise(pid, control, records)?;
    // Every process and mount is gone now, so the directory is the helper's alone.
    tidy::tidy(&root, &records);
    send(control.as_fd(), &usage);
    Ok(match ended {
        Ended::Code(code) => code,
        Ended::Signal(signal) => 128 + signal,
    })
}

/// The request, or `None` when the parent ended before it was whole.
fn read_request(control: &OwnedFd) -> Result<Option<Request>, SetupError> {
    let mut socket = File::from(control.try_clone().at(Stage::ReadSpec, "")?);
    let mut length = [0; 4];
    if let Err(error) = socket.read_exact(&mut length) {
        return ended_early(error);
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_REQUEST {
        return Err(refusal(
            Stage::ReadSpec,
            "",
            format!("{length} bytes, at most {MAX_REQUEST} can be taken"),
        ));
    }
    let mut bytes = vec![0; length];
    if let Err(error) = socket.read_exact(&mut bytes) {
        return ended_early(error);
    }
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| refusal(Stage::ReadSpec, "", error.to_string()))
}

fn ended_early(error: io::Error) -> Result<Option<Request>, SetupError> {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => Ok(None),
        _ => Err(error).at(Stage::ReadSpec, ""),
    }
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
    let mut listening = true;
    loop {
        let mut fds = vec![PollFd::new(&pidfd, PollFlags::IN)];
        if listening {
            fds.push(PollFd::new(control, PollFlags::IN));
        }
        if let Some(records) = &records {
            fds.push(PollFd::new(records, PollFlags::IN));
        }
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).at(Stage::Fork, "(poll)"),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if listening && ready[1] {
            listening = pass_signals(control.as_fd(), pidfd.as_fd());
        }
        if let Some(pipe) = &records
            && ready.last() == Some(&true)
            && ready.len() > 1
            && !read_some(pipe, &mut collected)
        {
            records = None;
        }
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

/// Passes on what is in the socket; at its end kills pid 1 and returns false.
fn pass_signals(control: BorrowedFd<'_>, pidfd: BorrowedFd<'_>) -> bool {
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

fn open_null() -> rustix::io::Result<OwnedFd> {
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}
