//! How fast a server must be whose bytes are to be had elsewhere, too.

use std::time::Duration;

/// Bytes that must come in each stretch of waiting.
const LEAST: u64 = 64 << 10;

/// Watches a stream from a peer or mirror. Only time that was spent waiting for bytes counts, not
/// what became of them afterwards.
#[derive(Debug)]
pub(super) struct Pace {
    stretch: Duration,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// Looks after each `stretch` of waiting.
    pub(super) fn new(stretch: Duration) -> Self {
        Self {
            stretch,
            waited: Duration::ZERO,
            bytes: 0,
        }
    }

    /// Bytes came after a wait. `false` says that the server is too slow.
    pub(super) fn keeps_up(&mut self, waited: Duration, bytes: u64) -> bool {
        self.waited += waited;
        self.bytes += bytes;
        if self.waited < self.stretch {
            return true;
        }
        let enough = self.bytes >= LEAST;
        *self = Self::new(self.stretch);
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_servers_are_noticed() {
        let check = |steps: &[(u64, u64)], expect: bool| {
            let mut pace = Pace::new(Duration::from_secs(5));
            let mut steps = steps.iter();
            let got = steps.all(|(ms, bytes)| pace.keeps_up(Duration::from_millis(*ms), *bytes));
            assert_eq!(got, expect, "{pace:?}");
        };
        check(&[(200, 100); 20], true);
        check(&[(200, 100); 25], false);
        check(&[(200, 16 << 10); 1000], true);
        check(&[(0, 100); 1000], true);
        check(&[(4999, 0), (1, LEAST)], true);
        // A good beginning does not excuse what follows.
        check(&[(10, 1 << 30), (4990, 1), (5000, 1)], false);
    }
}
