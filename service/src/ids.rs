//! Identifiers that sort by time.

use std::sync::atomic::{AtomicU64, Ordering};

/// Makes identifiers.
#[derive(Debug, Default)]
pub(crate) struct Ids(AtomicU64);

impl Ids {
    /// Makes none that sorts before `id`, which was made in an earlier life, also when the clock was
    /// set back since.
    pub(crate) fn follow(&self, id: &str) {
        let ms = id
            .split_once('-')
            .map(|(ms, _)| u64::from_str_radix(ms, 16));
        if let Some(Ok(ms)) = ms {
            self.0.fetch_max(ms, Ordering::Relaxed);
        }
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_back_makes_no_old_identifiers() {
        let ids = Ids::default();
        let old = "0fffffffffff-00000000";
        ids.follow(old);
        ids.follow("of another kind");
        let (first, second) = (ids.next(), ids.next());
        assert!(first.as_str() > old && second > first, "{first} {second}");
    }
}
