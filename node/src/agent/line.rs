//! The connection of the open session, for whoever needs something of the service beside it.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use chalk_core::Digest;
use chalk_core::wire::{Problem, problem};
use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio_util::sync::CancellationToken;

use super::call::{CallError, Connection};
use crate::files::{BlobSource, BlobStream};

/// The line to the service; clones share it. Empty while there is no session.
#[derive(Clone, Default)]
pub struct Line(Arc<Mutex<Option<OpenLine>>>);

/// What calls beside the open session need.
#[derive(Clone)]
pub(super) struct OpenLine {
    pub(super) connection: Connection,
    pub(super) token: String,
    /// Ends with the session.
    pub(super) over: CancellationToken,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Line").field(&self.lock().is_some()).finish()
    }
}

impl Line {
    fn lock(&self) -> MutexGuard<'_, Option<OpenLine>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn open(&self) -> Option<OpenLine> {
        self.lock().clone()
    }

    /// Whether a session is open.
    pub(crate) fn is_open(&self) -> bool {
        self.lock().is_some()
    }

    pub(super) fn set(&self, line: Option<OpenLine>) {
        *self.lock() = line;
    }
}

/// Blobs of the service.
#[async_trait]
impl BlobSource for Line {
    async fn fetch(&self, digest: Digest) -> Result<BlobStream, Problem> {
        let unavailable = |detail: String| Problem {
            kind: problem::UNAVAILABLE.to_owned(),
            title: "the service cannot be asked for a file".to_owned(),
            status: 503,
            detail,
            hint: "try again when the node is connected".to_owned(),
        };
        let Some(open) = self.open() else {
            return Err(unavailable("the node is not connected".to_owned()));
        };
        match open.connection.blob(&open.token, digest).await {
            Ok(response) => {
                let bytes = response.bytes_stream().map_err(io::Error::other);
                Ok(bytes.boxed())
            }
            Err(CallError::Refused(problem)) => Err(problem),
            Err(error) => Err(unavailable(error.to_string())),
        }
    }
}
