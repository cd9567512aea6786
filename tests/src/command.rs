//! Running commands to their end, with a limit of time.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::network::Host;
use crate::world::{forget, spawn};

/// No command of the suite takes this long; one that does hangs.
const LIMIT: Duration = Duration::from_secs(600);

/// A command that came to its end.
#[derive(Debug)]
pub struct Ran {
    /// The command line.
    pub line: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ran {
    /// Expects exit code 0.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.code(0)
    }

    /// Expects an exit code.
    #[track_caller]
    pub fn code(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "exit code of {self}");
        self
    }

    /// Expects words in standard error.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(
                self.stderr.contains(word),
                "`{word}` is missing in the errors of {self}"
            );
        }
        self
    }

    /// The JSON document that is standard output.
    #[track_caller]
    pub fn json(&self) -> Value {
        match serde_json::from_str(&self.stdout) {
            Ok(value) => value,
            Err(error) => panic!("no JSON ({error}) from {self}"),
        }
    }

    /// The JSON documents that are the lines of standard output.
    #[track_caller]
    pub fn json_lines(&self) -> Vec<Value> {
        let parse = |line: &str| match serde_json::from_str(line) {
            Ok(value) => value,
            Err(error) => panic!("no JSON ({error}) in `{line}` from {self}"),
        };
        self.stdout.lines().map(parse).collect()
    }

    /// The last line of standard output as JSON: the result of a stream.
    #[track_caller]
    pub fn result(&self) -> Value {
        match self.json_lines().pop() {
            Some(value) => value,
            None => panic!("no result from {self}"),
        }
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "`{}` ({})\n--- stdout\n{}--- stderr\n{}---",
            self.line, self.status, self.stdout, self.stderr
        )
    }
}

/// A tool of the system with its arguments.
pub fn tool<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// Runs a command to its end, however long it takes, and gives all that it said. Nothing polls, so that
/// what takes a few milliseconds can be told apart.
///
/// # Errors
/// When it cannot be started, also after [`interrupt`](crate::interrupt).
pub fn output(command: &mut Command) -> std::io::Result<Output> {
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = spawn(command)?;
    let pid = child.id();
    let output = child.wait_with_output();
    forget(pid);
    output
}

/// Runs a command to its end. One that takes longer than any should is killed, and fails the test.
#[track_caller]
pub fn run(command: &mut Command) -> Ran {
    run_with(command, &[])
}

#[track_caller]
fn run_with(command: &mut Command, input: &[u8]) -> Ran {
    let line = line(command);
    command.stdin(if input.is_empty() {
        Stdio::null()
    } else {
        Stdio::piped()
    });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match spawn(command) {
        Ok(child) => child,
        Err(error) => panic!("cannot start `{line}`: {error}"),
    };
    let pid = child.id();
    let stdin = child.stdin.take();
    let stdout = child.stdout.take().expect("piped");
    let stderr = child.stderr.take().expect("piped");
    let (status, stdout, stderr) = std::thread::scope(|scope| {
        scope.spawn(move || stdin.map(|mut pipe| pipe.write_all(input)));
        let stdout = scope.spawn(move || drain(stdout));
        let stderr = scope.spawn(move || drain(stderr));
        let began = Instant::now();
        let mut killed = false;
        let status = loop {
            if let Some(status) = child.try_wait().expect("the child is ours") {
                break status;
            }
            if began.elapsed() > LIMIT && !killed {
                killed = true;
                child.kill().expect("the child runs");
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        forget(pid);
        (
            status,
            stdout.join().expect("reader"),
            stderr.join().expect("reader"),
        )
    });
    Ran {
        line,
        status,
        stdout,
        stderr,
    }
}

fn drain(mut pipe: impl Read) -> String {
    let mut bytes = Vec::new();
    let _ = pipe.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// A `chalk` command in the making.
#[derive(Debug)]
pub struct Chalk {
    command: Command,
    input: Vec<u8>,
    host: Option<Host>,
}

impl Chalk {
    /// The command under test, free of settings of whoever runs the tests.
    pub fn new() -> Self {
        let mut command = Command::new(binary());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CHALK_") {
                command.env_remove(&name);
            }
        }
        command.env("NO_COLOR", "1");
        Self {
            command,
            input: Vec::new(),
            host: None,
        }
    }

    /// The command on a state directory.
    pub fn on(state: &Path) -> Self {
        Self::new().arg("--state").arg(state)
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.command.args(arguments);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn current_dir(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Runs it on a host of a made-up network.
    #[must_use]
    pub fn at(mut self, host: Option<&Host>) -> Self {
        self.host = host.cloned();
        self
    }

    /// Gives standard input.
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = bytes.into();
        self
    }

    /// Runs it to its end.
    #[track_caller]
    pub fn run(mut self) -> Ran {
        let input = std::mem::take(&mut self.input);
        run_with(&mut self.into_command(), &input)
    }

    /// Starts it, for tests that watch it or make it go away. Its output is thrown away.
    #[track_caller]
    pub fn start(self) -> Running {
        let mut command = self.into_command();
        command.stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Running {
            child: spawn(&mut command).expect("start chalk"),
        }
    }

    /// The plain command.
    pub fn into_command(self) -> Command {
        match self.host {
            Some(host) => host.wrap(&self.command),
            None => self.command,
        }
    }
}

/// A command on its way. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    child: Child,
}

impl Running {
    /// Sends it a signal such as `-INT`.
    #[track_caller]
    pub fn signal(&self, signal: &str) {
        run(&mut tool("kill", [signal, &self.child.id().to_string()])).ok();
    }

    /// Waits for its end; the exit code, if it ended by itself.
    pub fn wait(&mut self) -> Option<i32> {
        self.child.wait().expect("the child is ours").code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        forget(self.child.id());
    }
}

impl Default for Chalk {
    fn default() -> Self {
        Self::new()
    }
}

/// Path of the command under test.
fn binary() -> String {
    std::env::var("CHALK_TEST_BIN").expect("set by `cargo xtask test`: path of the chalk binary")
}
