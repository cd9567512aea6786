//! Warms, and the pre-warm list.

use std::collections::BTreeMap;

use chalk_core::Digest;
use chalk_core::wire::{Prewarm, Warm, WarmEvent, WarmState, WarmStatus, WarmTarget};

use super::filter::Filter;
use super::list::List;
use crate::warm_state::Warming;

/// All that is known of warms.
pub(crate) struct Warms {
    pub(crate) all: BTreeMap<String, Warming>,
    pub(crate) list: List,
    /// Rows of the open warm.
    pub(crate) targets: List,
    pub(crate) followed: Option<String>,
    pub(crate) prewarm: Prewarm,
    pub(crate) prewarm_list: List,
    pub(crate) known: bool,
}

/// Headings of the list.
pub(crate) const COLUMNS: [&str; 5] = ["STATE", "WARM", "IMAGES", "NODES", "AGE"];
/// Headings of one warm.
pub(crate) const TARGETS: [&str; 6] = ["STATE", "NODE", "REGION", "IMAGE", "PROGRESS", "TIME"];
/// Headings of the pre-warm list.
pub(crate) const PREWARM: [&str; 4] = ["IMAGE", "DIGEST", "NODES", "CHECKED"];

impl Warms {
    pub(crate) fn new() -> Self {
        Self {
            all: BTreeMap::new(),
            list: List::sorted_by(4, false),
            targets: List::default(),
            followed: None,
            prewarm: Prewarm::default(),
            prewarm_list: List::default(),
            known: false,
        }
    }

    pub(crate) fn take(&mut self, warms: Vec<Warm>) {
        for warm in warms {
            // What is followed is known better from its events.
            if self.followed.as_ref() != Some(&warm.id) || !self.all.contains_key(&warm.id) {
                self.replace(warm);
            }
        }
        self.known = true;
        self.arrange();
    }

    pub(crate) fn put(&mut self, warm: Warm) {
        self.replace(warm);
        self.arrange();
    }

    fn replace(&mut self, warm: Warm) {
        match self.all.get_mut(&warm.id) {
            Some(known) => known.replace(warm),
            None => {
                self.all.insert(warm.id.clone(), Warming::new(warm));
            }
        }
    }

    /// Takes an event of a warm.
    pub(crate) fn event(&mut self, id: &str, event: &WarmEvent) {
        if let Some(warm) = self.all.get_mut(id) {
            warm.update(&event.kind);
        }
    }

    pub(crate) fn get(&self, id: &str) -> Option<&Warm> {
        self.all.get(id).map(|known| &known.warm)
    }

    /// Sorts and filters.
    pub(crate) fn arrange(&mut self) {
        let mut filter = Filter::new(&self.list.filter);
        let mut rows: Vec<&Warm> = self
            .all
            .values()
            .map(|known| &known.warm)
            .filter(|warm| {
                let images: Vec<String> = warm.images.iter().map(Digest::hex).collect();
                filter.lets_by(|| format!("{} {} {}", word(warm.status), warm.id, images.join(" ")))
            })
            .collect();
        rows.sort_by(|a, b| b.id.cmp(&a.id));
        match self.list.sort {
            0 => rows.sort_by_key(|w| w.status != WarmStatus::Running),
            2 => rows.sort_by_key(|w| std::cmp::Reverse(w.images.len())),
            3 => rows.sort_by_key(|w| std::cmp::Reverse(w.nodes.len())),
            _ => {}
        }
        if self.list.reverse {
            rows.reverse();
        }
        let keys = rows.into_iter().map(|w| w.id.clone()).collect();
        self.list.arrange(keys);
    }

    /// Sorts and filters the targets of a warm.
    pub(crate) fn arrange_targets(&mut self, id: &str) {
        let Some(warm) = self.all.get(id).map(|known| &known.warm) else {
            return self.targets.arrange(Vec::new());
        };
        let mut filter = Filter::new(&self.targets.filter);
        let mut rows: Vec<&WarmTarget> = warm
            .nodes
            .iter()
            .filter(|t| {
                filter.lets_by(|| {
                    format!(
                        "{} {} {} {}",
                        target_word(t.state),
                        t.node,
                        t.region,
                        t.image_hash.hex()
                    )
                })
            })
            .collect();
        rows.sort_by(|a, b| (&a.node, a.image_hash).cmp(&(&b.node, b.image_hash)));
        match self.targets.sort {
            0 => rows.sort_by_key(|t| match t.state {
                WarmState::Failed => 0,
                WarmState::Pulling => 1,
                WarmState::Queued => 2,
                WarmState::Ready => 3,
            }),
            2 => rows.sort_by(|a, b| a.region.cmp(&b.region)),
            3 => rows.sort_by_key(|t| t.image_hash),
            5 => rows.sort_by(|a, b| b.seconds.total_cmp(&a.seconds)),
            _ => {}
        }
        if self.targets.reverse {
            rows.reverse();
        }
        let keys = rows.into_iter().map(target_key).collect();
        self.targets.arrange(keys);
    }

    pub(crate) fn arrange_prewarm(&mut self) {
        let mut filter = Filter::new(&self.prewarm_list.filter);
        let mut keys = self.prewarm.images.clone();
        keys.retain(|image| filter.lets(image));
        if self.prewarm_list.sort == 0 {
            keys.sort();
        }
        if self.prewarm_list.reverse {
            keys.reverse();
        }
        self.prewarm_list.arrange(keys);
    }

    pub(crate) fn chosen(&self) -> Option<&Warm> {
        self.get(self.list.chosen()?)
    }
}

/// Key of a row of one warm.
pub(crate) fn target_key(target: &WarmTarget) -> String {
    format!("{} {}", target.node, target.image_hash)
}

/// The word of a state.
pub(crate) fn word(status: WarmStatus) -> &'static str {
    match status {
        WarmStatus::Running => "running",
        WarmStatus::Ready => "ready",
        WarmStatus::Partly => "partly",
        WarmStatus::Failed => "failed",
        WarmStatus::Cancelled => "cancelled",
    }
}

/// The word of a state.
pub(crate) fn target_word(state: WarmState) -> &'static str {
    match state {
        WarmState::Queued => "queued",
        WarmState::Pulling => "pulling",
        WarmState::Ready => "ready",
        WarmState::Failed => "failed",
    }
}
