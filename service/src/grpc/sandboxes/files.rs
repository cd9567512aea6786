//! `chalk.sandbox.v2.SandboxFilesystemService`: files of sandboxes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use chalk_core::wire::agent::FileFailure;
use futures_util::stream;
use prost::Message as _;
use rustix::io::Errno;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::super::proto::chalk::sandbox::v2::sandbox_filesystem_service_server::SandboxFilesystemService;
use super::super::proto::chalk::sandbox::v2::upload_file_request::Payload;
use super::super::proto::chalk::sandbox::v2::{
    DownloadFileRequest, DownloadFileResponse, FilesystemError, FilesystemErrorDetail,
    UploadFileMetadata, UploadFileRequest, UploadFileResponse,
};
use super::super::{scope, status};
use super::exact;
use crate::projects::Scope;
use crate::sandboxes::FileError;
use crate::service::Service;

/// How long a client may be silent while it sends a file.
const IDLE: Duration = Duration::from_secs(120);
/// Pieces of a file that may wait for a client.
const AHEAD: usize = 4;
/// Type of the detail of errors, as an `Any` has it.
const DETAIL: &str = "type.googleapis.com/chalk.sandbox.v2.FilesystemErrorDetail";

/// `chalk.sandbox.v2.SandboxFilesystemService`
#[derive(Clone)]
pub(in super::super) struct Files {
    service: Arc<Service>,
}

impl Files {
    pub(in super::super) fn new(service: Arc<Service>) -> Self {
        Self { service }
    }

    async fn upload(
        &self,
        scope: &Scope,
        metadata: UploadFileMetadata,
        requests: Streaming<UploadFileRequest>,
    ) -> Result<UploadFileResponse, Status> {
        let sandbox = exact(&self.service, scope, &metadata.sandbox_id)
            .map_err(|status| detailed(&status))?;
        check_path("destination", &metadata.destination)?;
        if metadata.mode.is_some_and(|mode| mode > 0o7777) {
            return Err(wrong("mode: expected 0 to 07777"));
        }
        let pieces = stream::try_unfold(requests, |mut requests| async move {
            let piece = tokio::time::timeout(IDLE, requests.message()).await;
            let piece = piece.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
            match piece.map_err(io::Error::other)?.map(|piece| piece.payload) {
                None => Ok(None),
                Some(Some(Payload::Data(bytes))) => Ok(Some((bytes, requests))),
                Some(Some(Payload::Metadata(_)) | None) => {
                    Err(io::Error::from(io::ErrorKind::InvalidData))
                }
            }
        });
        let sandboxes = self.service.fleet().sandboxes();
        let written = sandboxes.write_file(
            &sandbox.id,
            &metadata.destination,
            metadata.mode,
            Box::pin(pieces),
        );
        let bytes_written = written.await.map_err(of)?;
        Ok(UploadFileResponse { bytes_written })
    }
}

#[tonic::async_trait]
impl SandboxFilesystemService for Files {
    async fn upload_file(
        &self,
        request: Request<Streaming<UploadFileRequest>>,
    ) -> Result<Response<UploadFileResponse>, Status> {
        let scope = scope(&request)?;
        let mut requests = request.into_inner();
        let first = tokio::time::timeout(IDLE, requests.message()).await;
        let first =
            first.map_err(|_| Status::deadline_exceeded("the client sent no request"))??;
        match first.and_then(|first| first.payload) {
            Some(Payload::Metadata(metadata)) => self
                .upload(&scope, metadata, requests)
                .await
                .map(Response::new),
            Some(Payload::Data(_)) | None => Err(wrong("expected the metadata first")),
        }
    }

    type DownloadFileStream = ReceiverStream<Result<DownloadFileResponse, Status>>;

    async fn download_file(
        &self,
        request: Request<DownloadFileRequest>,
    ) -> Result<Response<Self::DownloadFileStream>, Status> {
        let scope = scope(&request)?;
        let asked = request.into_inner();
        let sandbox =
            exact(&self.service, &scope, &asked.sandbox_id).map_err(|status| detailed(&status))?;
        check_path("path", &asked.path)?;
        let sandboxes = self.service.fleet().sandboxes();
        let mut reader = sandboxes
            .read_file(&sandbox.id, &asked.path)
            .await
            .map_err(of)?;
        let (answers, pieces) = mpsc::channel(AHEAD);
        tokio::spawn(async move {
            loop {
                let next = tokio::select! {
                    next = reader.next() => next,
                    () = answers.closed() => return,
                };
                let answer = match next {
                    Ok(None) => return,
                    Ok(Some(data)) => Ok(DownloadFileResponse { data }),
                    Err(problem) => Err(detailed(&status::of(&problem))),
                };
                let over = answer.is_err();
                if answers.send(answer).await.is_err() || over {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(pieces)))
    }
}

fn check_path(field: &str, path: &str) -> Result<(), Status> {
    if path.is_empty() || path.contains('\0') {
        return Err(wrong(&format!("{field}: expected a path without NUL")));
    }
    Ok(())
}

fn wrong(message: &str) -> Status {
    detailed(&Status::invalid_argument(message))
}

/// What the client is told of a failure.
fn of(error: FileError) -> Status {
    match error {
        FileError::Problem(problem) => detailed(&status::of(&problem)),
        FileError::Failed(failure) => of_system(&failure),
    }
}

/// What the system inside said no to.
fn of_system(failure: &FileFailure) -> Status {
    let (code, error) = match Errno::from_raw_os_error(failure.errno) {
        Errno::NOENT => (Code::NotFound, FilesystemError::NotFound),
        Errno::ACCESS | Errno::PERM => (Code::PermissionDenied, FilesystemError::PermissionDenied),
        Errno::EXIST => (Code::AlreadyExists, FilesystemError::AlreadyExists),
        Errno::INVAL | Errno::NAMETOOLONG | Errno::LOOP | Errno::ILSEQ => {
            (Code::InvalidArgument, FilesystemError::InvalidArgument)
        }
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG | Errno::NOMEM | Errno::MFILE | Errno::NFILE => {
            (Code::ResourceExhausted, FilesystemError::ResourceExhausted)
        }
        Errno::ISDIR
        | Errno::NOTDIR
        | Errno::NOTEMPTY
        | Errno::ROFS
        | Errno::BUSY
        | Errno::OPNOTSUPP
        | Errno::TXTBSY => (
            Code::FailedPrecondition,
            FilesystemError::FailedPrecondition,
        ),
        _ => (Code::Internal, FilesystemError::Internal),
    };
    with_detail(code, &failure.detail, error, Some(failure.errno))
}

/// A status with the detail that fits its code.
fn detailed(status: &Status) -> Status {
    let error = match status.code() {
        Code::NotFound => FilesystemError::NotFound,
        Code::InvalidArgument => FilesystemError::InvalidArgument,
        Code::PermissionDenied => FilesystemError::PermissionDenied,
        Code::FailedPrecondition => FilesystemError::FailedPrecondition,
        Code::ResourceExhausted => FilesystemError::ResourceExhausted,
        _ => FilesystemError::Internal,
    };
    with_detail(status.code(), status.message(), error, None)
}

/// `google.rpc.Status`, in which details of errors travel.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

fn with_detail(
    code: Code,
    message: &str,
    error: FilesystemError,
    posix_errno: Option<i32>,
) -> Status {
    let detail = FilesystemErrorDetail {
        error: error.into(),
        posix_errno,
    };
    let status = RpcStatus {
        code: code.into(),
        message: message.to_owned(),
        details: vec![prost_types::Any {
            type_url: DETAIL.to_owned(),
            value: detail.encode_to_vec(),
        }],
    };
    Status::with_details(code, message, status.encode_to_vec().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_carry_their_number() {
        let check = |errno: i32, code: Code, expect: FilesystemError| {
            let detail = "cannot read /x".to_owned();
            let status = of_system(&FileFailure { errno, detail });
            assert_eq!((status.code(), status.message()), (code, "cannot read /x"));
            let sent = RpcStatus::decode(status.details()).unwrap();
            assert_eq!((sent.code, &*sent.message), (code as i32, "cannot read /x"));
            let detail = FilesystemErrorDetail::decode(&*sent.details[0].value).unwrap();
            assert_eq!((detail.error(), detail.posix_errno), (expect, Some(errno)));
        };
        check(2, Code::NotFound, FilesystemError::NotFound);
        check(
            13,
            Code::PermissionDenied,
            FilesystemError::PermissionDenied,
        );
        check(
            21,
            Code::FailedPrecondition,
            FilesystemError::FailedPrecondition,
        );
        check(
            28,
            Code::ResourceExhausted,
            FilesystemError::ResourceExhausted,
        );
        check(5, Code::Internal, FilesystemError::Internal);
    }
}
