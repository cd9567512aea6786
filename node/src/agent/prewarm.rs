//! The list of images that every node keeps ready.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chalk_core::Digest;
use chalk_core::wire::agent::ImageRef;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::parts::{Images, PullOrder, PullProgress};

/// Label of the pins of these images.
const PIN: &str = "prewarm";

/// Keeps the images of the list, pinned.
pub(super) struct Prewarm {
    images: Arc<dyn Images>,
    /// Those on their way.
    pulls: Mutex<BTreeMap<Digest, CancellationToken>>,
}

impl Prewarm {
    pub(super) fn new(images: Arc<dyn Images>) -> Self {
        Self {
            images,
            pulls: Mutex::default(),
        }
    }

    /// Takes a new list: what it names is brought here and pinned, the pins of what it names no
    /// more are taken away, also of what a node pinned before it was restarted.
    pub(super) async fn set(self: &Arc<Self>, list: Vec<ImageRef>) {
        let wanted: BTreeMap<Digest, ImageRef> = list.into_iter().map(|i| (i.digest, i)).collect();
        let mut pinned = self.images.since(None).put;
        pinned.retain(|image| image.pins.iter().any(|label| label == PIN));
        {
            let mut pulls = self.pulls();
            pulls.retain(|digest, cancel| {
                let keep = wanted.contains_key(digest);
                if !keep {
                    cancel.cancel();
                }
                keep
            });
            for (digest, image) in &wanted {
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

    fn pulls(&self) -> MutexGuard<'_, BTreeMap<Digest, CancellationToken>> {
        self.pulls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all pulls.
    pub(super) fn cancel_all(&self) {
        let mut pulls = self.pulls();
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

    /// Tries until the image is here or not wanted any more.
    async fn keep(self: Arc<Self>, image: ImageRef, cancel: CancellationToken) {
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
                // It may have left the list in this very moment.
                Ok(_) if cancel.is_cancelled() => return self.unpin(image.digest).await,
                Ok(_) => {
                    self.pulls().remove(&image.digest);
                    return;
                }
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
        prewarm.set(vec![a.clone()]).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        let pinned = vec![PIN.to_owned()];
        assert_eq!(images.pins(), [(a.digest, pinned.clone())]);
        // The same list again pulls nothing.
        prewarm.set(vec![a.clone()]).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(images.pulls(), 3);
        // Another one, also in a node that was started anew.
        let prewarm = Arc::new(Prewarm::new(images.clone()));
        prewarm.set(vec![b.clone()]).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(images.pins(), [(a.digest, vec![]), (b.digest, pinned)]);
    }
}
