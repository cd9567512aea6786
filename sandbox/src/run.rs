//! The parent's side: starts the helper, pumps output, keeps the time, stops everything.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::pin;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::fs::CWD;
use rustix::mount::OpenTreeFlags;
use rustix::pipe::PipeFlags;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::error::SandboxError;
use crate::exit::{Exit, Status, Usage};
use crate::init::HELPER_NAME;
use crate::mount_attributes::{self, Attributes};
use crate::output::{OutputSink, pump};
use crate::seccomp;
use crate::spec::{RunSpec, Seccomp};
use crate::wire::{Report, Request};

/// Most bytes of reports that a helper can send: a handful of short lines.
const MAX_REPORTS: usize = 256 << 10;

/// Runs `spec` to its end and hands its output to `sink`.
///
/// When this returns, no process of the run is left and nothing is mounted. When `cancel` is
/// triggered all its processes are killed and the exit says [`Status::Cancelled`]; dropping the
/// future kills them too, but does not wait for them. They also die when this process does,
/// however that happens.
///
/// # Errors
/// Every [`SandboxError`]; the command has not run, save perhaps with
/// [`SandboxError::HelperDied`] and [`SandboxError::Helper`].
pub async fn run(
    spec: &RunSpec,
    sink: &mut impl OutputSink,
    cancel: &CancellationToken,
) -> Result<Exit, SandboxError> {
    Running::start(spec)?.wait(sink, cancel).await
}

/// A run that has been started, for callers who want to send it signals.
#[derive(Debug)]
pub struct Running {
    child: Child,
    control: Arc<Control>,
    request: Vec<u8>,
    stdout: pipe::Receiver,
    stderr: pipe::Receiver,
    started: Instant,
    timeout: Option<Duration>,
}

/// Sends signals to the command of a [`Running`]. Cheap to clone; does not keep the run alive.
#[derive(Clone, Debug)]
pub struct Signaller(Weak<Control>);

impl Signaller {
    /// Passes `signal` (1 to 31) on to the command; without effect when it has ended.
    pub fn send(&self, signal: i32) {
        if let (Some(control), Ok(signal @ 1..=31)) = (self.0.upgrade(), u8::try_from(signal)) {
            match &mut *control.early() {
                Some(early) => early.push(signal),
                // A full or closed socket means that the run is ending or flooded with signals.
                None => drop(control.socket.try_write(&[signal])),
            }
        }
    }
}

/// The connection to the helper.
#[derive(Debug)]
struct Control {
    socket: UnixStream,
    /// Signals to be sent after the request; `None` when it has been sent.
    early: Mutex<Option<Vec<u8>>>,
}

impl Control {
    fn early(&self) -> MutexGuard<'_, Option<Vec<u8>>> {
        self.early.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The signals that came before the request was sent; later ones are sent at once.
    fn take_early(&self) -> Vec<u8> {
        self.early().take().unwrap_or_default()
    }
}

impl Running {
    /// Starts the helper process. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// [`SandboxError::InvalidSpec`], [`SandboxError::NotInitialised`], [`SandboxError::NotRoot`],
    /// [`SandboxError::NotPrivileged`], [`SandboxError::KernelTooOld`], [`SandboxError::Helper`];
    /// failures of the set-up itself come from [`Running::wait`].
    pub fn start(spec: &RunSpec) -> Result<Running, SandboxError> {
        spec.validate()?;
        if !crate::init::can_be_requested() {
            return Err(SandboxError::NotInitialised);
        }
        let uid = rustix::process::geteuid().as_raw();
        if uid != 0 {
            return Err(SandboxError::NotRoot { uid });
        }
        let started = Instant::now();
        let request = encode(spec)?;
        let executable = own_executable()?;
        let (ours, theirs) = StdUnixStream::pair().map_err(helper("connect to"))?;
        ours.set_nonblocking(true).map_err(helper("connect to"))?;
        let (stdout, child_stdout) = output_pipe()?;
        let (stderr, child_stderr) = output_pipe()?;
        let child = Command::new(format!("/proc/self/fd/{}", executable.as_raw_fd()))
            .arg0(HELPER_NAME)
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(child_stdout))
            .stderr(Stdio::from(child_stderr))
            .spawn()
            .map_err(helper("start"))?;
        let socket = UnixStream::from_std(ours).map_err(helper("connect to"))?;
        let control = Arc::new(Control {
            socket,
            early: Mutex::new(Some(Vec::new())),
        });
        Ok(Running {
            child,
            control,
            request,
            stdout,
            stderr,
            started,
            timeout: spec.timeout,
        })
    }

    /// Process id of the helper, on the host, as long as it has not been waited for; 0 afterwards.
    pub fn helper_pid(&self) -> i32 {
        self.child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .unwrap_or(0)
    }

    /// A handle that sends signals to the command.
    pub fn signaller(&self) -> Signaller {
        Signaller(Arc::downgrade(&self.control))
    }

    /// Waits for the end; see [`run`].
    ///
    /// # Errors
    /// Every [`SandboxError`] of the set-up.
    pub async fn wait(
        mut self,
        sink: &mut impl OutputSink,
        cancel: &CancellationToken,
    ) -> Result<Exit, SandboxError> {
        let ended = Notify::new();
        let supervised = {
            let mut supervise = pin!(supervise(
                &mut self.child,
                &self.control,
                &self.request,
                self.timeout,
                cancel,
                &ended
            ));
            let mut pump = pin!(pump(&mut self.stdout, &mut self.stderr, sink, &ended));
            let mut pumped = false;
            let supervised = loop {
                tokio::select! {
                    result = &mut supervise => break result?,
                    () = &mut pump, if !pumped => pumped = true,
                }
            };
            // A cancelled caller does not wait for a sink that may never take the rest.
            if !pumped && supervised.stopped != Some(Status::Cancelled) {
                pump.await;
            }
            supervised
        };
        let wall = self.started.elapsed();
        outcome(&supervised, wall)
    }
}

/// What was seen of a run until its helper ended.
struct Supervised {
    reports: Vec<Report>,
    /// Why it was stopped, if it was.
    stopped: Option<Status>,
    helper_status: std::process::ExitStatus,
}

fn outcome(supervised: &Supervised, wall: Duration) -> Result<Exit, SandboxError> {
    let mut ended = None;
    let mut usage = Usage::default();
    for report in &supervised.reports {
        match report {
            Report::Setup(error) => return Err(SandboxError::Setup(error.clone())),
            Report::User { spec, reason } => {
                return Err(SandboxError::User {
                    spec: spec.clone(),
                    reason: reason.clone(),
                });
            }
            Report::Exec { program, errno } => {
                return Err(SandboxError::Exec {
                    program: program.clone(),
                    source: io::Error::from_raw_os_error(*errno),
                });
            }
            Report::Exited { code } => ended = Some(Status::Code(*code)),
            Report::Signalled { signal } => ended = Some(Status::Signal(*signal)),
            Report::Gone {
                user_us,
                system_us,
                max_rss_bytes,
            } => {
                usage = Usage {
                    user: Duration::from_micros(*user_us),
                    system: Duration::from_micros(*system_us),
                    max_rss_bytes: *max_rss_bytes,
                };
            }
        }
    }
    // An end of its own that came before the kill is what happened.
    match ended.or(supervised.stopped) {
        Some(status) => Ok(Exit {
            status,
            usage,
            wall,
        }),
        None => Err(SandboxError::HelperDied {
            status: supervised.helper_status.to_string(),
        }),
    }
}

/// Sends the request, collects reports, stops the run at its time limit or when cancelled, and
/// waits until the helper is gone; tells `ended` then.
async fn supervise(
    child: &mut Child,
    control: &Control,
    request: &[u8],
    timeout: Option<Duration>,
    cancel: &CancellationToken,
    ended: &Notify,
) -> Result<Supervised, SandboxError> {
    let mut stopped = None;
    let reports = {
        let mut talk = pin!(talk(control, request));
        let mut limit = pin!(async {
            match timeout {
                Some(timeout) => tokio::time::sleep(timeout).await,
                None => std::future::pending().await,
            }
        });
        let reason = tokio::select! {
            reports = &mut talk => Ok(reports),
            () = cancel.cancelled() => Err(Status::Cancelled),
            () = &mut limit => Err(Status::TimedOut),
        };
        match reason {
            Ok(reports) => reports,
            Err(status) => {
                stopped = Some(status);
                // The helper takes the end of the stream as the order to kill everything.
                rustix::net::shutdown(control.socket.as_fd(), rustix::net::Shutdown::Write)
                    .map_err(|errno| helper("stop")(errno.into()))?;
                talk.await
            }
        }
    };
    let helper_status = child.wait().await.map_err(helper("wait for"))?;
    ended.notify_one();
    let reports = match reports {
        Ok(reports) => reports,
        // A helper that died while it was spoken to is told by its status.
        Err(_) if !helper_status.success() => Vec::new(),
        Err(source) => return Err(helper("talk to")(source)),
    };
    Ok(Supervised {
        reports,
        stopped,
        helper_status,
    })
}

/// Writes the request and reads reports until every holder of the other end is gone.
async fn talk(control: &Control, request: &[u8]) -> io::Result<Vec<Report>> {
    let socket = &control.socket;
    let send = async {
        write_all(socket, request).await?;
        write_all(socket, &control.take_early()).await
    };
    let receive = async {
        let mut text = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            socket.readable().await?;
            match socket.try_read(&mut buffer) {
                Ok(0) => return Ok(text),
                Ok(count) => text.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(text),
                Err(error) => return Err(error),
            }
            if text.len() > MAX_REPORTS {
                return Err(io::Error::other("the helper's reports have no end"));
            }
        }
    };
    let ((), text) = tokio::try_join!(send, receive)?;
    text.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).map_err(io::Error::from))
        .collect()
}

async fn write_all(socket: &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        socket.writable().await?;
        match socket.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // The helper ended early; what it reported tells why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn encode(spec: &RunSpec) -> Result<Vec<u8>, SandboxError> {
    let filters = match spec.seccomp {
        Seccomp::Default => seccomp::default_filters()?.to_vec(),
        Seccomp::Unconfined => Vec::new(),
    };
    let request = Request {
        spec: spec.clone(),
        filters,
    };
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, &request)
        .map_err(|error| helper("write the spec for")(error.into()))?;
    let length = u32::try_from(bytes.len() - 4)
        .map_err(|error| helper("write the spec for")(io::Error::other(error)))?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
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
        let tree = rustix::mount::open_tree(CWD, "/proc/self/exe", flags)?;
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

fn output_pipe() -> Result<(pipe::Receiver, OwnedFd), SandboxError> {
    let make = || -> io::Result<_> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        Ok((pipe::Receiver::from_owned_fd(read)?, write))
    };
    make().map_err(helper("connect to"))
}

fn helper(action: &'static str) -> impl Fn(io::Error) -> SandboxError {
    move |source| SandboxError::Helper { action, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;
    use crate::error::{SetupError, Stage};
    use crate::spec::Root;

    #[tokio::test]
    async fn a_program_that_hands_no_helper_over_is_told() {
        let spec = RunSpec::new(Root::Plain("/".into()), ["true"]);
        let error = Running::start(&spec).expect_err("not initialised");
        assert!(matches!(error, SandboxError::NotInitialised), "{error}");
    }

    #[test]
    fn reports_make_the_outcome() {
        let check = |reports: Vec<Report>, stopped, expect: &str| {
            let helper_status = std::process::ExitStatus::from_raw(9);
            let supervised = Supervised {
                reports,
                stopped,
                helper_status,
            };
            let found = match outcome(&supervised, Duration::ZERO) {
                Ok(exit) => format!("{:?}", exit.status),
                Err(error) => error.to_string(),
            };
            assert!(found.contains(expect), "{expect}: {found}");
        };
        let setup = || {
            Report::Setup(SetupError {
                stage: Stage::Fork,
                subject: String::new(),
                errno: 11,
                detail: String::new(),
            })
        };
        check(vec![Report::Exited { code: 3 }], None, "Code(3)");
        check(vec![Report::Signalled { signal: 9 }], None, "Signal(9)");
        // An end of its own counts more than the stop that came at the same time.
        check(
            vec![Report::Exited { code: 0 }],
            Some(Status::TimedOut),
            "Code(0)",
        );
        check(vec![], Some(Status::TimedOut), "TimedOut");
        check(vec![], Some(Status::Cancelled), "Cancelled");
        // The process that reports a failure also ends with a code.
        check(
            vec![setup(), Report::Exited { code: 125 }],
            None,
            "cannot fork",
        );
        check(vec![], None, "signal: 9");
    }
}
