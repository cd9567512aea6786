//! `chalk.sandbox.v2.SandboxProcessService`: commands in sandboxes.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Bytes;
use base64::Engine as _;
use chalk_core::wire::{
    ExecRequest, OutputEvent, OutputEventKind, ProcessStatus as Known, SandboxEnd, Stream,
    TerminalSize, problem,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::super::proto::chalk::sandbox::v2::sandbox_process_service_server::SandboxProcessService;
use super::super::proto::chalk::sandbox::v2::{
    ExecCommandRequest, ExecCommandResponse, GetSessionRequest, GetSessionResponse,
    ListSessionsRequest, ListSessionsResponse, NewProcess, OpenSessionRequest, OpenSessionResponse,
    ProcessState, ProcessStatus, PtyInfo, SessionInfo,
};
use super::super::{scope, status};
use super::{exact, seconds, session};
use crate::projects::Scope;
use crate::sandboxes::Wanted;
use crate::service::Service;

/// Most bytes of output of a command whose output is one answer.
const OUTPUT: usize = 64 << 20;
/// Size of a terminal that says none.
const USUAL: TerminalSize = TerminalSize { rows: 24, cols: 80 };

/// `chalk.sandbox.v2.SandboxProcessService`
#[derive(Clone)]
pub(in super::super) struct Processes {
    service: Arc<Service>,
}

impl Processes {
    pub(in super::super) fn new(service: Arc<Service>) -> Self {
        Self { service }
    }
}

#[tonic::async_trait]
impl SandboxProcessService for Processes {
    async fn exec_command(
        &self,
        request: Request<ExecCommandRequest>,
    ) -> Result<Response<ExecCommandResponse>, Status> {
        let scope = scope(&request)?;
        let asked = request.into_inner();
        let sandbox = exact(&self.service, &scope, &asked.sandbox_id)?;
        let mut exec = exec_request(Command {
            command: asked.command,
            args: asked.args,
            workdir: asked.workdir,
            env: asked.env_vars,
            timeout: asked.timeout,
            pty: None,
        })?;
        exec.stdin = asked.stdin.is_some();
        let sandboxes = self.service.fleet().sandboxes();
        let started = sandboxes.exec(&sandbox.id, exec).await;
        let process = started.map_err(|problem| status::of(&problem))?.process;
        let mut running = Running {
            service: self.service.clone(),
            sandbox: sandbox.id,
            process,
            ended: false,
        };
        let (done, ()) = tokio::join!(running.gather(), running.give(asked.stdin));
        running.ended = done.is_ok();
        done.map(Response::new)
    }

    type OpenSessionStream = ReceiverStream<Result<OpenSessionResponse, Status>>;

    async fn open_session(
        &self,
        request: Request<Streaming<OpenSessionRequest>>,
    ) -> Result<Response<Self::OpenSessionStream>, Status> {
        // The head of the answer goes out at once: there are clients that send nothing before it.
        let events = session::serve(self.service.clone(), scope(&request)?, request.into_inner());
        Ok(Response::new(events))
    }

    async fn get_session(
        &self,
        request: Request<GetSessionRequest>,
    ) -> Result<Response<GetSessionResponse>, Status> {
        let scope = scope(&request)?;
        let asked = request.into_inner();
        let found = find(&self.service, &scope, &asked.sandbox_id, &asked.session_id).await?;
        Ok(Response::new(GetSessionResponse {
            session: Some(session_info(&asked.sandbox_id, found)),
        }))
    }

    async fn list_sessions(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        let scope = scope(&request)?;
        let id = request.into_inner().sandbox_id;
        let sandbox = exact(&self.service, &scope, &id)?;
        let sandboxes = self.service.fleet().sandboxes();
        let known = sandboxes.processes(&sandbox.id).await;
        let known = known.map_err(|problem| status::of(&problem))?;
        let sessions = known.into_iter().map(|known| session_info(&id, known));
        Ok(Response::new(ListSessionsResponse {
            sessions: sessions.collect(),
        }))
    }
}

/// A command that runs while its client waits for all of its output.
struct Running {
    service: Arc<Service>,
    sandbox: String,
    process: String,
    ended: bool,
}

impl Running {
    /// Gives it its input.
    async fn give(&self, stdin: Option<Bytes>) {
        let Some(stdin) = stdin else {
            return;
        };
        let sandboxes = self.service.fleet().sandboxes();
        let given = sandboxes.input(&self.sandbox, &self.process, &stdin, true);
        if let Err(error) = given.await {
            // It need not read all that it is given.
            tracing::debug!(why = error.detail, "input was not taken");
        }
    }

    /// Its output, to its end.
    async fn gather(&self) -> Result<ExecCommandResponse, Status> {
        let wanted = Wanted {
            process: self.process.clone(),
            after: 0,
            follow: true,
        };
        let sandboxes = self.service.fleet().sandboxes();
        let followed = sandboxes.follow(&self.sandbox, wanted).await;
        let mut output = followed.map_err(|problem| status::of(&problem))?;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        loop {
            let next = tokio::select! {
                next = output.next() => next,
                () = self.service.fleet().stop().cancelled() => None,
            };
            let Some(event) = next else {
                return Err(session::lost());
            };
            match read(&event)?.kind {
                OutputEventKind::Output { stream, data } => {
                    let into = match stream {
                        Stream::Stdout => &mut stdout,
                        Stream::Stderr => &mut stderr,
                    };
                    into.extend(bytes(&data)?);
                    if stdout.len() + stderr.len() > OUTPUT {
                        return Err(Status::resource_exhausted(format!(
                            "the command was killed: its output is longer than {OUTPUT} bytes; open a session to follow it"
                        )));
                    }
                }
                OutputEventKind::Dropped { bytes } => {
                    return Err(Status::data_loss(format!(
                        "{bytes} bytes of output were dropped before they were read"
                    )));
                }
                OutputEventKind::Exited {
                    ended_by: Some(SandboxEnd::TimedOut),
                    ..
                } => {
                    return Err(Status::deadline_exceeded(
                        "the command was killed: its time was over",
                    ));
                }
                OutputEventKind::Exited { code, .. } => {
                    return Ok(ExecCommandResponse {
                        stdout: stdout.into(),
                        stderr: stderr.into(),
                        exit_code: code,
                    });
                }
                OutputEventKind::Failed { error } => return Err(status::of(&error)),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // Nobody can see what it does any more.
        let (service, sandbox) = (self.service.clone(), self.sandbox.clone());
        let process = self.process.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let sandboxes = service.fleet().sandboxes();
                let killed = sandboxes.signal(&sandbox, &process, "KILL".to_owned());
                if let Err(error) = killed.await
                    && error.kind != problem::NOT_RUNNING
                {
                    tracing::debug!(why = error.detail, "a command was not killed");
                }
            });
        }
    }
}

/// A command as its different requests have it.
pub(super) struct Command {
    pub(super) command: String,
    pub(super) args: Vec<String>,
    pub(super) workdir: Option<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) timeout: Option<prost_types::Duration>,
    pub(super) pty: Option<PtyInfo>,
}

/// What is asked of a node for a command.
pub(super) fn exec_request(command: Command) -> Result<ExecRequest, Status> {
    if command.command.is_empty() {
        return Err(Status::invalid_argument("command: expected a program"));
    }
    let timeout = command.timeout.as_ref();
    let timeout = timeout.map(|timeout| seconds("timeout", timeout));
    let mut args = vec![command.command];
    args.extend(command.args);
    Ok(ExecRequest {
        args,
        env: command.env,
        workdir: command.workdir.filter(|workdir| !workdir.is_empty()),
        user: None,
        tty: command
            .pty
            .map(|pty| size(pty.rows, pty.cols))
            .transpose()?,
        stdin: true,
        timeout_seconds: timeout.transpose()?,
    })
}

/// Size of a terminal; the usual one where none is said.
pub(super) fn size(rows: u32, cols: u32) -> Result<TerminalSize, Status> {
    if (rows, cols) == (0, 0) {
        return Ok(USUAL);
    }
    match (u16::try_from(rows), u16::try_from(cols)) {
        (Ok(rows @ 1..), Ok(cols @ 1..)) => Ok(TerminalSize { rows, cols }),
        _ => Err(Status::invalid_argument(format!(
            "rows and cols: expected 1 to 65535, found {rows} and {cols}"
        ))),
    }
}

/// A session of a sandbox.
pub(super) async fn find(
    service: &Service,
    scope: &Scope,
    sandbox: &str,
    session: &str,
) -> Result<Known, Status> {
    let sandbox = exact(service, scope, sandbox)?;
    let known = service.fleet().sandboxes().processes(&sandbox.id).await;
    let known = known.map_err(|problem| status::of(&problem))?;
    let found = known.into_iter().find(|known| known.process == session);
    found.ok_or_else(|| {
        Status::not_found(format!(
            "sandbox `{}` has no session `{session}`, or no more: the last that ended are kept",
            sandbox.id
        ))
    })
}

/// How a process goes, by its last event.
pub(super) fn process_status(end: Option<&OutputEventKind>) -> ProcessStatus {
    let mut told = ProcessStatus::default();
    let state = match end {
        Some(OutputEventKind::Exited {
            code,
            signal,
            ended_by,
        }) => {
            told.exit_code = signal.is_none().then_some(*code);
            told.signal = *signal;
            match ended_by {
                Some(SandboxEnd::TimedOut) => ProcessState::TimedOut,
                _ => ProcessState::Exited,
            }
        }
        Some(OutputEventKind::Failed { .. }) => ProcessState::Failed,
        Some(OutputEventKind::Output { .. } | OutputEventKind::Dropped { .. }) | None => {
            ProcessState::Running
        }
    };
    told.set_state(state);
    told
}

fn session_info(sandbox: &str, known: Known) -> SessionInfo {
    let mut args = known.args.into_iter();
    let timeout = known.timeout_seconds.unwrap_or_default();
    let timeout = std::time::Duration::try_from_secs_f64(timeout).ok();
    SessionInfo {
        session_id: known.process,
        process_status: Some(process_status(known.end.as_ref())),
        new_process: Some(NewProcess {
            sandbox_id: sandbox.to_owned(),
            command: args.next().unwrap_or_default(),
            args: args.collect(),
            workdir: known.workdir,
            env_vars: BTreeMap::new(),
            timeout: timeout
                .filter(|timeout| !timeout.is_zero())
                .and_then(|timeout| timeout.try_into().ok()),
            pty_info: known.tty.then(PtyInfo::default),
        }),
    }
}

/// An event of a node.
pub(super) fn read(event: &crate::sandboxes::Event) -> Result<OutputEvent, Status> {
    event
        .read()
        .map_err(|error| Status::internal(format!("the node sent something else: {error}")))
}

/// The bytes of an event.
pub(super) fn bytes(data: &str) -> Result<Vec<u8>, Status> {
    base64::engine::general_purpose::STANDARD
        .decode(data)
        .map_err(|error| Status::internal(format!("the node sent something else: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_become_states() {
        let check = |end: Option<OutputEventKind>,
                     expect: (ProcessState, Option<i32>, Option<i32>)| {
            let told = process_status(end.as_ref());
            assert_eq!((told.state(), told.exit_code, told.signal), expect);
        };
        let exited = |code, signal, ended_by| {
            Some(OutputEventKind::Exited {
                code,
                signal,
                ended_by,
            })
        };
        check(None, (ProcessState::Running, None, None));
        check(exited(3, None, None), (ProcessState::Exited, Some(3), None));
        check(
            exited(143, Some(15), None),
            (ProcessState::Exited, None, Some(15)),
        );
        let late = exited(124, Some(9), Some(SandboxEnd::TimedOut));
        check(late, (ProcessState::TimedOut, None, Some(9)));
    }

    #[test]
    fn sizes_of_terminals() {
        let check = |rows, cols, expect: Option<(u16, u16)>| {
            let got = size(rows, cols).ok().map(|size| (size.rows, size.cols));
            assert_eq!(got, expect);
        };
        check(0, 0, Some((24, 80)));
        check(50, 132, Some((50, 132)));
        check(0, 80, None);
        check(70_000, 80, None);
    }
}
