//! One session of a client with a process: output goes out while requests come in. Neither waits for
//! the other, since a process that nobody reads may not read what it is given.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use chalk_core::wire::{OutputEventKind, Problem, SandboxEnd, Stream, problem};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::super::proto::chalk::sandbox::v2::open_session_request::Command as Asked;
use super::super::proto::chalk::sandbox::v2::open_session_response::Event;
use super::super::proto::chalk::sandbox::v2::output_data::Stream as ProtoStream;
use super::super::proto::chalk::sandbox::v2::{
    AttachSession, NewProcess, OpenSessionRequest, OpenSessionResponse, OutputData, ProcessExited,
    ProcessFailed, ProcessTimedOut, SessionAttached, SessionDetached, SessionError,
};
use super::super::status;
use super::exact;
use super::processes::{self, Command, exec_request, process_status, size};
use crate::projects::Scope;
use crate::sandboxes::{Output, Wanted};
use crate::service::Service;

/// How long a client may take for its first request.
const FIRST: Duration = Duration::from_secs(60);
/// Events that may wait for a client.
const AHEAD: usize = 16;
/// Pieces of input that may wait for the process, so that a signal gets past them.
const INPUT: usize = 4;

/// How long a process may take for the last input of a client that leaves.
const LAST_INPUT: Duration = Duration::from_secs(10);

type Answers = mpsc::Sender<Result<OpenSessionResponse, Status>>;

/// Why a session is over that its client did not end.
enum Over {
    /// Nothing is to be said any more.
    Said,
    Failed(Status),
}

impl From<Status> for Over {
    fn from(status: Status) -> Self {
        Self::Failed(status)
    }
}

/// A process that the client is attached to.
struct Session {
    service: Arc<Service>,
    scope: Scope,
    sandbox: String,
    process: String,
    tty: bool,
    answers: Answers,
}

/// The node went away, or the service goes: the process goes on, if its node does.
pub(super) fn lost() -> Status {
    Status::unavailable("the output broke off: attach to the session again")
}

/// Serves a client in the background; what is told it is given.
pub(super) fn serve(
    service: Arc<Service>,
    scope: Scope,
    requests: Streaming<OpenSessionRequest>,
) -> ReceiverStream<Result<OpenSessionResponse, Status>> {
    let (answers, events) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let gone = answers.clone();
        tokio::select! {
            over = run(service, scope, requests, answers.clone()) => {
                if let Err(Over::Failed(status)) = over {
                    let _ = answers.send(Err(status)).await;
                }
            }
            () = gone.closed() => {}
        }
    });
    ReceiverStream::new(events)
}

async fn run(
    service: Arc<Service>,
    scope: Scope,
    mut requests: Streaming<OpenSessionRequest>,
    answers: Answers,
) -> Result<(), Over> {
    let first = tokio::time::timeout(FIRST, requests.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("the client sent no request"))??;
    let (session, output) = match first.and_then(|first| first.command) {
        Some(Asked::NewProcess(new)) => start(service, scope, new, answers).await?,
        Some(Asked::AttachSession(attach)) => self::attach(service, scope, attach, answers).await?,
        _ => {
            let status = Status::invalid_argument(
                "the first request of a session is a new_process or an attach_session",
            );
            return Err(status.into());
        }
    };
    let (input, pieces) = mpsc::channel(INPUT);
    let mut give = pin!(session.give(pieces));
    let mut listen = pin!(session.listen(&mut requests, input));
    let mut tell = pin!(session.tell(output));
    let mut given = false;
    loop {
        tokio::select! {
            told = &mut tell => return told,
            () = &mut give, if !given => given = true,
            heard = &mut listen => {
                heard?;
                break;
            }
        }
    }
    if !given {
        // What was sent before the client leaves is given before.
        let _ = tokio::time::timeout(LAST_INPUT, give).await;
    }
    session
        .say(0, Event::SessionDetached(SessionDetached {}))
        .await
}

async fn start(
    service: Arc<Service>,
    scope: Scope,
    new: NewProcess,
    answers: Answers,
) -> Result<(Session, Output), Over> {
    let sandbox = exact(&service, &scope, &new.sandbox_id)?;
    let exec = exec_request(Command {
        command: new.command,
        args: new.args,
        workdir: new.workdir,
        env: new.env_vars,
        timeout: new.timeout,
        pty: new.pty_info,
    })?;
    let tty = exec.tty.is_some();
    let started = service.fleet().sandboxes().exec(&sandbox.id, exec).await;
    let process = started.map_err(|problem| status::of(&problem))?.process;
    let session = Session {
        service,
        scope,
        sandbox: sandbox.id,
        process,
        tty,
        answers,
    };
    // Known before anything can break off: the client comes back by it.
    session.attached().await?;
    let output = session.follow(0).await?;
    Ok((session, output))
}

async fn attach(
    service: Arc<Service>,
    scope: Scope,
    attach: AttachSession,
    answers: Answers,
) -> Result<(Session, Output), Over> {
    let found = processes::find(&service, &scope, &attach.sandbox_id, &attach.session_id).await?;
    let session = Session {
        service,
        scope,
        sandbox: attach.sandbox_id,
        process: found.process,
        tty: found.tty,
        answers,
    };
    let output = session.follow(attach.after_seq.unwrap_or(0)).await?;
    session.attached().await?;
    if let Some(pty) = attach
        .pty_info
        .filter(|_| session.tty && found.end.is_none())
    {
        session.resize(pty.rows, pty.cols).await?;
    }
    Ok((session, output))
}

impl Session {
    async fn say(&self, seq: u64, event: Event) -> Result<(), Over> {
        let event = Some(event);
        let answer = OpenSessionResponse { event, seq };
        self.answers.send(Ok(answer)).await.map_err(|_| Over::Said)
    }

    async fn attached(&self) -> Result<(), Over> {
        let session_id = self.process.clone();
        let attached = SessionAttached { session_id };
        self.say(0, Event::SessionAttached(attached)).await
    }

    /// A request that could not be carried out; the session goes on.
    async fn refuse(&self, code: &str, message: String) -> Result<(), Over> {
        let code = code.to_owned();
        self.say(0, Event::Error(SessionError { code, message }))
            .await
    }

    async fn follow(&self, after: u64) -> Result<Output, Status> {
        let wanted = Wanted {
            process: self.process.clone(),
            after,
            follow: true,
        };
        let sandboxes = self.service.fleet().sandboxes();
        let followed = sandboxes.follow(&self.sandbox, wanted).await;
        followed.map_err(|problem| status::of(&problem))
    }

    /// Tells the output of the process, to its end.
    async fn tell(&self, mut output: Output) -> Result<(), Over> {
        loop {
            let next = tokio::select! {
                next = output.next() => next,
                () = self.service.fleet().stop().cancelled() => None,
            };
            let event = processes::read(&next.ok_or_else(lost)?)?;
            let (told, last) = match event.kind {
                OutputEventKind::Output { stream, data } => {
                    let mut piece = OutputData {
                        data: processes::bytes(&data)?.into(),
                        ..OutputData::default()
                    };
                    piece.set_stream(match stream {
                        _ if self.tty => ProtoStream::PtyOutput,
                        Stream::Stdout => ProtoStream::Stdout,
                        Stream::Stderr => ProtoStream::Stderr,
                    });
                    (Event::OutputData(piece), false)
                }
                OutputEventKind::Dropped { bytes } => {
                    let lost = SessionError {
                        code: "output_dropped".to_owned(),
                        message: format!(
                            "{bytes} bytes of output are not kept any more: nobody read them in time"
                        ),
                    };
                    (Event::Error(lost), false)
                }
                end => (end_event(end), true),
            };
            self.say(event.seq, told).await?;
            if last {
                return Ok(());
            }
        }
    }

    /// Carries out what the client asks, until it leaves the session or is gone. One that sends nothing more may
    /// still listen.
    async fn listen(
        &self,
        requests: &mut Streaming<OpenSessionRequest>,
        input: mpsc::Sender<Option<Bytes>>,
    ) -> Result<(), Over> {
        loop {
            let request = match requests.message().await {
                Ok(Some(request)) => request,
                Ok(None) => return std::future::pending().await,
                // It is gone; the process goes on.
                Err(_) => return Err(Over::Said),
            };
            match request.command {
                Some(Asked::DetachSession(_)) => return Ok(()),
                Some(Asked::StdinData(piece)) => {
                    let _ = input.send(Some(piece.data)).await;
                }
                Some(Asked::StdinEof(_)) => {
                    let _ = input.send(None).await;
                }
                Some(Asked::Signal(signal)) => {
                    let sandboxes = self.service.fleet().sandboxes();
                    let signal = signal.signal.to_string();
                    let sent = sandboxes.signal(&self.sandbox, &self.process, signal);
                    let sent = sent.await;
                    self.unless_ended("signal", sent).await?;
                }
                Some(Asked::ResizePty(size)) => self.resize(size.rows, size.cols).await?,
                Some(Asked::GetProcessStatus(_)) => {
                    let found =
                        processes::find(&self.service, &self.scope, &self.sandbox, &self.process);
                    let told = process_status(found.await?.end.as_ref());
                    self.say(0, Event::ProcessStatus(told)).await?;
                }
                Some(Asked::NewProcess(_) | Asked::AttachSession(_)) | None => {
                    let message = "expected input, a signal, a size, or the end of the session";
                    self.refuse("invalid_request", message.to_owned()).await?;
                }
            }
        }
    }

    /// Gives the process its input; `None` is the end of it.
    async fn give(&self, mut pieces: mpsc::Receiver<Option<Bytes>>) {
        let sandboxes = self.service.fleet().sandboxes();
        while let Some(piece) = pieces.recv().await {
            let close = piece.is_none();
            let bytes = piece.unwrap_or_default();
            let given = sandboxes.input(&self.sandbox, &self.process, &bytes, close);
            match given.await {
                // To end what has ended is no mistake: a client that comes back says it again.
                Err(_) if close => {}
                given => {
                    if self.unless_ended("stdin", given).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    async fn resize(&self, rows: u32, cols: u32) -> Result<(), Over> {
        let size = match size(rows, cols) {
            Ok(size) => size,
            Err(status) => return self.refuse("resize", status.message().to_owned()).await,
        };
        let sandboxes = self.service.fleet().sandboxes();
        let resized = sandboxes.resize(&self.sandbox, &self.process, size).await;
        self.unless_ended("resize", resized).await
    }

    /// Tells the client that a request failed, unless the end of the process tells it.
    async fn unless_ended(&self, code: &str, result: Result<(), Problem>) -> Result<(), Over> {
        match result {
            Err(error) if error.kind == problem::NODE_LOST => Err(lost().into()),
            Err(error) if error.kind != problem::NOT_RUNNING => {
                self.refuse(code, status::words(&error)).await
            }
            _ => Ok(()),
        }
    }
}

/// The last event of a session.
fn end_event(end: OutputEventKind) -> Event {
    match end {
        OutputEventKind::Exited {
            code,
            signal,
            ended_by,
        } => {
            let exit_code = signal.is_none().then_some(code);
            match ended_by {
                Some(SandboxEnd::TimedOut) => {
                    Event::ProcessTimedOut(ProcessTimedOut { exit_code, signal })
                }
                _ => Event::ProcessExited(ProcessExited { exit_code, signal }),
            }
        }
        OutputEventKind::Failed { error } => Event::ProcessFailed(ProcessFailed {
            message: status::words(&error),
        }),
        OutputEventKind::Output { .. } | OutputEventKind::Dropped { .. } => {
            Event::ProcessFailed(ProcessFailed::default())
        }
    }
}
