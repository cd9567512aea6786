//! Waiting for a state instead of for a time.

use std::time::{Duration, Instant};

/// Longest that anything that is waited for may take on a slow and busy machine. What takes longer
/// hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);

/// Waits until `found` finds something, and returns it.
#[track_caller]
pub fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < until, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until something is so.
#[track_caller]
pub fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    wait_for(what, || so().then_some(()));
}
