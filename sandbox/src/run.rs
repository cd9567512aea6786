//! The parent's side of a run: pumps output, keeps the time, stops everything.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rustix::termios::Winsize;
use tokio::net::unix::pipe;
use tokio::process::Child;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::control::{Control, Progress};
use crate::error::SandboxError;
use crate::exit::{Exit, Status, Usage};
use crate::input::Input;
use crate::output::{Output, OutputSink};
use crate::spare::{Spare, helper};
use crate::spec::{RunSpec, Stdin};
use crate::terminal::TerminalSize;
use crate::wire::Report;

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

/// A run, or a further command in one ([`Handle::exec`]), that has been started.
#[derive(Debug)]
pub struct Running {
    child: Child,
    control: Arc<Control>,
    cgroups: Arc<[PathBuf]>,
    input: Option<Input>,
    output: Output,
    started: Instant,
    timeout: Option<Duration>,
}

/// Reaches a [`Running`] while it is waited for. Cheap to clone; does not keep the run alive.
#[derive(Clone, Debug)]
pub struct Handle {
    control: Weak<Control>,
    cgroups: Arc<[PathBuf]>,
}

impl Handle {
    /// Passes `signal` (1 to 31) on to the command; without effect when it has ended.
    pub fn signal(&self, signal: i32) {
        if let (Some(control), Ok(signal @ 1..=31)) = (self.control.upgrade(), u8::try_from(signal))
        {
            control.signal(signal);
        }
    }

    /// Waits until the command is executed; false when that will not happen, see
    /// [`Running::wait`] for the reason.
    pub async fn started(&self) -> bool {
        self.progress(|progress| progress.started || progress.ended)
            .await
            .is_some_and(|progress| progress.started)
    }

    /// Gives the terminal another size; its programs get `SIGWINCH`. Waits until there is a
    /// terminal.
    ///
    /// # Errors
    /// [`io::ErrorKind::BrokenPipe`] when the command has ended, [`io::ErrorKind::Unsupported`]
    /// when it has no terminal.
    pub async fn resize(&self, size: TerminalSize) -> io::Result<()> {
        let progress = self
            .progress(|progress| progress.terminal.is_some() || progress.started || progress.ended)
            .await
            .filter(|progress| !progress.ended)
            .ok_or(io::ErrorKind::BrokenPipe)?;
        let terminal = progress.terminal.ok_or(io::ErrorKind::Unsupported)?;
        let size = Winsize {
            ws_row: size.rows,
            ws_col: size.cols,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        Ok(rustix::termios::tcsetwinsize(terminal.get_ref(), size)?)
    }

    /// Pid 1 and the control groups of the run, once its command is executed.
    pub(crate) async fn pid_1(&self) -> Option<(Arc<OwnedFd>, Vec<PathBuf>)> {
        let progress = self
            .progress(|progress| progress.pid_1.is_some() || progress.ended)
            .await?;
        Some((progress.pid_1?, self.cgroups.to_vec()))
    }

    async fn progress(&self, until: impl Fn(&Progress) -> bool) -> Option<Progress> {
        let mut progress = self.control.upgrade()?.progress();
        let progress = progress.wait_for(|progress| until(progress)).await;
        progress.ok().map(|progress| progress.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.control.end();
    }
}

impl Running {
    /// Starts a run. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// [`SandboxError::InvalidSpec`], [`SandboxError::NotInitialised`], [`SandboxError::NotRoot`],
    /// [`SandboxError::NotPrivileged`], [`SandboxError::KernelTooOld`], [`SandboxError::Helper`];
    /// failures of the set-up itself come from [`Running::wait`].
    pub fn start(spec: &RunSpec) -> Result<Running, SandboxError> {
        spec.validate()?;
        Spare::start(&spec.cgroups)?.run(spec)
    }

    /// Hands `spec` to a helper that has prepared for it.
    pub(crate) fn begin(
        child: Child,
        control: Control,
        spec: &RunSpec,
    ) -> Result<Running, SandboxError> {
        let mut running = Running::connect(
            child,
            control,
            spec,
            Vec::new(),
            &spec.stdin,
            spec.terminal,
            spec.timeout,
        )?;
        running.cgroups = spec.cgroups.clone().into();
        Ok(running)
    }

    /// Sends the last frame, with the ends of the command's streams.
    pub(crate) fn connect(
        child: Child,
        control: Control,
        frame: &impl serde::Serialize,
        mut descriptors: Vec<OwnedFd>,
        stdin: &Stdin,
        terminal: Option<TerminalSize>,
        timeout: Option<Duration>,
    ) -> Result<Running, SandboxError> {
        let started = Instant::now();
        let connect = helper("connect to");
        let (input, output) = if terminal.is_some() {
            (
                Some(Input::terminal(control.progress())),
                Output::Terminal(control.progress()),
            )
        } else {
            let mut input = None;
            if matches!(stdin, Stdin::Stream) {
                let (theirs, ours) = pipe_pair().map_err(&connect)?;
                descriptors.push(theirs);
                let ours = pipe::Sender::from_owned_fd(ours).map_err(&connect)?;
                input = Some(Input::pipe(ours));
            }
            let mut receive = || -> io::Result<pipe::Receiver> {
                let (ours, theirs) = pipe_pair()?;
                descriptors.push(theirs);
                pipe::Receiver::from_owned_fd(ours)
            };
            let stdout = receive().map_err(&connect)?;
            let stderr = receive().map_err(&connect)?;
            (input, Output::Pipes { stdout, stderr })
        };
        control
            .send(frame, descriptors, true)
            .map_err(helper("write to"))?;
        Ok(Running {
            child,
            control: Arc::new(control),
            cgroups: Arc::default(),
            input,
            output,
            started,
            timeout,
        })
    }

    /// Process id of the helper, on the host, as long as it has not been waited for; 0 afterwards.
    pub fn helper_pid(&self) -> i32 {
        self.child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .unwrap_or(0)
    }

    /// A handle to reach the command by, also while it is waited for.
    pub fn handle(&self) -> Handle {
        Handle {
            control: Arc::downgrade(&self.control),
            cgroups: Arc::clone(&self.cgroups),
        }
    }

    /// The writing end of standard input, once, if it is a stream or a terminal.
    pub fn take_input(&mut self) -> Option<Input> {
        self.input.take()
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
        // Nobody could write to it any more.
        drop(self.input.take());
        let ended = Notify::new();
        let supervised = {
            let mut supervise = pin!(supervise(
                &mut self.child,
                &self.control,
                self.timeout,
                cancel,
                &ended
            ));
            let mut pump = pin!(self.output.pump(sink, &ended));
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
            Report::File {
                action,
                path,
                errno,
            } => {
                return Err(SandboxError::File {
                    action: action.clone(),
                    path: path.clone(),
                    source: io::Error::from_raw_os_error(*errno),
                });
            }
            Report::Terminal | Report::Started => {}
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
    let status = match (ended, supervised.stopped) {
        // The kill itself, as the helper of a further command sees it.
        (Some(Status::Signal(libc::SIGKILL)), Some(stopped)) => Some(stopped),
        // An end of its own that came before the kill is what happened.
        (Some(ended), _) => Some(ended),
        (None, stopped) => stopped,
    };
    match status {
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
    timeout: Option<Duration>,
    cancel: &CancellationToken,
    ended: &Notify,
) -> Result<Supervised, SandboxError> {
    let mut stopped = None;
    let reports = {
        let mut talk = pin!(talk(control));
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
                control.stop().map_err(helper("stop"))?;
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

/// Sends what is left to send and reads reports until every holder of the other end is gone.
async fn talk(control: &Control) -> io::Result<Vec<Report>> {
    let ((), reports) = tokio::try_join!(control.deliver(), control.reports())?;
    Ok(reports)
}

fn pipe_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
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
        check(
            vec![Report::Signalled { signal: 9 }],
            Some(Status::Cancelled),
            "Cancelled",
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
