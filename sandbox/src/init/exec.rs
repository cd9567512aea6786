//! A further command in a running sandbox.
//!
//! The helper enters the sandbox's namespaces by the descriptor of its pid 1 (never by a path of
//! somebody's `/proc`) and forks the command, which thereby is born inside. Until it executes its
//! program it may not be looked into from inside: it is not dumpable, and holds nothing of the
//! host but descriptors that are closed on execution.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, PidfdFlags, Signal};
use rustix::thread::ThreadNameSpaceType;

use super::channel::{descriptor, send, send_with};
use super::command::{self, Program};
use super::report::At as _;
use super::streams::Streams;
use super::system::{self, Ended, Forked};
use super::{cgroups, helper, pid1, terminal};
use crate::error::{SetupError, Stage};
use crate::spec::Seccomp;
use crate::wire::{Exec, Report};

/// Runs the command to its end.
pub(super) fn run(
    control: &OwnedFd,
    order: &Exec,
    mut descriptors: VecDeque<OwnedFd>,
) -> Result<i32, SetupError> {
    let spec = &order.spec;
    // What belongs to the host is opened while this process is still there.
    let groups = cgroups::open(&order.cgroups)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let host_proc = rustix::fs::open("/proc", flags, Mode::empty()).at(Stage::Limits, "memory")?;
    let sandbox = descriptor(&mut descriptors, "pid 1")?;
    rustix::thread::move_into_thread_name_spaces(
        sandbox.as_fd(),
        ThreadNameSpaceType::MOUNT
            | ThreadNameSpaceType::PROCESS_ID
            | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
            | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
            | ThreadNameSpaceType::NETWORK
            | ThreadNameSpaceType::CONTROL_GROUP,
    )
    .at(Stage::Namespaces, "of the sandbox")?;
    drop(sandbox);
    rustix::process::chdir("/").at(Stage::Namespaces, "/")?;
    system::new_session_keyring();
    let root = rustix::fs::open("/", flags, Mode::empty()).at(Stage::Namespaces, "/")?;
    let user = match pid1::resolve_user(&spec.user, root.as_fd()) {
        Ok(user) => user,
        Err(report) => {
            send(control.as_fd(), &report);
            return Ok(0);
        }
    };
    let streams = if let Some(size) = spec.terminal {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::IN_ROOT;
        let pts = rustix::fs::openat2(&root, "dev/pts", flags, Mode::empty(), resolve)
            .at(Stage::Streams, "/dev/pts")?;
        let terminal = terminal::open(pts.as_fd(), size)?;
        send_with(
            control.as_fd(),
            &Report::Terminal,
            Some(terminal.master.as_fd()),
        );
        Streams::of_terminal(terminal.terminal)
    } else {
        Streams::receive(&spec.stdin, &mut descriptors)?
    };
    streams.give_to(&user)?;
    let filters = match spec.seccomp {
        Seccomp::Default => order.filters.as_slice(),
        Seccomp::Unconfined => &[],
    };
    let program = Program {
        args: &spec.args,
        env: &spec.env,
        cwd: &spec.cwd,
        capabilities: spec.capabilities,
    };
    let command = command::prepare(&program, filters, user, streams, &host_proc)?;
    drop(root);

    let (executed, executed_writer) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).at(Stage::Streams, "the command")?;
    let pid = match system::fork().at(Stage::Fork, "")? {
        Forked::Child => {
            drop(executed);
            let mut executed_writer = Some(executed_writer);
            // Its pid is that of the sandbox's namespace; the control groups are the host's.
            let report = match (cgroups::join(&groups), &order.file) {
                (Err(error), _) => Report::Setup(error),
                (Ok(()), None) => command.start(executed_writer.as_ref()),
                (Ok(()), Some(work)) => match command.work_on_file(work, &mut executed_writer) {
                    Ok(()) => system::exit(0),
                    Err(report) => report,
                },
            };
            send(control.as_fd(), &report);
            system::exit(125)
        }
        Forked::Parent(pid) => pid,
    };
    drop((command, executed_writer, groups));
    if system::closed(&executed) {
        send(control.as_fd(), &Report::Started);
    }
    let (ended, usage) = supervise(pid, control)?;
    send(control.as_fd(), &ended.report());
    send(control.as_fd(), &usage);
    Ok(ended.shell_code())
}

/// Waits for the end of the command; passes signals on to it, and kills it and its process group
/// when the parent wants so or dies.
fn supervise(pid: Pid, control: &OwnedFd) -> Result<(Ended, Report), SetupError> {
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).at(Stage::Fork, "(pidfd)")?;
    let mut open = true;
    loop {
        let mut fds = vec![PollFd::new(&pidfd, PollFlags::IN)];
        if open {
            fds.push(PollFd::new(control, PollFlags::IN));
        }
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).at(Stage::Fork, "(poll)"),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready.get(1) == Some(&true) {
            open = helper::pass_signals(control.as_fd(), pidfd.as_fd());
            if !open {
                // Not reaped yet, so the number is still that of its group.
                let _ = rustix::process::kill_process_group(pid, Signal::KILL);
            }
        }
        if ready[0] {
            return system::wait_with_usage(pid).at(Stage::Fork, "(wait)");
        }
    }
}
