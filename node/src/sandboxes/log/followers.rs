//! Who reads a log while it is written. A writer waits for them before it drops what they have not
//! read, as a pipe would have it wait; but not for one that reads nothing.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// How long a writer waits for a follower that reads nothing, and for the first one to come.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Followers {
    state: Mutex<State>,
    moved: Notify,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    positions: BTreeMap<u64, Position>,
    /// Until when the first follower is waited for.
    expected: Option<Instant>,
}

#[derive(Debug)]
struct Position {
    /// Number of the last event that it read.
    seen: u64,
    /// When it read that.
    moved: Instant,
}

impl Followers {
    /// `expected` says that whoever started the process will follow its output.
    pub(super) fn new(expected: bool) -> Followers {
        let followers = Followers::default();
        followers.state().expected = expected.then(|| Instant::now() + PATIENCE);
        followers
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a follower that read the events up to `seen`; gives its name.
    pub(super) fn join(&self, seen: u64) -> u64 {
        let mut state = self.state();
        state.expected = None;
        state.next += 1;
        let (name, moved) = (state.next, Instant::now());
        state.positions.insert(name, Position { seen, moved });
        drop(state);
        self.moved.notify_waiters();
        name
    }

    /// A follower has read the events up to `seen`.
    pub(super) fn read(&self, name: u64, seen: u64) {
        let mut state = self.state();
        if let Some(position) = state.positions.get_mut(&name) {
            let moved = Instant::now();
            *position = Position { seen, moved };
        }
        drop(state);
        self.moved.notify_waiters();
    }

    /// A follower went away.
    pub(super) fn leave(&self, name: u64) {
        self.state().positions.remove(&name);
        self.moved.notify_waiters();
    }

    /// Waits until nobody who reads needs the events up to `last`.
    pub(super) async fn pass(&self, last: u64) {
        loop {
            // Before looking, so that nothing that happens afterwards is missed.
            let mut moved = std::pin::pin!(self.moved.notified());
            moved.as_mut().enable();
            let Some(until) = self.needed(last) else {
                return;
            };
            tokio::select! {
                () = moved => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }

    /// Until when the events up to `last` are to be kept for somebody.
    fn needed(&self, last: u64) -> Option<Instant> {
        let state = self.state();
        let behind = state.positions.values().filter(|p| p.seen < last);
        let until = behind.map(|position| position.moved + PATIENCE);
        let until = until.chain(state.expected).max()?;
        (Instant::now() < until).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole seconds that a writer waits.
    async fn waits(followers: &Followers, last: u64) -> u64 {
        let began = Instant::now();
        followers.pass(last).await;
        began.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn writers_wait_for_those_who_read() {
        let followers = Followers::new(false);
        assert_eq!(waits(&followers, 9).await, 0);
        let (quick, slow) = (followers.join(9), followers.join(3));
        assert_eq!(waits(&followers, 3).await, 0);
        // One that reads nothing is given up.
        assert_eq!(waits(&followers, 4).await, 10);
        assert_eq!(waits(&followers, 4).await, 0);
        // One that reads on is waited for again.
        followers.read(slow, 5);
        let reads = async {
            tokio::time::sleep(Duration::from_secs(7)).await;
            followers.read(slow, 6);
            tokio::time::sleep(Duration::from_secs(7)).await;
            followers.read(slow, 7);
        };
        assert_eq!(tokio::join!(waits(&followers, 7), reads).0, 14);
        let leaves = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            followers.leave(slow);
        };
        assert_eq!(tokio::join!(waits(&followers, 8), leaves).0, 2);
        followers.leave(quick);
        assert_eq!(waits(&followers, 99).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_follower_is_waited_for() {
        let followers = Followers::new(true);
        let comes = async {
            tokio::time::sleep(Duration::from_secs(4)).await;
            followers.join(5)
        };
        assert_eq!(tokio::join!(waits(&followers, 5), comes).0, 4);
        let nobody = Followers::new(true);
        assert_eq!(waits(&nobody, 5).await, 10);
        assert_eq!(waits(&nobody, 5).await, 0);
    }
}
