//! The streams of a process of a sandbox: its output comes here, input, size and signals go there.

use std::io::ErrorKind;

use base64::Engine as _;
use bytes::Bytes;
use chalk_core::wire::{OutputEvent, OutputEventKind, SandboxEnd, SignalRequest, Stream, exit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::keys::DetachKeys;
use super::terminal::{self, RawMode};
use crate::client::{Client, segment};
use crate::connect::Server;
use crate::error::Failure;
use crate::output;
use crate::progress::bytes;

/// Input is sent in pieces of at most this size.
const PIECE: usize = 64 << 10;
/// Interrupts after which a process that heeds none is left.
const PATIENCE: u32 = 3;

/// A process that the command is attached to.
pub(super) struct Attach<'a> {
    pub(super) server: &'a Server,
    pub(super) sandbox: &'a str,
    pub(super) process: &'a str,
    /// Number of the last event that is not wanted.
    pub(super) after: u64,
    /// Whether standard input is passed on.
    pub(super) stdin: bool,
    /// Whether the process has a terminal.
    pub(super) tty: bool,
    /// Whether the process is to end when this command cannot be heard any more.
    pub(super) ends_with_us: bool,
    pub(super) json: bool,
}

/// How being attached ended.
enum Way {
    /// The process ended, or its output is not wanted any more.
    Output(Option<OutputEvent>),
    /// The user left it running.
    Detached,
    /// The user does not want to wait.
    Left,
}

impl Attach<'_> {
    /// Passes everything on until the process ends; its exit code is a [`Failure::code`].
    pub(super) async fn run(self) -> Result<(), Failure> {
        let raw = if self.tty && self.stdin {
            Some(RawMode::enter()?)
        } else {
            None
        };
        let way = tokio::select! {
            way = self.follow() => way,
            way = self.feed() => way,
            way = self.signals() => way,
        };
        drop(raw);
        match way? {
            Way::Output(Some(end)) => self.end(&end),
            Way::Output(None) => Ok(()),
            Way::Detached => {
                output::aside(&format!(
                    "\n{id} goes on; `chalk compute sandbox attach {id}` comes back to it",
                    id = self.sandbox
                ));
                Ok(())
            }
            Way::Left => Err(self.leave().await),
        }
    }

    fn path(&self, what: &str) -> String {
        format!(
            "/v1/sandboxes/{}/processes/{}/{what}",
            segment(self.sandbox),
            segment(self.process)
        )
    }

    fn client(&self) -> &Client {
        self.server.client()
    }

    async fn follow(&self) -> Result<Way, Failure> {
        let path = self.path("output?follow=true");
        let mut events = self.client().events::<OutputEvent>(path, self.after);
        let mut printer = Printer::new(self.json);
        loop {
            let event = events.next().await?;
            if !printer.print(&event).await? {
                return Ok(Way::Output(None));
            }
            if printer.ended() {
                return Ok(Way::Output(Some(event)));
            }
        }
    }

    /// Passes standard input on, a piece only when the one before was taken.
    async fn feed(&self) -> Result<Way, Failure> {
        if !self.stdin {
            return std::future::pending().await;
        }
        let mut stdin = tokio::io::stdin();
        let mut keys = DetachKeys::default();
        let mut buffer = vec![0; PIECE];
        loop {
            let count = match stdin.read(&mut buffer).await {
                Ok(count) => count,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(_) => 0,
            };
            let (piece, detach) = if self.tty {
                keys.filter(&buffer[..count])
            } else {
                (buffer[..count].to_vec(), false)
            };
            let path = if count == 0 {
                "input?close=true"
            } else {
                "input"
            };
            if count == 0 || !piece.is_empty() {
                let path = self.path(path);
                match self.client().bytes(&path, Bytes::from(piece)).await {
                    Ok(()) => {}
                    // It ended, or closed its input: its output tells the rest.
                    Err(failure) if failure.code != exit::UNREACHABLE => {
                        return std::future::pending().await;
                    }
                    Err(failure) => {
                        return Err(Failure {
                            what: format!("input was lost: {}", failure.what),
                            ..failure
                        });
                    }
                }
            }
            if detach {
                return Ok(Way::Detached);
            }
            if count == 0 {
                return std::future::pending().await;
            }
        }
    }

    /// Passes signals and changes of the terminal's size on.
    async fn signals(&self) -> Result<Way, Failure> {
        let (sender, mut signals) = mpsc::channel::<&'static str>(16);
        let all = [
            (SignalKind::interrupt(), "INT"),
            (SignalKind::terminate(), "TERM"),
            (SignalKind::hangup(), "HUP"),
            (SignalKind::quit(), "QUIT"),
            (SignalKind::user_defined1(), "USR1"),
            (SignalKind::user_defined2(), "USR2"),
            (SignalKind::window_change(), "WINCH"),
        ];
        for (kind, name) in all {
            let mut stream = signal(kind)
                .map_err(|e| Failure::new(exit::FAILED, "cannot handle signals").why(e))?;
            let sender = sender.clone();
            tokio::spawn(async move {
                while stream.recv().await.is_some() {
                    if sender.send(name).await.is_err() {
                        return;
                    }
                }
            });
        }
        let mut interrupts = 0;
        while let Some(name) = signals.recv().await {
            if name == "WINCH" {
                if self.tty {
                    // A size that is lost is followed by the next one.
                    let path = self.path("resize");
                    let _ = self.client().tell(&path, &terminal::size()).await;
                }
                continue;
            }
            let ends = matches!(name, "INT" | "TERM" | "HUP" | "QUIT");
            interrupts += u32::from(ends);
            let request = SignalRequest {
                signal: name.to_owned(),
            };
            let path = self.path("signal");
            let told = self.client().tell(&path, &request).await;
            // Before it runs there is nobody to tell.
            if ends && (told.is_err() || interrupts >= PATIENCE) {
                return Ok(Way::Left);
            }
        }
        std::future::pending().await
    }

    /// Leaves a process that does not heed signals.
    async fn leave(&self) -> Failure {
        if !self.ends_with_us || self.process != "main" {
            return Failure::interrupted().why(format!("{} goes on", self.sandbox));
        }
        let path = format!("/v1/sandboxes/{}?force=true", segment(self.sandbox));
        tokio::select! {
            _ = self.client().delete(&path) => {}
            () = tokio::time::sleep(std::time::Duration::from_secs(3)) => {}
        }
        Failure::interrupted().why(format!("{} was removed", self.sandbox))
    }

    fn end(&self, end: &OutputEvent) -> Result<(), Failure> {
        match &end.kind {
            OutputEventKind::Exited { code, ended_by, .. } => {
                match ended_by.filter(|_| !self.json) {
                    Some(SandboxEnd::TimedOut) => {
                        output::aside("error: the sandbox was stopped: its time was over");
                    }
                    Some(SandboxEnd::OutOfMemory) => output::aside(
                        "error: the sandbox was killed: it needed more memory than it may have\n  try: --memory",
                    ),
                    Some(SandboxEnd::Stopped) => output::aside("the sandbox was stopped"),
                    Some(SandboxEnd::Disconnected) | None => {}
                }
                match code {
                    0 => Ok(()),
                    // As a shell sees it.
                    code => Err(Failure::code((*code & 0xff) as u8)),
                }
            }
            OutputEventKind::Failed { error } => {
                let failure = Failure::from(error.clone());
                Err(if self.json {
                    failure.printed()
                } else {
                    failure
                })
            }
            OutputEventKind::Output { .. } | OutputEventKind::Dropped { .. } => Ok(()),
        }
    }
}

/// Prints output as it is, or events as JSON lines.
pub(super) struct Printer {
    json: bool,
    ended: bool,
    out: tokio::io::Stdout,
    err: tokio::io::Stderr,
}

impl Printer {
    pub(super) fn new(json: bool) -> Self {
        Self {
            json,
            ended: false,
            out: tokio::io::stdout(),
            err: tokio::io::stderr(),
        }
    }

    /// Whether the end of the process was among the events.
    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// Prints an event; `false` when nobody reads any more.
    pub(super) async fn print(&mut self, event: &OutputEvent) -> Result<bool, Failure> {
        if self.json {
            output::json(event)?;
        }
        match &event.kind {
            OutputEventKind::Output { stream, data } if !self.json => {
                let decoded = base64::engine::general_purpose::STANDARD
                    .decode(data)
                    .map_err(|e| {
                        Failure::new(exit::UNREACHABLE, "the service sent output that is none")
                            .why(e)
                    })?;
                let written = match stream {
                    Stream::Stdout => write(&mut self.out, &decoded).await,
                    Stream::Stderr => write(&mut self.err, &decoded).await,
                };
                match written {
                    Ok(()) => Ok(true),
                    Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
                    Err(e) => Err(Failure::new(exit::FAILED, "cannot write the output").why(e)),
                }
            }
            OutputEventKind::Dropped { bytes: count } if !self.json => {
                output::aside(&format!("[{} of output were dropped]", bytes(*count)));
                Ok(true)
            }
            OutputEventKind::Exited { .. } | OutputEventKind::Failed { .. } => {
                self.ended = true;
                Ok(true)
            }
            OutputEventKind::Output { .. } | OutputEventKind::Dropped { .. } => Ok(true),
        }
    }
}

async fn write(to: &mut (impl tokio::io::AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}
