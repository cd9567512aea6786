//! One at a time: images, blobs and snapshots that several pulls want at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

type Turn = Arc<tokio::sync::Mutex<()>>;

/// Who works on what.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<BTreeMap<String, Turn>>);

impl Turns {
    /// Waits for the turn to work on something; it is over when the value is dropped.
    pub(super) async fn take(&self, what: String) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(what).or_default())
        };
        turn.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_at_a_time_and_nothing_is_left() {
        let turns = Turns::default();
        let first = turns.take("a".into()).await;
        let second = turns.take("a".into());
        tokio::pin!(second);
        assert!(futures_util::poll!(second.as_mut()).is_pending());
        let other = turns.take("b".into()).await;
        drop(first);
        drop(second.await);
        drop(other);
        drop(turns.take("c".into()).await);
        assert_eq!(turns.0.lock().unwrap().len(), 1);
    }
}
