//! Helper processes: starting them, ahead of time if need be.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::OnceLock;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use crate::control::Control;
use crate::error::SandboxError;
use crate::init::HELPER_NAME;
use crate::mount_attributes::{self, Attributes};
use crate::run::Running;
use crate::seccomp;
use crate::spec::RunSpec;
use crate::userns::{self, Standing};
use crate::wire::{Order, Prepare};

/// The program of this process.
const EXECUTABLE: &str = "/proc/self/exe";

/// A sandbox with nothing in it yet: its helper runs, its pid 1 has joined control groups and made
/// namespaces and filesystems. To keep one at hand takes about two thirds of the time out of a
/// start. Dropping it ends it.
#[derive(Debug)]
pub struct Spare {
    child: Child,
    control: Control,
    cgroups: Vec<PathBuf>,
}

impl Spare {
    /// Starts one whose processes are in the control groups at `cgroups`. Must be called within a
    /// Tokio runtime. The sandbox will see the mounts that the calling thread's namespace has
    /// when it is used.
    ///
    /// # Errors
    /// [`SandboxError::NotInitialised`], [`SandboxError::NotRoot`],
    /// [`SandboxError::NotPrivileged`], [`SandboxError::KernelTooOld`], [`SandboxError::Helper`].
    pub fn start(cgroups: &[PathBuf]) -> Result<Spare, SandboxError> {
        let (child, control) = spawn()?;
        let order = Order::Prepare(Prepare {
            cgroups: cgroups.to_vec(),
            user_namespace: userns::inside(),
            filters: seccomp::default_filters()?.to_vec(),
        });
        control
            .send(&order, Vec::new(), false)
            .map_err(helper("write to"))?;
        Ok(Spare {
            child,
            control,
            cgroups: cgroups.to_vec(),
        })
    }

    /// Whether it can still be used: not when its helper ended, for instance killed by the
    /// out-of-memory killer.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Runs `spec` in it, as [`Running::start`] does.
    ///
    /// # Errors
    /// [`SandboxError::InvalidSpec`], also when the spec names other control groups than the
    /// spare joined, and [`SandboxError::Helper`].
    pub fn run(self, spec: &RunSpec) -> Result<Running, SandboxError> {
        spec.validate()?;
        if spec.cgroups != self.cgroups {
            return Err(SandboxError::InvalidSpec {
                field: "cgroups",
                reason: "the spare sandbox has joined others".to_owned(),
            });
        }
        Running::begin(self.child, self.control, spec)
    }
}

/// Does once for the process what has to happen in the mount namespace that it was started in:
/// threads that leave that namespace can start sandboxes only afterwards.
///
/// # Errors
/// [`SandboxError::NotPrivileged`], [`SandboxError::KernelTooOld`], [`SandboxError::Helper`].
pub fn prepare() -> Result<(), SandboxError> {
    own_executable().map(drop)
}

/// Starts a helper process that waits for its order.
pub(crate) fn spawn() -> Result<(Child, Control), SandboxError> {
    if !crate::init::can_be_requested() {
        return Err(SandboxError::NotInitialised);
    }
    if let Standing::Ordinary(barrier) = userns::standing() {
        return Err(SandboxError::NotRoot { barrier });
    }
    let executable = own_executable()?;
    let (ours, theirs) = StdUnixStream::pair().map_err(helper("connect to"))?;
    ours.set_nonblocking(true).map_err(helper("connect to"))?;
    let child = Command::new(format!("/proc/self/fd/{}", executable.as_raw_fd()))
        .arg0(HELPER_NAME)
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(helper("start"))?;
    let socket = UnixStream::from_std(ours).map_err(helper("connect to"))?;
    Ok((child, Control::new(socket)))
}

/// This program's own file, by way of a read-only mount that is nowhere attached: a process in
/// the sandbox that gets hold of the helper's `/proc/PID/exe` cannot write to the host's file
/// through it (CVE-2019-5736).
///
/// Made once and kept: letting go of a mount waits for every processor.
fn own_executable() -> Result<BorrowedFd<'static>, SandboxError> {
    static MOUNT: OnceLock<OwnedFd> = OnceLock::new();
    if let Some(mount) = MOUNT.get() {
        return Ok(mount.as_fd());
    }
    let open = || -> io::Result<OwnedFd> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = match rustix::mount::open_tree(CWD, EXECUTABLE, flags) {
            // It is on a mount of the namespace that this process was started in.
            Err(Errno::INVAL) => executable_by_name(flags)?,
            tree => tree?,
        };
        let attributes = Attributes {
            read_only: true,
            ..Attributes::default()
        };
        mount_attributes::set(&tree, attributes)?;
        Ok(tree)
    };
    match open() {
        Ok(mount) => Ok(MOUNT.get_or_init(|| mount).as_fd()),
        Err(error) => Err(match error.raw_os_error() {
            Some(libc::EPERM) => SandboxError::NotPrivileged,
            Some(libc::ENOSYS) => SandboxError::KernelTooOld,
            _ => helper("find the program of")(error),
        }),
    }
}

/// This program's own file, found by its path in a mount namespace that this process has entered.
fn executable_by_name(flags: OpenTreeFlags) -> io::Result<OwnedFd> {
    let path = rustix::fs::readlink(EXECUTABLE, Vec::new())?;
    let file = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let (found, own) = (rustix::fs::fstat(&file)?, rustix::fs::stat(EXECUTABLE)?);
    if (found.st_dev, found.st_ino) != (own.st_dev, own.st_ino) {
        return Err(io::Error::other(
            "its file was replaced since it was started: start it anew",
        ));
    }
    let flags = flags | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(rustix::mount::open_tree(&file, "", flags)?)
}

pub(crate) fn helper(action: &'static str) -> impl Fn(io::Error) -> SandboxError {
    move |source| SandboxError::Helper { action, source }
}
