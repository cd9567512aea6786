//! How far transfers are.

use std::fmt;
use std::sync::Arc;

use chalk_core::Digest;

/// State of one blob's transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// The blob.
    pub digest: Digest,
    /// Bytes moved so far. Falls back when a transfer has to start anew.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
    /// Whether nothing had to move: the blob was at its goal already, or was mounted there.
    pub present: bool,
}

/// Receiver of [`Transfer`]s; called often and from many tasks, so it must be quick.
#[derive(Clone, Default)]
pub struct Progress(Option<Arc<dyn Fn(Transfer) + Send + Sync>>);

impl Progress {
    /// Nobody listens.
    pub fn none() -> Self {
        Self(None)
    }

    /// Calls `receiver` for each step.
    pub fn new(receiver: impl Fn(Transfer) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(receiver)))
    }

    pub(super) fn tell(&self, digest: Digest, done: u64, total: u64) {
        self.send(Transfer {
            digest,
            done,
            total,
            present: false,
        });
    }

    pub(super) fn present(&self, digest: Digest, total: u64) {
        self.send(Transfer {
            digest,
            done: total,
            total,
            present: true,
        });
    }

    fn send(&self, transfer: Transfer) {
        if let Some(receiver) = &self.0 {
            receiver(transfer);
        }
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listens = if self.0.is_some() { "some" } else { "none" };
        write!(f, "Progress({listens})")
    }
}
