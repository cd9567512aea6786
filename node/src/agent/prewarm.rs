//! The list of images that every node keeps ready.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chalk_core::Digest;
use chalk_core::wire::agent::ImageRef;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::parts::{Images, PullOrder, PullProgress};

/// Label of the pins of these images.
const PIN: &str = "prewarm";

/// Keeps the images of the list, pinned.
pub(super) struct Prewarm {
    images: Arc<dyn Images>,
    /// The list; `None` before the first one came, and when the agent has ended.
    wanted: Mutex<Option<Arc<Wanted>>>,
    /// Held by who makes it so: one at a time, since each goes by what is pinned.
    applying: tokio::sync::Mutex<()>,
    /// Those on their way.
    pulls: Mutex<BTreeMap<Digest, CancellationToken>>,
}

type Wanted = BTreeMap<Digest, ImageRef>;

impl Prewarm {
    pub(super) fn new(images: Arc<dyn Images>) -> Self {
        Self {
            images,
            wanted: Mutex::default(),
            applying: tokio::sync::Mutex::default(),
            pulls: Mutex::default(),
        }
    }

    /// Takes a new list: what it names is brought here and pinned, the pins of what it names no
    /// more are taken away, also of what a node pinned before it was restarted. Does not wait for
    /// any of it; of two lists, that of the later call counts.
    pub(super) fn set(self: &Arc<Self>, list: Vec<ImageRef>) {
        let wanted = list.into_iter().map(|i| (i.digest, i)).collect();
        *held(&self.wanted) = Some(Arc::new(wanted));
        tokio::spawn(self.clone().apply());
    }

    /// Makes it as the list is now. (Boxed: it starts what calls it.)
    fn apply(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move { self.apply_now().await })
    }

    async fn apply_now(self: &Arc<Self>) {
        let _alone = self.applying.lock().await;
        let Some(wanted) = held(&self.wanted).clone() else {
            return;
        };
        let mut pinned = self.images.since(None).put;
        pinned.retain(|image| image.pins.iter().any(|label| label == PIN));
        {
            let mut pulls = held(&self.pulls);
            pulls.retain(|digest, cancel| {
                let keep = wanted.contains_key(digest);
                if !keep {
                    cancel.cancel();
                }
                keep
            });
            for (digest, image) in wanted.iter() {
                // The list comes again with each session, and finds images here or on their way.
                if pulls.contains_key(digest) || pinned.iter().any(|i| i.digest == *digest) {
                    continue;
                }
                let cancel = CancellationToken::new();
                pulls.insert(*digest, cancel.clone());
                tokio::spawn(self.clone().keep(image.clone(), cancel));
            }
        }
        for image in pinned.iter().filter(|i| !wanted.contains_key(&i.digest)) {
            self.unpin(image.digest).await;
        }
    }

    /// Ends all pulls.
    pub(super) fn cancel_all(&self) {
        *held(&self.wanted) = None;
        let mut pulls = held(&self.pulls);
        for cancel in pulls.values() {
            cancel.cancel();
        }
        pulls.clear();
    }

    async fn unpin(&self, digest: Digest) {
        if let Err(problem) = self.images.unpin(digest, PIN).await {
            tracing::warn!(%digest, error = problem.title, "an image stays pinned");
        }
    }

    async fn keep(self: Arc<Self>, image: ImageRef, cancel: CancellationToken) {
        self.pull(&image, &cancel).await;
        let left = {
            let mut pulls = held(&self.pulls);
            if !cancel.is_cancelled() {
                pulls.remove(&image.digest);
            }
            cancel.is_cancelled()
        };
        if left {
            // It left the list, but its pin may be there already; or it is in the list again, and
            // the next one to bring it here took that for its own.
            self.apply().await;
        }
    }

    /// Brings an image here, until it is there or not wanted any more.
    async fn pull(&self, image: &ImageRef, cancel: &CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_secs(2), Duration::from_secs(300));
        let (_, peers) = watch::channel(image.peers.clone());
        loop {
            let (progress, _) = watch::channel(PullProgress::default());
            let pull = self.images.pull(PullOrder {
                image: image.clone(),
                peers: peers.clone(),
                pin: Some(PIN.to_owned()),
                progress,
                cancel: cancel.clone(),
            });
            let result = tokio::select! {
                result = pull => result,
                () = cancel.cancelled() => return,
            };
            match result {
                Ok(_) => return,
                Err(failure) => {
                    tracing::warn!(image = %image.name, error = %failure, "pre-warming failed");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next()) => {}
                () = cancel.cancelled() => return,
            }
        }
    }
}

/// The lock of one of these.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::simulated::{Answer, SimulatedImages, image};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pins_follow_the_list() {
        let images = Arc::new(SimulatedImages::default());
        images.answer([Answer::Transient, Answer::Final, Answer::Ready]);
        let prewarm = Arc::new(Prewarm::new(images.clone()));
        let (a, b) = (image(b"a"), image(b"b"));
        prewarm.set(vec![a.clone()]);
        tokio::time::sleep(Duration::from_secs(60)).await;
        let pinned = vec![PIN.to_owned()];
        assert_eq!(images.pins(), [(a.digest, pinned.clone())]);
        // The same list again pulls nothing.
        prewarm.set(vec![a.clone()]);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(images.pulls(), 3);
        // Another one, also in a node that was started anew.
        let prewarm = Arc::new(Prewarm::new(images.clone()));
        prewarm.set(vec![b.clone()]);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(images.pins(), [(a.digest, vec![]), (b.digest, pinned)]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_list_counts_whatever_is_under_way() {
        let images = Arc::new(SimulatedImages::default());
        let prewarm = Arc::new(Prewarm::new(images.clone()));
        let (a, b) = (image(b"a"), image(b"b"));
        // None of these is waited for.
        for list in [vec![a.clone()], vec![b.clone()], vec![a.clone(), b.clone()]] {
            prewarm.set(list);
        }
        prewarm.set(vec![b.clone()]);
        tokio::time::sleep(Duration::from_secs(60)).await;
        let pinned = vec![PIN.to_owned()];
        assert_eq!(images.pins(), [(b.digest, pinned.clone())]);

        // The pin is there when the pull is cancelled.
        images.answer([Answer::PinnedSlow]);
        prewarm.set(vec![a.clone(), b.clone()]);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let both = [(b.digest, pinned.clone()), (a.digest, pinned.clone())];
        assert_eq!(images.pins(), both);
        prewarm.set(vec![b.clone()]);
        tokio::time::sleep(Duration::from_secs(60)).await;
        let without = [(b.digest, pinned.clone()), (a.digest, vec![])];
        assert_eq!(images.pins(), without);

        // It goes and comes back before its pull has noticed.
        images.answer([Answer::PinnedSlow]);
        prewarm.set(vec![a.clone(), b.clone()]);
        tokio::time::sleep(Duration::from_secs(1)).await;
        prewarm.set(vec![b.clone()]);
        tokio::task::yield_now().await;
        prewarm.set(vec![a.clone(), b.clone()]);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(images.pins(), both);

        // After the end nothing is begun.
        let pulls = images.pulls();
        prewarm.cancel_all();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(images.pulls(), pulls);
    }
}
