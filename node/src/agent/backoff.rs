//! How long to wait before the next try.

use std::time::Duration;

use rand::Rng as _;

/// Waits that double up to a limit, each shortened at random by up to a half, so that many who
/// failed together do not come back together.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    limit: Duration,
    failures: u32,
}

impl Backoff {
    pub(super) fn new(first: Duration, limit: Duration) -> Self {
        Self {
            first,
            limit,
            failures: 0,
        }
    }

    /// After a success.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The wait after one more failure.
    pub(super) fn next(&mut self) -> Duration {
        let full = self
            .first
            .saturating_mul(1 << self.failures.min(16))
            .min(self.limit);
        self.failures = self.failures.saturating_add(1);
        full.mul_f64(rand::rng().random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_limit_and_begin_again() {
        let (first, limit) = (Duration::from_millis(100), Duration::from_secs(5));
        let mut backoff = Backoff::new(first, limit);
        for round in 0..100 {
            let full = first.saturating_mul(1 << round.min(16)).min(limit);
            let wait = backoff.next();
            assert!(wait >= full / 2 && wait <= full, "{round}: {wait:?}");
        }
        backoff.reset();
        assert!(backoff.next() <= first);
    }
}
