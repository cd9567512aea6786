//! Starting programs: every failure says which program failed and how, and an interrupt ends the
//! running program first, so that whoever called can clean up.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// How long a program that was asked to stop may take before it is killed.
const GRACE: Duration = Duration::from_secs(20);

/// Why a task did not get to its end.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A program could not be started.
    Start {
        /// Its command line.
        command: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A program ended badly.
    Ended {
        /// Its command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// Its standard error, where it was captured.
        stderr: String,
    },
    /// A file could not be read or written.
    File {
        /// Which.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// SIGINT or SIGTERM.
    Interrupted,
    /// Anything else, in words.
    Other(String),
}

/// Result of a task.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// Exit code of xtask: 130 after an interrupt, as shells have it.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Interrupted => 130,
            _ => 1,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start { command, source } => write!(f, "cannot start `{command}`: {source}"),
            Self::Ended {
                command,
                status,
                stderr,
            } => {
                write!(f, "`{command}` failed: {status}")?;
                match stderr.trim_end() {
                    "" => Ok(()),
                    stderr => write!(f, "\n{stderr}"),
                }
            }
            Self::File { path, source } => write!(f, "{path}: {source}"),
            Self::Interrupted => f.write_str("interrupted"),
            Self::Other(words) => f.write_str(words),
        }
    }
}

/// Wraps a file error with the path it is about.
pub(crate) fn at<P: AsRef<Path> + ?Sized>(path: &P) -> impl FnOnce(std::io::Error) -> Failure {
    let path = path.as_ref().display().to_string();
    move |source| Failure::File { path, source }
}

/// A program and its arguments.
pub(crate) fn command<S: AsRef<OsStr>>(
    program: &str,
    arguments: impl IntoIterator<Item = S>,
) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("PATH", crate::host::search_path());
    command
}

/// Whether SIGINT or SIGTERM has come. The first call sets up the handlers, so programs started
/// before it die by an interrupt together with xtask.
pub(crate) fn interrupted() -> bool {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    FLAG.get_or_init(|| {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [
            signal_hook::consts::SIGINT,
            signal_hook::consts::SIGTERM,
            signal_hook::consts::SIGHUP,
        ] {
            if let Err(error) = signal_hook::flag::register(signal, Arc::clone(&flag)) {
                eprintln!("xtask: interrupts will not be cleaned up after: {error}");
            }
        }
        flag
    })
    .load(Ordering::Relaxed)
}

thread_local! {
    /// Where programs print that this thread runs, if it is not where we do.
    static PRINTED: RefCell<Option<File>> = const { RefCell::new(None) };
}

/// Does something while all programs that this thread runs print into a file.
pub(crate) fn printing_into<T>(file: &File, work: impl FnOnce() -> T) -> T {
    PRINTED.set(file.try_clone().ok());
    let done = work();
    PRINTED.set(None);
    done
}

/// A stream of a program: the file, or our own.
fn stream() -> Stdio {
    let file = |file: &File| file.try_clone().ok().map(Stdio::from);
    PRINTED
        .with_borrow(|printed| printed.as_ref().and_then(file))
        .unwrap_or_else(Stdio::inherit)
}

/// Runs a program to its end with our own standard streams.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = line(command);
    let child = spawn(command.stdout(stream()).stderr(stream()))?;
    let status = wait(child, &line)?.status;
    ended(line, status, String::new())
}

/// Runs a program to its end and returns its standard output as text. Its standard error is part of
/// the failure, when there is one.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let bytes = capture_bytes(command.stderr(Stdio::piped()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// As [`capture`], with its standard error left where it is.
pub(crate) fn capture_stdout(command: &mut Command) -> Result<String> {
    let bytes = capture_bytes(command.stderr(stream()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// As [`capture_stdout`], as bytes.
pub(crate) fn capture_bytes(command: &mut Command) -> Result<Vec<u8>> {
    let line = line(command);
    command.stdout(Stdio::piped());
    let output = wait(spawn(command)?, &line)?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    ended(line, output.status, stderr)?;
    Ok(output.stdout)
}

/// Whether a program can be started and ends well; its output is thrown away.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Starts a program.
pub(crate) fn spawn(command: &mut Command) -> Result<Child> {
    command.spawn().map_err(|source| Failure::Start {
        command: line(command),
        source,
    })
}

/// Asks a program to end (SIGTERM), and kills it when it does not.
pub(crate) fn stop(child: &mut Child) {
    // `kill` by name: the standard library can send nothing but SIGKILL.
    let asked = succeeds(&mut command("kill", ["-TERM", &child.id().to_string()]));
    let until = Instant::now() + GRACE;
    while asked && Instant::now() < until {
        match child.try_wait() {
            Ok(None) => std::thread::sleep(Duration::from_millis(20)),
            Ok(Some(_)) => return,
            Err(_) => break,
        }
    }
    // Errors here mean that it is gone already.
    let _ = child.kill();
    let _ = child.wait();
}

/// Removes a file or tree made by us, which may hold files of root.
pub(crate) fn remove(path: &Path) -> Result<()> {
    if path.symlink_metadata().is_err() {
        return Ok(());
    }
    let text = path.display().to_string();
    let words = ["--recursive", "--force", "--one-file-system", &text];
    // Not by `capture`: the tree must go even when we were interrupted.
    let output = crate::host::as_root("rm", words)?.output();
    let output = output.map_err(at(path))?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    ended(format!("rm {text}"), output.status, stderr)
}

/// The command line for people.
pub(crate) fn line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

fn wait(child: Child, line: &str) -> Result<Output> {
    if interrupted() {
        let mut child = child;
        stop(&mut child);
        return Err(Failure::Interrupted);
    }
    // Pipes must be drained while the program runs, so a thread waits and this one watches for
    // interrupts.
    let id = child.id();
    let waiter = std::thread::spawn(move || child.wait_with_output());
    let mut asked = false;
    while !waiter.is_finished() {
        if interrupted() && !asked {
            asked = true;
            succeeds(&mut command("kill", ["-TERM", &id.to_string()]));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = match waiter.join() {
        Ok(output) => output.map_err(|source| Failure::Start {
            command: line.to_owned(),
            source,
        })?,
        Err(_) => return Err(Failure::Other(format!("lost track of `{line}`"))),
    };
    if asked {
        return Err(Failure::Interrupted);
    }
    Ok(output)
}

fn ended(command: String, status: ExitStatus, stderr: String) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    Err(Failure::Ended {
        command,
        status,
        stderr,
    })
}
