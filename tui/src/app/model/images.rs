//! Images of the registry.

use std::collections::BTreeMap;

use chalk_core::Digest;
use chalk_core::wire::{Image, ImageDetail};

use super::filter::Filter;
use super::fleet::Fleet;
use super::list::List;

/// All that is known of images.
pub(crate) struct Images {
    /// By hash.
    pub(crate) all: BTreeMap<Digest, Image>,
    pub(crate) list: List,
    /// The image that was opened last.
    pub(crate) detail: Option<ImageDetail>,
    pub(crate) known: bool,
}

/// Headings of the list.
pub(crate) const COLUMNS: [&str; 7] = ["NAME", "HASH", "SIZE", "LAYERS", "NODES", "USED", "AGE"];

impl Images {
    pub(crate) fn new() -> Self {
        Self {
            all: BTreeMap::new(),
            list: List::sorted_by(6, false),
            detail: None,
            known: false,
        }
    }

    pub(crate) fn take(&mut self, images: Vec<Image>, fleet: &Fleet) {
        self.all = images.into_iter().map(|i| (i.image_hash, i)).collect();
        self.known = true;
        let all = &self.all;
        self.list.keep_marks(|key| {
            key.parse()
                .is_ok_and(|hash: Digest| all.contains_key(&hash))
        });
        self.arrange(fleet);
    }

    /// Sorts and filters.
    pub(crate) fn arrange(&mut self, fleet: &Fleet) {
        let mut filter = Filter::new(&self.list.filter);
        let mut rows: Vec<&Image> = self
            .all
            .values()
            .filter(|image| {
                filter.lets_by(|| format!("{} {}", image.names.join(" "), image.image_hash.hex()))
            })
            .collect();
        let by_age = |a: &&Image, b: &&Image| {
            b.created
                .cmp(&a.created)
                .then(a.image_hash.cmp(&b.image_hash))
        };
        rows.sort_by(by_age);
        match self.list.sort {
            0 => rows.sort_by_cached_key(|i| (i.names.is_empty(), i.names.first().cloned())),
            1 => rows.sort_by_key(|i| i.image_hash),
            2 => rows.sort_by_key(|i| std::cmp::Reverse(i.size)),
            3 => rows.sort_by_key(|i| std::cmp::Reverse(i.layers)),
            4 => rows.sort_by_key(|i| std::cmp::Reverse(fleet.holders(&i.digest))),
            5 => rows.sort_by_cached_key(|i| std::cmp::Reverse(fleet.last_used(&i.digest))),
            _ => {}
        }
        if self.list.reverse {
            rows.reverse();
        }
        let keys = rows.into_iter().map(|i| i.image_hash.to_string()).collect();
        self.list.arrange(keys);
    }

    /// The image of a key of the list.
    pub(crate) fn get(&self, key: &str) -> Option<&Image> {
        self.all.get(&key.parse().ok()?)
    }
}

/// What an image is called: its first name, else its hash.
pub(crate) fn called(image: &Image) -> String {
    image
        .names
        .first()
        .cloned()
        .unwrap_or_else(|| crate::output::short(image.image_hash))
}
