//! Pid 1 of the sandbox: sets everything up, starts the command, and reaps.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::Signal;
use rustix::thread::UnshareFlags;

use super::command::{self, Command};
use super::mountpoint::Tree;
use super::report::{At as _, send};
use super::system::{self, Ended, Forked};
use super::{mounts, root};
use crate::error::{SetupError, Stage};
use crate::mount_attributes::{self, Attributes};
use crate::spec::{Network, RunSpec, Stdin, User};
use crate::users::{self, ResolvedUser};
use crate::wire::{Report, Request};

/// First kernel whose `pid_max` belongs to the pid namespace; before, writing it would change the
/// host's.
const PID_MAX_PER_NAMESPACE: (u32, u32) = (6, 14);

/// Runs the request to its end. All signals must be blocked. `records` takes what the helper has to undo.
pub(super) fn main(request: &Request, control: BorrowedFd<'_>, records: OwnedFd) -> ! {
    let report = match run(request, control, records) {
        Ok(Ended::Code(code)) => Report::Exited { code },
        Ok(Ended::Signal(signal)) => Report::Signalled { signal },
        Err(report) => report,
    };
    send(control, &report);
    system::exit(0)
}

fn run(request: &Request, control: BorrowedFd<'_>, records: OwnedFd) -> Result<Ended, Report> {
    let spec = &request.spec;
    die_with_helper(&records).map_err(Report::Setup)?;
    let tree = set_up(spec, records).map_err(Report::Setup)?;
    let user = resolve_user(&spec.user, &tree)?;
    let command = prepare(request, user).map_err(Report::Setup)?;
    drop(tree);
    let pid = match system::fork().at(Stage::Fork, "").map_err(Report::Setup)? {
        Forked::Child => {
            let report = command.start();
            send(control, &report);
            system::exit(125)
        }
        Forked::Parent(pid) => pid.as_raw_pid(),
    };
    drop(command);
    // Only processes of the command hold the output streams from here on.
    if let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
    let ended = reap_until(pid);
    system::kill(-1, libc::SIGKILL);
    while system::reap(true).is_some() {}
    Ok(ended)
}

/// Has the kernel kill this process when the helper dies, which may have happened already.
fn die_with_helper(records: &OwnedFd) -> Result<(), SetupError> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .at(Stage::Namespaces, "")?;
    let mut fds = [PollFd::new(records, PollFlags::empty())];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut fds, Some(&now)).at(Stage::Namespaces, "")?;
    if fds[0].revents().contains(PollFlags::ERR) {
        system::exit(0);
    }
    Ok(())
}

/// Namespaces, root, mounts, names. Tells the helper through `records` what it has to undo.
fn set_up(spec: &RunSpec, records: OwnedFd) -> Result<Tree, SetupError> {
    let mut namespaces =
        UnshareFlags::NEWNS | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS | UnshareFlags::NEWCGROUP;
    if spec.network == Network::None {
        namespaces |= UnshareFlags::NEWNET;
    }
    // SAFETY: this process has a single thread and shares no descriptor table.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }.at(Stage::Namespaces, "")?;
    // Keys of the service's session are none of the command's.
    system::new_session_keyring();
    rustix::process::umask(Mode::empty());

    let mounted = root::mount(&spec.root)?;
    let prepared = mounts::prepare(&spec.mounts, &mounted.scratch)?;
    root::change_to(mounted.root.as_fd())?;
    drop(mounted.scratch);
    let mut tree = Tree::new(mounted.root, mounted.upper).at(Stage::PivotRoot, "/")?;
    let attached = prepared.attach(&mut tree);
    // What was made must be undone also when a later mount failed.
    let written = serde_json::to_vec(&tree.record).map_err(std::io::Error::from);
    written
        .and_then(|bytes| File::from(records).write_all(&bytes))
        .at(Stage::AttachMount, "(records)")?;
    let attached = attached?;
    limit_processes(spec.max_processes, &attached)?;
    mounts::protect_proc(&attached)?;
    tree.directory(&spec.cwd)?;
    if spec.read_only_root {
        let attributes = Attributes {
            read_only: true,
            no_dev: true,
            no_suid: false,
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
    Ok(tree)
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

fn resolve_user(user: &User, tree: &Tree) -> Result<ResolvedUser, Report> {
    match user {
        User::Named(spec) => users::resolve_at(spec, tree.root()).map_err(|error| Report::User {
            spec: spec.clone(),
            reason: describe(&error),
        }),
        User::Ids { uid, gid, groups } => {
            let home = users::resolve_at(&uid.to_string(), tree.root())
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

fn prepare(request: &Request, user: ResolvedUser) -> Result<Command, SetupError> {
    let spec = &request.spec;
    let stdin = match &spec.stdin {
        Stdin::Null => {
            rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .at(Stage::Streams, "standard input")?
        }
        Stdin::Bytes(contents) => memory_file(&contents.0).at(Stage::Streams, "standard input")?,
    };
    // Processes of another user may open /dev/stdout and /dev/stderr anew.
    for stream in [rustix::stdio::stdout(), rustix::stdio::stderr()] {
        let uid = rustix::fs::Uid::from_raw(user.uid);
        let gid = rustix::fs::Gid::from_raw(user.gid);
        rustix::fs::fchown(stream, Some(uid), Some(gid)).at(Stage::Streams, "output")?;
    }
    command::prepare(spec, &request.filters, user, stdin)
}

/// An unchangeable file in memory with these contents, at its start.
fn memory_file(contents: &[u8]) -> std::io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(rustix::fs::memfd_create("stdin", flags)?);
    file.write_all(contents)?;
    rustix::fs::fcntl_add_seals(
        &file,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )?;
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
    Ok(file.into())
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
