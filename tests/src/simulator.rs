//! A running `chalk-simulate`: a service with made-up activity.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::command::{Chalk, run, tool};
use crate::world::{forget, spawn};

/// Longest that it may take to end.
const LEAVE: Duration = Duration::from_secs(20);

/// A simulator. Dropping it ends it.
#[derive(Debug)]
pub struct Simulator {
    child: Child,
    url: String,
    token: String,
}

impl Simulator {
    /// Starts the program that `CHALK_TEST_SIMULATOR` names, with further arguments, and waits until
    /// all its nodes have joined.
    #[track_caller]
    pub fn start(state: &Path, arguments: &[&str]) -> Self {
        let program = std::env::var_os("CHALK_TEST_SIMULATOR");
        let program = program.expect("CHALK_TEST_SIMULATOR: path of chalk-simulate");
        let mut command = Command::new(program);
        command.arg("--state").arg(state).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = spawn(&mut command).expect("start the simulator");
        let told = BufReader::new(child.stdout.take().expect("piped"));
        let mut url = None;
        for line in told.lines() {
            let line = line.expect("it writes text");
            if let Some(found) = line.strip_prefix("export CHALK_API_SERVER=") {
                url = Some(found.to_owned());
                break;
            }
        }
        let token = fs::read_to_string(state.join("token"));
        Self {
            child,
            url: url.expect("it says how to reach it"),
            token: token.expect("a token").trim().to_owned(),
        }
    }

    /// `http://host:port`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The bearer token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// A command against it.
    pub fn chalk(&self) -> Chalk {
        Chalk::new()
            .args(["--server", &self.url])
            .env("CHALK_TOKEN", &self.token)
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        let pid = self.child.id();
        run(&mut tool("kill", ["-TERM", &pid.to_string()]));
        let until = Instant::now() + LEAVE;
        while let Ok(None) = self.child.try_wait() {
            if Instant::now() > until {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        forget(pid);
    }
}
