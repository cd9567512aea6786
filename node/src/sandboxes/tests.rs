#![allow(clippy::expect_used)]

use std::pin::pin;
use std::task::{Context, Wake, Waker};

use super::*;

/// Does something in the very moment in which it is woken.
struct AtOnce<F>(F);

impl<F: Fn() + Send + Sync + 'static> Wake for AtOnce<F> {
    fn wake(self: Arc<Self>) {
        (self.0)();
    }
}

#[test]
fn what_is_known_of_a_change_is_kept_before_who_waits_is_told() {
    let log = Log::nowhere();
    let entry = Arc::new(Entry::new("one".to_owned(), Process::new(log)));
    let kept = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&kept);
    let told = Arc::new(AtOnce(move || seen.lock().expect("no panic").push("told")));
    let mut report = entry.report.subscribe();
    let mut ended = pin!(report.wait_for(|report| report.state.is_final()));
    let waker = Waker::from(told);
    let polled = ended.as_mut().poll(&mut Context::from_waker(&waker));
    assert!(polled.is_pending());
    let changed = entry.change(
        |report| report.state = SandboxState::Exited,
        |report| {
            assert_eq!(report.state, SandboxState::Exited);
            kept.lock().expect("no panic").push("kept");
        },
    );
    assert_eq!(changed.state, SandboxState::Exited);
    assert_eq!(*kept.lock().expect("no panic"), ["kept", "told"]);
}
