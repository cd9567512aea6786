//! Pid 1 of the sandbox: sets everything up, starts the command, and reaps.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;
use rustix::process::PidfdFlags;
use rustix::thread::UnshareFlags;
use serde::Serialize;

use super::channel::{self, send, send_with};
use super::command::{self, Command, Program};
use super::filesystems::Filesystems;
use super::mountpoint::Tree;
use super::mounts::{self, Attached};
use super::report::At as _;
use super::streams::Streams;
use super::system::{self, Ended, Forked};
use super::{cgroups, root, terminal};
use crate::error::{SetupError, Stage};
use crate::mount_attributes::{self, Attributes};
use crate::spec::{Network, RunSpec, Seccomp, User};
use crate::users::{self, ResolvedUser};
use crate::wire::{Prepare, Report};

/// First kernel whose `pid_max` belongs to the pid namespace; before, writing it would change the
/// host's.
const PID_MAX_PER_NAMESPACE: (u32, u32) = (6, 14);

/// Prepares a sandbox, takes its spec from the parent and runs it to its end. All signals must be
/// blocked. `records` takes what the helper has to undo.
pub(super) fn main(prepare: &Prepare, control: BorrowedFd<'_>, records: OwnedFd) -> ! {
    let report = match run(prepare, control, records) {
        Ok(Some(ended)) => ended.report(),
        Ok(None) => system::exit(0),
        Err(report) => report,
    };
    send(control, &report);
    system::exit(0)
}

/// How the command ended; `None` when the parent ended before there was one.
fn run(
    prepare: &Prepare,
    control: BorrowedFd<'_>,
    records: OwnedFd,
) -> Result<Option<Ended>, Report> {
    system::die_with_parent(&records)
        .at(Stage::Namespaces, "")
        .map_err(Report::Setup)?;
    let filesystems = get_ready(prepare).map_err(Report::Setup)?;

    let Some(frame) = channel::receive::<RunSpec>(control).map_err(Report::Setup)? else {
        return Ok(None);
    };
    let (spec, mut descriptors) = (frame.value, frame.descriptors);
    let mut records = File::from(records);
    let undo = spec.tidy.then(|| spec.root.clone());
    record(&mut records, &undo).map_err(Report::Setup)?;
    let (tree, attached) = set_up(prepare, &spec, filesystems, records).map_err(Report::Setup)?;
    let mut user = resolve_user(&spec.user, tree.root())?;
    user.groups.extend(&spec.groups);
    let command = prepare_command(prepare, &spec, user, &attached, control, &mut descriptors)
        .map_err(Report::Setup)?;
    drop((tree, attached, descriptors));

    let start = |error| Report::Setup(error);
    let (executed, executed_writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
        .at(Stage::Streams, "the command")
        .map_err(start)?;
    let pid = match system::fork().at(Stage::Fork, "").map_err(start)? {
        Forked::Child => {
            drop(executed);
            let report = if spec.idle {
                command.idle()
            } else {
                command.start(None)
            };
            send(control, &report);
            system::exit(125)
        }
        Forked::Parent(pid) => pid.as_raw_pid(),
    };
    // Only processes of the command hold the output streams from here on.
    drop((command, executed_writer));
    if system::closed(&executed) {
        let own = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty());
        let own = own.at(Stage::Fork, "(pidfd)").map_err(start)?;
        send_with(control, &Report::Started, Some(own.as_fd()));
    }
    let ended = reap_until(pid);
    system::kill(-1, libc::SIGKILL);
    while system::reap(true).is_some() {}
    Ok(Some(ended))
}

/// All that needs no spec: control groups (joining the first costs milliseconds, in which the
/// kernel waits for all processors), namespaces, filesystems.
fn get_ready(prepare: &Prepare) -> Result<Filesystems, SetupError> {
    cgroups::join(&cgroups::open(&prepare.cgroups)?)?;
    // The groups that were joined become the top of what is seen inside.
    let namespaces = UnshareFlags::NEWIPC | UnshareFlags::NEWUTS | UnshareFlags::NEWCGROUP;
    // SAFETY: this process has a single thread and shares no descriptor table.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }.at(Stage::Namespaces, "")?;
    // Keys of the service's session are none of the command's.
    system::new_session_keyring();
    rustix::process::umask(Mode::empty());
    Filesystems::make(prepare.user_namespace)
}

/// Root, mounts, names. Tells the helper through `records` what it has to undo.
fn set_up(
    prepare: &Prepare,
    spec: &RunSpec,
    mut filesystems: Filesystems,
    mut records: File,
) -> Result<(Tree, Attached), SetupError> {
    let mut namespaces = UnshareFlags::NEWNS;
    if spec.network == Network::None {
        namespaces |= UnshareFlags::NEWNET;
    }
    // SAFETY: this process has a single thread and shares no descriptor table.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }.at(Stage::Namespaces, "")?;
    if spec.network == Network::None {
        filesystems.renew_sys()?;
    }

    let mounted = root::mount(&spec.root, prepare.user_namespace)?;
    let prepared = mounts::prepare(filesystems, spec, &mounted.scratch, prepare.user_namespace)?;
    root::change_to(mounted.root.as_fd())?;
    drop(mounted.scratch);
    let mut tree = Tree::new(mounted.root, mounted.upper).at(Stage::PivotRoot, "/")?;
    let attached = prepared.attach(&mut tree);
    // What was made must be undone also when a later mount failed.
    record(&mut records, &tree.record)?;
    drop(records);
    let attached = attached?;
    limit_processes(spec.max_processes, &attached)?;
    if spec.own_abstract_sockets {
        system::scope_abstract_sockets();
    }
    mounts::protect_proc(&attached)?;
    tree.directory(&spec.cwd)?;
    if spec.read_only_root {
        let attributes = Attributes {
            read_only: true,
            no_dev: true,
            ..Attributes::default()
        };
        mount_attributes::set(tree.root(), attributes).at(Stage::MaskPath, "/")?;
    }
    rustix::system::sethostname(spec.hostname.as_bytes()).at(Stage::Identity, "the host name")?;
    if spec.network == Network::None {
        let socket = rustix::net::socket_with(
            AddressFamily::INET,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .at(Stage::Identity, "lo")?;
        system::loopback_up(socket.as_fd()).at(Stage::Identity, "lo up")?;
    }
    Ok((tree, attached))
}

/// Writes a line for the helper.
fn record(records: &mut File, value: &impl Serialize) -> Result<(), SetupError> {
    serde_json::to_vec(value)
        .map_err(std::io::Error::from)
        .and_then(|mut line| {
            line.push(b'\n');
            records.write_all(&line)
        })
        .at(Stage::AttachMount, "(records)")
}

fn limit_processes(most: u32, attached: &mounts::Attached) -> Result<(), SetupError> {
    if kernel_version() < PID_MAX_PER_NAMESPACE {
        return Ok(());
    }
    let write = || -> std::io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&attached.proc, "sys/kernel/pid_max", flags, Mode::empty())?;
        File::from(file).write_all(most.to_string().as_bytes())
    };
    write().at(Stage::Limits, "processes")
}

fn kernel_version() -> (u32, u32) {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

pub(super) fn resolve_user(user: &User, root: BorrowedFd<'_>) -> Result<ResolvedUser, Report> {
    match user {
        User::Named(spec) => users::resolve_at(spec, root).map_err(|error| Report::User {
            spec: spec.clone(),
            reason: describe(&error),
        }),
        User::Ids { uid, gid, groups } => {
            let home = users::resolve_at(&uid.to_string(), root)
                .map(|user| user.home)
                .unwrap_or_else(|_| "/".to_owned());
            Ok(ResolvedUser {
                uid: *uid,
                gid: *gid,
                groups: groups.clone(),
                home,
            })
        }
    }
}

fn describe(error: &users::UserError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn prepare_command(
    prepare: &Prepare,
    spec: &RunSpec,
    user: ResolvedUser,
    attached: &Attached,
    control: BorrowedFd<'_>,
    descriptors: &mut VecDeque<OwnedFd>,
) -> Result<Command, SetupError> {
    let streams = if let Some(size) = spec.terminal {
        let pair = terminal::open(attached.pts.as_fd(), size)?;
        mounts::make_console(attached, &pair.terminal)?;
        send_with(control, &Report::Terminal, Some(pair.master.as_fd()));
        Streams::of_terminal(pair.terminal)
    } else {
        Streams::receive(&spec.stdin, descriptors)?
    };
    streams.give_to(&user)?;
    let filters = match spec.seccomp {
        Seccomp::Default => prepare.filters.as_slice(),
        Seccomp::Unconfined => &[],
    };
    let program = Program {
        args: &spec.args,
        env: &spec.env,
        cwd: &spec.cwd,
        capabilities: spec.capabilities,
    };
    command::prepare(&program, filters, user, streams, &attached.proc)
}

/// Takes ended processes until the command is among them; passes signals of the outside on.
fn reap_until(command: i32) -> Ended {
    loop {
        if let Some(received) = system::wait_for_signal()
            && received.signal != libc::SIGCHLD
        {
            // Those of processes inside are theirs to pid 1, which has no use for them.
            if received.from_outside {
                system::kill(command, received.signal);
            }
            continue;
        }
        while let Some((pid, ended)) = system::reap(false) {
            if pid == command {
                return ended;
            }
        }
    }
}
