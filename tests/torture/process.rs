//! A process under torture: how it starts, dies and is asked to stop.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::garbage;

/// Longest that a start or a stop may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(2);
/// Variable that marks a process, and what it leaves behind, as of one trial.
pub(crate) const MARK: &str = "CHALK_TORTURE";

/// A running process that answers at an address.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    pub(crate) url: String,
    pub(crate) token: Option<String>,
}

/// A service that is not there, and why.
#[derive(Debug)]
pub(crate) enum NoStart {
    /// It was killed at its failpoint.
    Killed,
    /// It should have started.
    Failed(String),
}

/// How a service is started.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    pub(crate) chalk: PathBuf,
    pub(crate) state: PathBuf,
    pub(crate) log: PathBuf,
    /// Where failpoints are noted.
    pub(crate) passed: PathBuf,
    pub(crate) mark: String,
}

fn spawn(command: &mut Command, log: &Path) -> Child {
    let log = File::options().create(true).append(true).open(log);
    let log = log.expect("a log");
    command.stdin(Stdio::null());
    command.stdout(log.try_clone().expect("a second handle"));
    command.stderr(log);
    command.spawn().expect("start a process")
}

impl Launch {
    /// The program on a state directory, without any settings of whoever runs this.
    fn command(&self, state: &Path) -> Command {
        let mut command = Command::new(&self.chalk);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CHALK_") {
                command.env_remove(&name);
            }
        }
        command.env(MARK, &self.mark).arg("--state").arg(state);
        command
    }

    /// Failpoints that were come to, and the one at which something was killed.
    pub(crate) fn points(&self) -> (BTreeSet<String>, Option<String>) {
        let lines = fs::read_to_string(&self.passed).unwrap_or_default();
        let died = lines.lines().find_map(|line| line.strip_prefix("killed "));
        let passed = lines.lines().filter(|line| !line.starts_with("killed "));
        (passed.map(str::to_owned).collect(), died.map(str::to_owned))
    }

    /// Has it note the failpoints, and be killed at one.
    fn arm(&self, command: &mut Command, point: Option<&(String, u64)>) {
        command.env("CHALK_FAILPOINT_LOG", &self.passed);
        if let Some((name, nth)) = point {
            command.env("CHALK_FAILPOINT", format!("{name}:{nth}"));
        }
    }

    /// Starts a node of a service on a state directory of its own. It is not waited for.
    pub(crate) fn node(
        &self,
        service: &Process,
        state: &Path,
        name: &str,
        settings: &[&str],
        point: Option<&(String, u64)>,
    ) -> Process {
        let mut command = self.command(state);
        command.args(["node", "--server", &service.url, "--name", name]);
        command
            .arg("--join-token-file")
            .arg(self.state.join("token"));
        for setting in settings {
            command.args(["--set", setting]);
        }
        self.arm(&mut command, point);
        Process::start(&mut command, &self.log, service.url.clone())
    }

    /// Runs a command on the state directory to its end.
    pub(crate) fn run(&self, words: &[&str]) -> Result<(), String> {
        let mut command = self.command(&self.state);
        let ran = command.args(words).stdin(Stdio::null()).output();
        let ran = ran.expect("run chalk");
        match ran.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&ran.stderr).into_owned()),
        }
    }

    /// Starts the service, to be killed at a failpoint perhaps.
    pub(crate) fn start(&self, point: Option<&(String, u64)>) -> Result<Process, NoStart> {
        let mut command = self.command(&self.state);
        command.args(["serve", "--listen", "127.0.0.1:0"]);
        // No node is to fetch what the trial does not know.
        for setting in [
            "serve.stop_timeout=2s",
            "build.parallel=2",
            "prewarm.images=",
        ]
        .into_iter()
        .chain(garbage::SETTINGS)
        {
            command.args(["--set", setting]);
        }
        self.arm(&mut command, point);
        let mut child = spawn(&mut command, &self.log);
        let until = Instant::now() + PATIENCE;
        loop {
            // A file that a killed service left behind names another process.
            let known = fs::read(self.state.join("service.json")).ok();
            let known = known.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
            let known = known.unwrap_or_default();
            if known["pid"] == child.id() {
                let token = fs::read_to_string(self.state.join("token")).ok();
                return Ok(Process {
                    child,
                    url: known["url"].as_str().unwrap_or_default().to_owned(),
                    token: token.map(|token| token.trim().to_owned()),
                });
            }
            if let Ok(Some(status)) = child.try_wait() {
                return Err(match was_killed(status) {
                    true => NoStart::Killed,
                    false => NoStart::Failed(format!("it ended with {status}")),
                });
            }
            if Instant::now() > until {
                let _ = child.kill();
                let _ = child.wait();
                return Err(NoStart::Failed("it takes too long".to_owned()));
            }
            std::thread::sleep(POLL);
        }
    }
}

fn was_killed(status: ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt as _;
    status.signal() == Some(9)
}

impl Process {
    /// One that was started some other way.
    pub(crate) fn start(command: &mut Command, log: &Path, url: String) -> Self {
        Self {
            child: spawn(command, log),
            url,
            token: None,
        }
    }

    /// Its number.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended by itself, and if so, whether by a failpoint.
    pub(crate) fn ended(&mut self) -> Option<bool> {
        let status = self.child.try_wait().ok().flatten()?;
        Some(was_killed(status))
    }

    /// Ends it as a crash does.
    pub(crate) fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to stop.
    ///
    /// # Errors
    /// When it does not, or not well.
    pub(crate) fn stop(mut self) -> Result<(), String> {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let until = Instant::now() + PATIENCE;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(format!("a polite stop ended with {status}")),
                _ if Instant::now() > until => {
                    self.kill();
                    return Err("a polite stop takes too long".to_owned());
                }
                _ => std::thread::sleep(POLL),
            }
        }
    }
}
