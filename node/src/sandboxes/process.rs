//! One process of a sandbox as clients reach it: output, input, terminal, signals.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex as SyncMutex, MutexGuard, PoisonError};

use chalk_core::wire::{
    ExecRequest, OutputEventKind, Problem, ProcessStatus, SandboxEnd, Stream, TerminalSize, problem,
};
use chalk_sandbox::{Exit, Handle, Input, OutputSink, Running, SandboxError, Status};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use super::log::Log;
use super::problems::{bad_request, node_failed, not_running, of_sandbox};

/// How a process ended, in words of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended {
    /// 128 and the signal's number when one ended it.
    pub(super) code: i32,
    pub(super) signal: Option<i32>,
    /// What ended it from outside.
    pub(super) ended_by: Option<SandboxEnd>,
}

/// A process, before, while and after it runs.
#[derive(Debug)]
pub(super) struct Process {
    /// What was asked for; `None` for the main one, and for those of an earlier life of the node.
    what: Option<ExecRequest>,
    log: Log,
    handle: SyncMutex<Option<Handle>>,
    /// `None` when clients have none, or it was closed.
    input: Mutex<Option<Input>>,
    /// Whether `handle` and `input` are there, or never will be.
    ready: watch::Sender<bool>,
}

impl Process {
    /// A process that does not run yet.
    pub(super) fn new(log: Log) -> Process {
        Process {
            what: None,
            log,
            handle: SyncMutex::default(),
            input: Mutex::new(None),
            ready: watch::Sender::new(false),
        }
    }

    /// A further process that was asked for so; what is kept of that is for people.
    pub(super) fn further(log: Log, request: &ExecRequest) -> Process {
        let mut args = request.args.clone();
        super::brief::shorten_list(&mut args);
        Process {
            what: Some(ExecRequest {
                args,
                // Values may be secret.
                env: BTreeMap::new(),
                ..request.clone()
            }),
            ..Process::new(log)
        }
    }

    /// What it is, and how it goes.
    pub(super) fn status(&self, name: String) -> ProcessStatus {
        let what = self.what.clone().unwrap_or_default();
        ProcessStatus {
            process: name,
            args: what.args,
            workdir: what.workdir,
            tty: what.tty.is_some(),
            timeout_seconds: what.timeout_seconds,
            end: self.log.how_ended(),
        }
    }

    /// A process of an earlier life of the node.
    pub(super) fn ended(log: Log) -> Process {
        let process = Process::new(log);
        process.ready.send_replace(true);
        process
    }

    fn handle(&self) -> MutexGuard<'_, Option<Handle>> {
        self.handle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn log(&self) -> &Log {
        &self.log
    }

    /// Makes a process that was started reachable. Clients get its input only with `input`: a
    /// terminal can be typed into even so.
    pub(super) async fn connect(&self, running: &mut Running, input: bool) {
        *self.handle() = Some(running.handle());
        if input {
            *self.input.lock().await = running.take_input();
        }
        self.ready.send_replace(true);
    }

    /// Waits for its end; what it prints goes to the log, whose end is not written.
    pub(super) async fn wait(
        &self,
        running: Running,
        cancel: &CancellationToken,
    ) -> Result<Exit, SandboxError> {
        let mut sink = Sink(&self.log);
        running.wait(&mut sink, cancel).await
    }

    /// Says how it ended.
    pub(super) fn finish(&self, result: &Result<Ended, Problem>) {
        self.log.end(match result {
            Ok(ended) => OutputEventKind::Exited {
                code: ended.code,
                signal: ended.signal,
                ended_by: ended.ended_by,
            },
            Err(error) => OutputEventKind::Failed {
                error: error.clone(),
            },
        });
        self.ready.send_replace(true);
    }

    pub(super) async fn input(&self, data: &[u8], close: bool) -> Result<(), Problem> {
        self.running().await?;
        let mut input = self.input.lock().await;
        let Some(open) = input.as_mut() else {
            return Err(bad_request(
                "standard input is not open",
                "the process was started without one, or it was closed before",
                "start it with an open standard input (-i)",
            ));
        };
        let written = open.write(data).await;
        if !close {
            return written.map_err(|error| input_problem(&error));
        }
        let closed = match input.take() {
            Some(input) => input.close().await,
            None => Ok(()),
        };
        // To close what nobody reads any more is what was wanted.
        match written.and(closed) {
            Err(error) if data.is_empty() && error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result.map_err(|error| input_problem(&error)),
        }
    }

    pub(super) async fn resize(&self, size: TerminalSize) -> Result<(), Problem> {
        let handle = self.running().await?;
        let size = chalk_sandbox::TerminalSize {
            rows: size.rows,
            cols: size.cols,
        };
        handle.resize(size).await.map_err(|error| {
            if error.kind() == io::ErrorKind::Unsupported {
                bad_request("the process has no terminal", "", "start it with one (-t)")
            } else {
                input_problem(&error)
            }
        })
    }

    pub(super) async fn signal(&self, signal: i32) -> Result<(), Problem> {
        self.running().await?.signal(signal);
        Ok(())
    }

    /// Waits until it was started.
    pub(super) async fn running(&self) -> Result<Handle, Problem> {
        let _ = self.ready.subscribe().wait_for(|ready| *ready).await;
        match self.handle().clone() {
            Some(handle) if !self.log.has_ended() => Ok(handle),
            _ => Err(not_running("the process does not run any more", "")),
        }
    }
}

/// How a process ended, as far as it can tell itself.
pub(super) fn how_ended(exit: &Result<Exit, SandboxError>) -> Result<Ended, Problem> {
    let killed = Ended {
        code: 128 + libc::SIGKILL,
        signal: Some(libc::SIGKILL),
        ended_by: None,
    };
    match exit {
        Ok(exit) => Ok(match exit.status {
            // A stop is a kill in the end.
            Status::Cancelled => killed,
            Status::TimedOut => Ended {
                code: exit.status.shell_code(),
                ended_by: Some(SandboxEnd::TimedOut),
                ..killed
            },
            Status::Signal(signal) => Ended {
                code: exit.status.shell_code(),
                signal: Some(signal),
                ended_by: None,
            },
            Status::Code(code) => Ended {
                code,
                signal: None,
                ended_by: None,
            },
        }),
        Err(error) => match error.exit_code() {
            Some(code) => {
                let mut refusal = of_sandbox(error);
                refusal.kind = match code {
                    127 => problem::COMMAND_NOT_FOUND,
                    _ => problem::COMMAND_NOT_EXECUTABLE,
                }
                .to_owned();
                Err(refusal)
            }
            None => Err(of_sandbox(error)),
        },
    }
}

fn input_problem(error: &io::Error) -> Problem {
    if error.kind() == io::ErrorKind::BrokenPipe {
        not_running("the process does not read any more", "")
    } else {
        node_failed("the process cannot be reached", error)
    }
}

struct Sink<'a>(&'a Log);

impl OutputSink for Sink<'_> {
    async fn write(&mut self, stream: chalk_sandbox::Stream, bytes: &[u8]) {
        let stream = match stream {
            chalk_sandbox::Stream::Stdout => Stream::Stdout,
            chalk_sandbox::Stream::Stderr => Stream::Stderr,
        };
        self.0.room().await;
        self.0.write(stream, bytes);
    }
}
