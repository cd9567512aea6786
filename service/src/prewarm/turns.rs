//! Who may fetch an image that is kept ready, when many nodes of a region lack it at once.
//!
//! A tag that moves, or a fleet that starts, shall not have every node ask the registry at the same
//! moment: as many fetch it as the registry may have at once, and twice as many as there are nodes
//! to have it from; the others get their turn as those are done.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chalk_core::Digest;
use tokio::time::Instant;

/// How long a node that does not get an image keeps its turn.
const PATIENCE: Duration = Duration::from_secs(600);

/// An image and a region.
type Key = (String, Digest);

/// Turns of all images and regions.
#[derive(Debug)]
pub(super) struct Turns {
    /// Nodes of a region that fetch an image from its registry at once.
    direct: usize,
    fetching: BTreeMap<Key, BTreeMap<Arc<str>, Instant>>,
    waiting: BTreeMap<Key, BTreeSet<Arc<str>>>,
}

impl Turns {
    pub(super) fn new(direct: usize) -> Self {
        Self {
            direct,
            fetching: BTreeMap::new(),
            waiting: BTreeMap::new(),
        }
    }

    /// Whether a node may fetch an image now, which `serving` nodes of its region have and serve;
    /// else it waits for its turn.
    pub(super) fn may(
        &mut self,
        region: &str,
        image: &Digest,
        node: &Arc<str>,
        serving: usize,
    ) -> bool {
        let key = (region.to_owned(), *image);
        let fetching = self.fetching.entry(key.clone()).or_default();
        fetching.retain(|_, since| since.elapsed() < PATIENCE);
        let room = self.direct.max(2 * serving);
        let may = fetching.contains_key(node) || fetching.len() < room;
        if may {
            fetching.entry(node.clone()).or_insert_with(Instant::now);
            if let Some(waiting) = self.waiting.get_mut(&key) {
                waiting.remove(node);
            }
        } else {
            self.waiting.entry(key).or_default().insert(node.clone());
        }
        may
    }

    /// A node has an image, or is not there any more for any (`None`); gives the nodes that wait
    /// for what it fetched.
    pub(super) fn over(&mut self, node: &str, image: Option<&Digest>) -> Vec<Arc<str>> {
        let mut next = BTreeSet::new();
        for (key, fetching) in &mut self.fetching {
            if image.is_none_or(|image| *image == key.1) && fetching.remove(node).is_some() {
                let waiting = self.waiting.get(key);
                // Those beyond the room wait again when they ask.
                let room = self.direct.saturating_mul(2).max(2);
                next.extend(waiting.into_iter().flatten().take(room).cloned());
            }
        }
        if image.is_none() {
            for waiting in self.waiting.values_mut() {
                waiting.remove(node);
            }
            next.retain(|other| **other != *node);
        }
        self.fetching.retain(|_, fetching| !fetching.is_empty());
        self.waiting.retain(|_, waiting| !waiting.is_empty());
        next.into_iter().collect()
    }

    /// Nodes that wait.
    pub(super) fn waiting(&self) -> BTreeSet<Arc<str>> {
        self.waiting.values().flatten().cloned().collect()
    }

    /// Forgets images that are not wanted any more.
    pub(super) fn keep(&mut self, wanted: impl Fn(&Digest) -> bool) {
        self.fetching.retain(|(_, image), _| wanted(image));
        self.waiting.retain(|(_, image), _| wanted(image));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nodes_take_turns() {
        let mut turns = Turns::new(1);
        let (image, other) = (Digest::of(b"image"), Digest::of(b"other"));
        let names: Vec<Arc<str>> = ["a", "b", "c", "d"].map(Into::into).into();
        let ask = |turns: &mut Turns, serving: usize| -> String {
            let may = names.iter().filter(|n| turns.may("eu", &image, n, serving));
            may.map(|name| &**name).collect()
        };
        assert_eq!(ask(&mut turns, 0), "a");
        assert_eq!(ask(&mut turns, 0), "a");
        assert!(turns.may("us", &image, &"z".into(), 0));
        assert!(turns.may("eu", &other, &"b".into(), 0));
        // Two can have it from the one that has it.
        let next = turns.over("a", Some(&image));
        assert_eq!(next, ["b".into(), "c".into()]);
        assert!(turns.may("eu", &image, &names[1], 1) && turns.may("eu", &image, &names[2], 1));
        assert!(!turns.may("eu", &image, &names[3], 1));
        assert_eq!(turns.waiting(), [names[3].clone()].into());
        // One that never gets it keeps nobody waiting for ever.
        tokio::time::advance(PATIENCE).await;
        assert!(turns.may("eu", &image, &names[3], 0));
        assert!(turns.waiting().is_empty());
        turns.keep(|image| *image == other);
        assert_eq!(turns.fetching.len(), 1);
        turns.over("b", None);
        assert!(turns.fetching.is_empty() && turns.waiting.is_empty());
    }
}
