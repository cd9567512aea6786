//! A further command in a running sandbox.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::SandboxError;
use crate::files::FileWork;
use crate::run::{Handle, Running};
use crate::seccomp;
use crate::spare::{helper, spawn};
use crate::spec::{Capabilities, MAX_CONTENTS, Seccomp, Stdin, User};
use crate::spec::{absolute, invalid, validate_program};
use crate::terminal::TerminalSize;
use crate::wire::{Exec, Order};

/// A command to run in a sandbox that runs already. Fields as those of [`RunSpec`](crate::RunSpec).
#[derive(Clone, Serialize, Deserialize)]
pub struct ExecSpec {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// The environment, exactly as given, save `HOME`.
    pub env: Vec<(String, String)>,
    /// Working directory, absolute; must exist.
    pub cwd: PathBuf,
    /// Who runs it.
    pub user: User,
    /// Standard input.
    pub stdin: Stdin,
    /// A terminal of its own.
    pub terminal: Option<TerminalSize>,
    /// Time after which it is killed.
    pub timeout: Option<Duration>,
    /// Capabilities.
    pub capabilities: Capabilities,
    /// System-call filter.
    pub seccomp: Seccomp,
}

impl ExecSpec {
    /// A command with the defaults of [`RunSpec::new`](crate::RunSpec::new).
    pub fn new(args: impl IntoIterator<Item = impl Into<String>>) -> ExecSpec {
        ExecSpec {
            args: args.into_iter().map(Into::into).collect(),
            env: vec![("PATH".to_owned(), crate::DEFAULT_PATH.to_owned())],
            cwd: PathBuf::from("/"),
            user: User::default(),
            stdin: Stdin::Null,
            terminal: None,
            timeout: None,
            capabilities: Capabilities::Default,
            seccomp: Seccomp::Default,
        }
    }

    /// Checks everything that can be checked without touching the system.
    ///
    /// # Errors
    /// [`SandboxError::InvalidSpec`].
    pub fn validate(&self) -> Result<(), SandboxError> {
        validate_program(&self.args, &self.env)?;
        absolute("cwd", &self.cwd)?;
        validate_input(&self.stdin, self.terminal)
    }
}

/// Checks standard input beside a terminal.
pub(crate) fn validate_input(
    stdin: &Stdin,
    terminal: Option<TerminalSize>,
) -> Result<(), SandboxError> {
    match stdin {
        Stdin::Bytes(_) if terminal.is_some() => Err(invalid(
            "stdin",
            "bytes cannot be given to a command with a terminal: write them to its input",
        )),
        _ if stdin.len() > MAX_CONTENTS => Err(invalid(
            "stdin",
            format!("{} bytes, at most {MAX_CONTENTS} fit", stdin.len()),
        )),
        _ => Ok(()),
    }
}

impl Handle {
    /// Starts a further command in all namespaces and control groups of the sandbox; waits until
    /// the sandbox's own command has been executed. The command ends with the sandbox; stopping
    /// it (see [`Running::wait`]) kills it and its process group.
    ///
    /// # Errors
    /// [`SandboxError::Ended`] when the sandbox is over, and those of [`Running::start`].
    pub async fn exec(&self, spec: &ExecSpec) -> Result<Running, SandboxError> {
        spec.validate()?;
        self.start_inside(spec, None).await
    }

    /// Starts a process in the sandbox: the command of `spec`, or in its place what is to be done
    /// with a file.
    pub(crate) async fn start_inside(
        &self,
        spec: &ExecSpec,
        file: Option<FileWork>,
    ) -> Result<Running, SandboxError> {
        let (pid_1, cgroups) = self.pid_1().await.ok_or(SandboxError::Ended)?;
        let pid_1 = pid_1.try_clone().map_err(helper("start"))?;
        let (child, control) = spawn()?;
        let order = Order::Exec(Box::new(Exec {
            spec: spec.clone(),
            file,
            cgroups,
            filters: match spec.seccomp {
                Seccomp::Default => seccomp::default_filters()?.to_vec(),
                Seccomp::Unconfined => Vec::new(),
            },
        }));
        Running::connect(
            child,
            control,
            &order,
            vec![pid_1],
            &spec.stdin,
            spec.terminal,
            spec.timeout,
        )
    }
}
