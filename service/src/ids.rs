//! Identifiers that sort by time.

use std::sync::atomic::{AtomicU64, Ordering};

/// Makes identifiers.
#[derive(Debug, Default)]
pub(crate) struct Ids(AtomicU64);

impl Ids {
    /// Milliseconds since 1970 in hex, never fewer than those of the one before, and 32 random bits.
    pub(crate) fn next(&self) -> String {
        let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0);
        let next = |last: u64| Some(now.max(last + 1));
        let ms = match self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
        {
            Ok(last) | Err(last) => now.max(last + 1),
        };
        format!("{ms:012x}-{:08x}", rand::random::<u32>())
    }
}
