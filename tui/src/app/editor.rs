//! The person's editor: a job of its own in the terminal, as a shell would run it, so that its keys
//! (`ctrl-c`, `ctrl-z`) are not the app's, and so that it can be ended as a whole.

use std::io::{self, Write as _, stdin, stdout};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpgrp, kill_process_group, waitpid};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr, tcsetpgrp};
use tokio::time::{Instant, sleep};

use super::terminal;

/// Time that an editor is given to end by itself.
const GRACE: Duration = Duration::from_secs(1);
/// Time between two looks at whether it ended.
const LOOK: Duration = Duration::from_millis(20);

/// A running editor.
pub(super) struct Editor {
    /// Its process and group.
    pid: Pid,
    /// Our group.
    own: Pid,
    /// How the terminal was before it.
    modes: Option<Termios>,
}

/// What became of it.
pub(super) enum Look {
    Runs,
    /// By its user, as a job.
    Stopped,
    Ended(WaitStatus),
}

/// The command that the person set for editing.
pub(super) fn command() -> String {
    let set = |name: &str| std::env::var(name).ok();
    let set = |name: &str| set(name).filter(|value| !value.trim().is_empty());
    set("VISUAL")
        .or_else(|| set("EDITOR"))
        .unwrap_or_else(|| "vi".to_owned())
}

impl Editor {
    /// Opens a file. The terminal is the editor's until it ends.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn start(command: &str, path: &Path) -> io::Result<Self> {
        let modes = tcgetattr(stdin()).ok();
        // The variable may hold flags, and is a shell's word by custom.
        let child = Command::new("/bin/sh")
            .arg("-c")
            .arg(format!("{command} \"$1\""))
            .arg("sh")
            .arg(path)
            .process_group(0)
            .spawn()?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or(io::ErrorKind::InvalidData)?;
        let editor = Self {
            pid,
            own: getpgrp(),
            modes,
        };
        foreground(pid);
        Ok(editor)
    }

    /// Looks at what became of it since the last time.
    ///
    /// # Errors
    /// When it is not there any more.
    pub(super) fn look(&self) -> io::Result<Look> {
        let options = WaitOptions::NOHANG | WaitOptions::UNTRACED;
        let Some((_, status)) = waitpid(Some(self.pid), options)? else {
            return Ok(Look::Runs);
        };
        match status.stopping_signal() {
            None => {
                foreground(self.own);
                Ok(Look::Ended(status))
            }
            // It reached for the terminal before it had it.
            Some(libc::SIGTTIN | libc::SIGTTOU) => {
                self.go_on();
                Ok(Look::Runs)
            }
            Some(_) => {
                foreground(self.own);
                Ok(Look::Stopped)
            }
        }
    }

    /// Lets it go on after it was stopped.
    pub(super) fn go_on(&self) {
        foreground(self.pid);
        let _ = kill_process_group(self.pid, Signal::CONT);
    }

    /// Ends it and all that it started, and undoes what it did to the terminal.
    pub(super) async fn end(self, signal: Signal) {
        for signal in [signal, Signal::KILL] {
            // What is gone already needs no signal.
            let _ = kill_process_group(self.pid, signal);
            let _ = kill_process_group(self.pid, Signal::CONT);
            let until = Instant::now() + GRACE;
            while Instant::now() < until {
                match self.look() {
                    Ok(Look::Ended(_)) | Err(_) => break,
                    Ok(Look::Runs | Look::Stopped) => sleep(LOOK).await,
                }
            }
        }
        foreground(self.own);
        if let Some(modes) = &self.modes {
            // A terminal that hung up has no modes.
            let _ = tcsetattr(stdin(), OptionalActions::Now, modes);
        }
        let mut out = stdout().lock();
        let _ = terminal::undo(&mut out).and_then(|()| out.flush());
    }
}

/// Gives the terminal to a group of processes. Where there is no control over jobs, all have it.
fn foreground(group: Pid) {
    // Whoever takes the terminal back without having it is stopped for that by SIGTTOU.
    // SAFETY: `set` and `before` are plain memory that the calls fill before it is read, and the mask
    // is that of this thread alone, which gets its own back.
    let before = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTTOU);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, &raw mut before);
        before
    };
    let _ = tcsetpgrp(stdin(), group);
    // SAFETY: `before` was filled above.
    unsafe {
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
    }
}
