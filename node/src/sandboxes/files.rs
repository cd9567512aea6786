//! Files of a sandbox, in and out, with the rights of its user and as seen from inside.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chalk_core::wire::agent::FileFailure;
use chalk_sandbox::{
    Exit, FileInput, FileWork, OutputSink, Running, SandboxError, Status, Stream, User,
};
use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::problems::{not_running, of_sandbox};
use super::{Entry, MAIN};
use crate::agent::{FileBytes, FileError, FileWriter};

/// Pieces of a file that are read ahead of who takes them.
const AHEAD: usize = 4;
/// How long a process may take to take back what it has begun to write.
const PATIENCE: Duration = Duration::from_secs(5);

/// Opens a file to read it.
pub(super) async fn read(entry: &Arc<Entry>, path: &str) -> Result<FileBytes, FileError> {
    let path = path.to_owned();
    let running = start(entry, FileWork::Read { path }).await?;
    let open = running.handle();
    let (sender, mut pieces) = mpsc::channel(AHEAD);
    let cancel = entry.cancel.child_token();
    tokio::spawn(async move {
        let mut sink = Pieces {
            sender: sender.clone(),
            cancel: cancel.clone(),
        };
        let exit = running.wait(&mut sink, &cancel).await;
        if let Err(error) = outcome(exit) {
            let _ = sender.send(Err(error)).await;
        }
    });
    if !open.started().await
        && let Some(Err(error)) = pieces.recv().await
    {
        return Err(error);
    }
    let pieces = ReceiverStream::new(pieces);
    Ok(Box::pin(pieces.map(|piece| {
        piece.map_err(|error| std::io::Error::other(error.to_string()))
    })))
}

/// Opens a file to write it.
pub(super) async fn write(
    entry: &Arc<Entry>,
    path: &str,
    mode: Option<u32>,
) -> Result<Box<dyn FileWriter>, FileError> {
    let path = path.to_owned();
    let mut running = start(entry, FileWork::Write { path, mode }).await?;
    let (open, input) = (running.handle(), running.take_input());
    let cancel = entry.cancel.child_token();
    let token = cancel.clone();
    let task = tokio::spawn(async move {
        let mut sink = |_: Stream, _: &[u8]| ();
        outcome(running.wait(&mut sink, &token).await)
    });
    let mut writer = Writer {
        input: input.map(FileInput::new),
        task: Some(task),
        cancel,
        bytes: 0,
    };
    if open.started().await {
        Ok(Box::new(writer))
    } else {
        Err(writer.why().await)
    }
}

/// Starts the process that does it, once the sandbox runs.
async fn start(entry: &Arc<Entry>, work: FileWork) -> Result<Running, FileError> {
    let main = entry.processes().get(MAIN).cloned();
    let main = main.ok_or_else(gone)?;
    let handle = main.running().await.map_err(|_| gone())?;
    let (cwd, user) = match &*entry.main() {
        Some(main) => (PathBuf::from(&main.workdir), User::Named(main.user.clone())),
        None => return Err(gone().into()),
    };
    handle
        .file(work, &cwd, user)
        .await
        .map_err(|error| failure(&error))
}

fn gone() -> chalk_core::wire::Problem {
    not_running("the sandbox does not run any more", "")
}

fn outcome(exit: Result<Exit, SandboxError>) -> Result<(), FileError> {
    match exit {
        Ok(exit) if exit.status == Status::Code(0) => Ok(()),
        Ok(_) => Err(gone().into()),
        Err(error) => Err(failure(&error)),
    }
}

fn failure(error: &SandboxError) -> FileError {
    match error {
        SandboxError::File { source, path, .. } => {
            let errno = source.raw_os_error().unwrap_or(libc::EIO);
            let detail = match errno {
                libc::EOPNOTSUPP => format!("{path} is no regular file"),
                _ => error.to_string(),
            };
            FileError::Failed(FileFailure { errno, detail })
        }
        error => of_sandbox(error).into(),
    }
}

/// Takes what is read.
struct Pieces {
    sender: mpsc::Sender<Result<Bytes, FileError>>,
    cancel: CancellationToken,
}

impl OutputSink for Pieces {
    async fn write(&mut self, stream: Stream, bytes: &[u8]) {
        if stream == Stream::Stdout
            && self
                .sender
                .send(Ok(Bytes::copy_from_slice(bytes)))
                .await
                .is_err()
        {
            // Nobody wants the rest.
            self.cancel.cancel();
        }
    }
}

/// A file that is being written.
struct Writer {
    input: Option<FileInput>,
    /// Waits for the process, and says how that went.
    task: Option<JoinHandle<Result<(), FileError>>>,
    cancel: CancellationToken,
    bytes: u64,
}

impl Writer {
    /// Waits for the end of the process.
    async fn end(&mut self) -> Result<(), FileError> {
        match self.task.take() {
            Some(task) => task.await.unwrap_or_else(|_| Err(gone().into())),
            None => Err(gone().into()),
        }
    }

    /// Why nothing can be written any more.
    async fn why(&mut self) -> FileError {
        self.input = None;
        match self.end().await {
            Ok(()) => gone().into(),
            Err(error) => error,
        }
    }
}

#[async_trait]
impl FileWriter for Writer {
    async fn write(&mut self, bytes: Bytes) -> Result<(), FileError> {
        let written = match &mut self.input {
            Some(input) => input.write(&bytes).await.is_ok(),
            None => false,
        };
        if !written {
            return Err(self.why().await);
        }
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    async fn commit(mut self: Box<Self>) -> Result<u64, FileError> {
        if let Some(input) = self.input.take()
            && input.commit().await.is_err()
        {
            return Err(self.why().await);
        }
        self.end().await.map(|()| self.bytes)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let Some(mut task) = self.task.take() else {
            return;
        };
        // The process sees its end, and takes back what it has begun.
        self.input = None;
        let cancel = self.cancel.clone();
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                runtime.spawn(async move {
                    if tokio::time::timeout(PATIENCE, &mut task).await.is_err() {
                        cancel.cancel();
                    }
                });
            }
            Err(_) => cancel.cancel(),
        }
    }
}
