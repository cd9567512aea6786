//! What is known of a warm from its events, without any terminal: the one model behind the app and
//! every `--progress` of the command.

use std::collections::{BTreeMap, HashMap};

use chalk_core::Digest;
use chalk_core::wire::{Warm, WarmEventKind, WarmState, WarmStatus, WarmTarget};

/// State of a warm as its events tell it.
#[derive(Debug, Clone)]
pub(crate) struct Warming {
    pub(crate) warm: Warm,
    /// Copies to the registries of regions: bytes done and in all.
    pub(crate) copies: BTreeMap<(Digest, String), (u64, u64)>,
    /// Where the target of an image on a node stands in the warm.
    places: HashMap<(Digest, String), usize>,
}

impl Warming {
    pub(crate) fn new(warm: Warm) -> Self {
        let mut warming = Self {
            warm,
            copies: BTreeMap::new(),
            places: HashMap::new(),
        };
        warming.index();
        warming
    }

    /// Takes the whole warm as the service has it.
    pub(crate) fn replace(&mut self, warm: Warm) {
        self.warm = warm;
        self.index();
    }

    fn index(&mut self) {
        let targets = self.warm.nodes.iter().enumerate();
        self.places = targets.map(|(at, target)| (key(target), at)).collect();
    }

    /// Takes an event.
    pub(crate) fn update(&mut self, event: &WarmEventKind) {
        match event {
            WarmEventKind::Copying {
                image_hash,
                region,
                done,
                total,
            } => {
                let key = (*image_hash, region.clone());
                self.copies.insert(key, (*done, *total));
            }
            WarmEventKind::Pulling {
                node,
                image_hash,
                done,
                total,
                ..
            } => {
                let at = self.places.get(&(*image_hash, node.clone()));
                if let Some(target) = at.and_then(|at| self.warm.nodes.get_mut(*at)) {
                    target.state = WarmState::Pulling;
                    (target.done, target.total) = (*done, *total);
                }
            }
            WarmEventKind::Target { target } => {
                // A retry, or a node that came back, opens one again that ended.
                self.warm.status = WarmStatus::Running;
                let at = self.places.get(&key(target));
                match at.and_then(|at| self.warm.nodes.get_mut(*at)) {
                    Some(old) => old.clone_from(target),
                    None => {
                        self.places.insert(key(target), self.warm.nodes.len());
                        self.warm.nodes.push(target.clone());
                    }
                }
            }
            WarmEventKind::Finished { warm } => self.replace((**warm).clone()),
        }
    }

    /// Copies that are under way.
    pub(crate) fn copying(&self) -> impl Iterator<Item = (&(Digest, String), (u64, u64))> {
        let copies = self.copies.iter().map(|(key, bytes)| (key, *bytes));
        copies.filter(|(_, (done, total))| done < total)
    }

    /// Targets in a state.
    pub(crate) fn count(&self, state: WarmState) -> usize {
        let targets = self.warm.nodes.iter();
        targets.filter(|target| target.state == state).count()
    }
}

fn key(target: &WarmTarget) -> (Digest, String) {
    (target.image_hash, target.node.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_go_through_their_states() {
        let image = Digest::of(b"image");
        let target = |node: &str, state| WarmTarget {
            node: node.into(),
            region: "eu".into(),
            image_hash: image,
            state,
            done: 0,
            total: 0,
            bytes_fetched: 0,
            bytes_present: 0,
            bytes_from_mirrors: 0,
            digests_verified: 0,
            verified: false,
            seconds: 0.0,
            error: None,
            retries_left: 0,
        };
        let warm = |status, nodes| Warm {
            id: "w1".into(),
            status,
            images: vec![image],
            created: String::new(),
            finished: None,
            nodes,
        };
        let two = vec![
            target("a", WarmState::Queued),
            target("b", WarmState::Queued),
        ];
        let mut warming = Warming::new(warm(WarmStatus::Failed, two));
        let copy = |done| WarmEventKind::Copying {
            image_hash: image,
            region: "eu".into(),
            done,
            total: 9,
        };
        warming.update(&copy(4));
        assert_eq!(warming.copying().count(), 1);
        warming.update(&copy(9));
        assert_eq!(warming.copying().count(), 0);
        let pull = |node: &str| WarmEventKind::Pulling {
            node: node.into(),
            image_hash: image,
            done: 3,
            total: 5,
            layers: Vec::new(),
        };
        warming.update(&pull("b"));
        // One that nobody announced is not made up.
        warming.update(&pull("c"));
        let b = &warming.warm.nodes[1];
        assert_eq!((b.state, b.done, b.total), (WarmState::Pulling, 3, 5));
        for node in ["b", "c"] {
            let target = target(node, WarmState::Ready);
            warming.update(&WarmEventKind::Target { target });
        }
        assert_eq!(warming.warm.status, WarmStatus::Running);
        assert_eq!(warming.count(WarmState::Ready), 2);
        assert_eq!(warming.warm.nodes.len(), 3);
        let ended = Box::new(warm(WarmStatus::Ready, vec![target("c", WarmState::Ready)]));
        warming.update(&WarmEventKind::Finished { warm: ended });
        warming.update(&pull("c"));
        assert_eq!(warming.count(WarmState::Pulling), 1);
    }
}
