//! Nodes, their caches, and which image is where.

use std::collections::{BTreeMap, VecDeque};

use chalk_core::Digest;
use chalk_core::wire::{CacheListing, CacheMap, CacheUsage, Node, NodeState, Region, Storage};

use super::filter::Filter;
use super::list::List;

/// Samples of a hit rate that are kept.
const SAMPLES: usize = 60;

/// All that is known of nodes.
pub(crate) struct Fleet {
    pub(crate) nodes: BTreeMap<String, Node>,
    pub(crate) regions: Vec<Region>,
    pub(crate) list: List,
    /// Whether rows are regions.
    pub(crate) grouped: bool,
    /// The region whose nodes are shown; all when absent.
    pub(crate) region: Option<String>,
    /// Contents of caches that were asked for, by node.
    pub(crate) listings: BTreeMap<String, CacheListing>,
    /// Rows of the open node.
    pub(crate) contents: List,
    pub(crate) storage: Option<Storage>,
    /// Hit rates over time, in per cent, by node.
    rates: BTreeMap<String, Rates>,
    all_rates: Rates,
    places: Places,
    pub(crate) known: bool,
}

#[derive(Debug, Default)]
struct Rates {
    last: Option<(u64, u64)>,
    samples: VecDeque<u8>,
}

impl Rates {
    /// A sample of what was found and missed since the last; nothing while nothing was asked for.
    fn sample(&mut self, hits: u64, misses: u64) {
        if let Some((old_hits, old_misses)) = self.last {
            // A node that started anew counts from nothing.
            let hits = hits.checked_sub(old_hits).unwrap_or(hits);
            let misses = misses.checked_sub(old_misses).unwrap_or(misses);
            if let Some(rate) = (hits * 100).checked_div(hits + misses) {
                if self.samples.len() == SAMPLES {
                    self.samples.pop_front();
                }
                self.samples.push_back(u8::try_from(rate).unwrap_or(100));
            }
        } else if let Some(rate) = (hits * 100).checked_div(hits + misses) {
            self.samples.push_back(u8::try_from(rate).unwrap_or(100));
        }
        self.last = Some((hits, misses));
    }
}

/// Which node has which image, as bits.
#[derive(Debug, Default)]
struct Places {
    numbers: BTreeMap<Digest, usize>,
    nodes: BTreeMap<String, Vec<u64>>,
    /// By image: how many nodes have it.
    holders: Vec<u32>,
    /// By region and image: how many nodes have it.
    by_region: BTreeMap<String, Vec<u32>>,
}

/// Headings of the list.
pub(crate) const COLUMNS: [&str; 9] = [
    "NODE", "REGION", "STATE", "IMAGES", "USED", "HELD", "HITS", "EVICTED", "RUNS",
];

/// A row of the list: a node, or a region with its nodes in one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) region: String,
    /// Nodes by state: ready, draining, lost.
    pub(crate) states: [usize; 3],
    pub(crate) usage: CacheUsage,
    pub(crate) sandboxes: usize,
}

impl Row {
    fn add(&mut self, node: &Node) {
        self.states[match node.state {
            NodeState::Ready => 0,
            NodeState::Draining => 1,
            NodeState::Lost => 2,
        }] += 1;
        let (sum, more) = (&mut self.usage, &node.cache);
        sum.size_limit += more.size_limit;
        sum.used += more.used;
        sum.held += more.held;
        sum.images += more.images;
        sum.layers += more.layers;
        sum.hits += more.hits;
        sum.misses += more.misses;
        sum.evictions += more.evictions;
        self.sandboxes += node.sandboxes;
    }

    fn empty(name: &str, region: &str) -> Self {
        Self {
            name: name.to_owned(),
            region: region.to_owned(),
            states: [0; 3],
            usage: CacheUsage::default(),
            sandboxes: 0,
        }
    }

    /// Per cent of what was asked for that was there.
    pub(crate) fn hit_rate(&self) -> Option<u64> {
        (self.usage.hits * 100).checked_div(self.usage.hits + self.usage.misses)
    }
}

impl Fleet {
    pub(crate) fn new() -> Self {
        Self {
            nodes: BTreeMap::new(),
            regions: Vec::new(),
            list: List::default(),
            grouped: false,
            region: None,
            listings: BTreeMap::new(),
            contents: List::default(),
            storage: None,
            rates: BTreeMap::new(),
            all_rates: Rates::default(),
            places: Places::default(),
            known: false,
        }
    }

    pub(crate) fn take(&mut self, nodes: Vec<Node>) {
        self.nodes = nodes.into_iter().map(|n| (n.name.clone(), n)).collect();
        self.known = true;
        let nodes = &self.nodes;
        self.listings.retain(|name, _| nodes.contains_key(name));
        self.rates.retain(|name, _| nodes.contains_key(name));
        let (mut hits, mut misses) = (0, 0);
        for node in nodes.values() {
            hits += node.cache.hits;
            misses += node.cache.misses;
            let rates = self.rates.entry(node.name.clone()).or_default();
            rates.sample(node.cache.hits, node.cache.misses);
        }
        self.all_rates.sample(hits, misses);
        self.list.keep_marks(|key| nodes.contains_key(key));
        self.arrange();
    }

    /// The rows of the list, unsorted.
    fn rows(&self) -> Vec<Row> {
        let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
        let here = |node: &&Node| self.region.as_ref().is_none_or(|r| *r == node.region);
        for node in self.nodes.values().filter(here) {
            let name = if self.grouped {
                &node.region
            } else {
                &node.name
            };
            rows.entry(name)
                .or_insert_with(|| Row::empty(name, &node.region))
                .add(node);
        }
        rows.into_values().collect()
    }

    /// The row of a key of the list.
    pub(crate) fn row(&self, key: &str) -> Option<Row> {
        if !self.grouped {
            let node = self.nodes.get(key)?;
            let mut row = Row::empty(key, &node.region);
            row.add(node);
            return Some(row);
        }
        self.nodes.values().filter(|node| node.region == key).fold(
            None,
            |row: Option<Row>, node| {
                let mut row = row.unwrap_or_else(|| Row::empty(key, key));
                row.add(node);
                Some(row)
            },
        )
    }

    /// All nodes in one.
    pub(crate) fn sum(&self) -> Row {
        let mut sum = Row::empty("", "");
        self.nodes.values().for_each(|node| sum.add(node));
        sum
    }

    /// Sorts and filters.
    pub(crate) fn arrange(&mut self) {
        let mut filter = Filter::new(&self.list.filter);
        let mut rows = self.rows();
        rows.retain(|row| {
            filter.lets_by(|| {
                let labels = self.nodes.get(&row.name).map(|node| {
                    let pair = |(k, v): (&String, &String)| format!("{k}={v}");
                    node.labels.iter().map(pair).collect::<Vec<_>>().join(" ")
                });
                format!(
                    "{} {} {} {}",
                    row.name,
                    row.region,
                    state_word(row.states),
                    labels.unwrap_or_default()
                )
            })
        });
        let most = std::cmp::Reverse::<u64>;
        match self.list.sort {
            1 => rows.sort_by(|a, b| a.region.cmp(&b.region)),
            2 => rows.sort_by_key(|r| std::cmp::Reverse((r.states[2], r.states[1]))),
            3 => rows.sort_by_key(|r| most(r.usage.images as u64)),
            4 => rows.sort_by_key(|r| most(r.usage.used)),
            5 => rows.sort_by_key(|r| most(r.usage.held)),
            6 => rows.sort_by_key(|r| r.hit_rate().unwrap_or(101)),
            7 => rows.sort_by_key(|r| most(r.usage.evictions)),
            8 => rows.sort_by_key(|r| most(r.sandboxes as u64)),
            _ => {}
        }
        if self.list.reverse {
            rows.reverse();
        }
        let keys = rows.into_iter().map(|row| row.name).collect();
        self.list.arrange(keys);
    }

    /// Hit rates of a node over time; of all when none is named.
    pub(crate) fn rates(&self, node: Option<&str>) -> Vec<u8> {
        let rates = match node {
            None => Some(&self.all_rates),
            Some(name) => self.rates.get(name),
        };
        rates
            .map(|r| r.samples.iter().copied().collect())
            .unwrap_or_default()
    }

    /// Takes the map of which image is where.
    pub(crate) fn take_caches(&mut self, map: &CacheMap) {
        let mut places = Places {
            numbers: map.images.iter().copied().zip(0..).collect(),
            holders: vec![0; map.images.len()],
            ..Places::default()
        };
        let words = map.images.len().div_ceil(64);
        for (name, images) in &map.nodes {
            let mut bits = vec![0_u64; words];
            let region = self.nodes.get(name).map(|node| node.region.clone());
            let counts = places
                .by_region
                .entry(region.unwrap_or_default())
                .or_insert_with(|| vec![0; map.images.len()]);
            for number in images {
                let number = *number as usize;
                if let (Some(holders), Some(count)) =
                    (places.holders.get_mut(number), counts.get_mut(number))
                {
                    *holders += 1;
                    *count += 1;
                    bits[number / 64] |= 1 << (number % 64);
                }
            }
            places.nodes.insert(name.clone(), bits);
        }
        self.places = places;
    }

    /// Nodes that have the image of a manifest.
    pub(crate) fn holders(&self, manifest: &Digest) -> u32 {
        let number = self.places.numbers.get(manifest);
        number
            .and_then(|n| self.places.holders.get(*n))
            .copied()
            .unwrap_or(0)
    }

    /// Nodes of a region that have it.
    pub(crate) fn holders_in(&self, region: &str, manifest: &Digest) -> u32 {
        let number = self.places.numbers.get(manifest);
        number
            .and_then(|n| self.places.by_region.get(region)?.get(*n))
            .copied()
            .unwrap_or(0)
    }

    /// Whether a node has it.
    pub(crate) fn has(&self, node: &str, manifest: &Digest) -> bool {
        let Some(number) = self.places.numbers.get(manifest) else {
            return false;
        };
        self.places
            .nodes
            .get(node)
            .and_then(|bits| bits.get(number / 64))
            .is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    /// When it was last used, by what nodes told of their caches.
    pub(crate) fn last_used(&self, manifest: &Digest) -> Option<&str> {
        let images = self.listings.values().flat_map(|listing| &listing.images);
        images
            .filter(|image| image.digest == *manifest)
            .map(|image| image.last_used.as_str())
            .max()
    }

    /// Names of regions that have nodes, with how many are connected.
    pub(crate) fn region_sizes(&self) -> BTreeMap<String, usize> {
        let mut sizes: BTreeMap<String, usize> = BTreeMap::new();
        for node in self.nodes.values() {
            *sizes.entry(node.region.clone()).or_default() +=
                usize::from(node.state != NodeState::Lost);
        }
        sizes
    }

    /// Sorts and filters what the open node has.
    pub(crate) fn arrange_contents(&mut self, node: &str) {
        let Some(listing) = self.listings.get(node) else {
            return self.contents.arrange(Vec::new());
        };
        let mut filter = Filter::new(&self.contents.filter);
        let mut rows: Vec<_> = listing
            .images
            .iter()
            .filter(|i| filter.lets_by(|| format!("{} {}", i.image, i.digest.hex())))
            .collect();
        match self.contents.sort {
            1 => rows.sort_by_key(|i| std::cmp::Reverse(i.bytes)),
            2 => rows.sort_by_key(|i| std::cmp::Reverse(i.layers)),
            3 => rows.sort_by_key(|i| std::cmp::Reverse(i.pins.len() + i.in_use)),
            4 => rows.sort_by(|a, b| b.last_used.cmp(&a.last_used)),
            _ => rows.sort_by(|a, b| a.image.cmp(&b.image)),
        }
        if self.contents.reverse {
            rows.reverse();
        }
        let keys = rows.into_iter().map(|i| i.digest.to_string()).collect();
        self.contents.arrange(keys);
    }
}

/// Headings of what a node has.
pub(crate) const CONTENTS: [&str; 5] = ["IMAGE", "SIZE", "LAYERS", "KEPT BY", "USED"];

/// What the states of some nodes come to.
pub(crate) fn state_word(states: [usize; 3]) -> String {
    match states {
        [1, 0, 0] => "ready".to_owned(),
        [0, 1, 0] => "draining".to_owned(),
        [0, 0, 1] => "lost".to_owned(),
        [ready, 0, 0] => format!("{ready} ready"),
        [ready, draining, 0] => format!("{ready} ready, {draining} draining"),
        [ready, 0, lost] => format!("{ready} ready, {lost} lost"),
        [ready, draining, lost] => format!("{ready} ready, {draining} draining, {lost} lost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, region: &str, hits: u64, misses: u64) -> Node {
        Node {
            name: name.into(),
            region: region.into(),
            labels: BTreeMap::new(),
            state: NodeState::Ready,
            version: String::new(),
            joined: String::new(),
            last_seen: String::new(),
            cache: CacheUsage {
                hits,
                misses,
                ..CacheUsage::default()
            },
            sandboxes: 0,
            runtime: chalk_core::wire::NodeRuntime::default(),
            mirror: None,
        }
    }

    #[test]
    fn images_are_counted_by_node_and_region() {
        let mut fleet = Fleet::new();
        fleet.take(vec![
            node("a", "eu", 0, 0),
            node("b", "eu", 0, 0),
            node("c", "us", 0, 0),
        ]);
        let images: Vec<Digest> = (0..70_u8).map(|n| Digest::of(&[n])).collect();
        let nodes = [("a", vec![0, 69]), ("b", vec![69]), ("c", vec![1, 999])];
        fleet.take_caches(&CacheMap {
            images: images.clone(),
            nodes: nodes
                .into_iter()
                .map(|(name, list)| (name.to_owned(), list))
                .collect(),
        });
        assert_eq!(fleet.holders(&images[69]), 2);
        assert_eq!(fleet.holders_in("eu", &images[69]), 2);
        assert_eq!(fleet.holders_in("us", &images[69]), 0);
        assert!(fleet.has("a", &images[69]) && !fleet.has("c", &images[69]));
        assert_eq!(fleet.holders(&images[1]), 1);
        assert_eq!(fleet.holders(&Digest::of(b"other")), 0);
    }

    #[test]
    fn rates_are_of_the_time_between() {
        let mut rates = Rates::default();
        for (hits, misses) in [(0, 0), (5, 5), (15, 5), (15, 5), (1, 0)] {
            rates.sample(hits, misses);
        }
        let samples: Vec<u8> = rates.samples.into_iter().collect();
        assert_eq!(samples, [50, 100, 100]);
    }

    #[test]
    fn regions_are_rows_when_grouped() {
        let mut fleet = Fleet::new();
        fleet.grouped = true;
        fleet.take(vec![
            node("a", "eu", 1, 0),
            node("b", "eu", 2, 0),
            node("c", "us", 0, 4),
        ]);
        assert_eq!(fleet.list.keys(), ["eu", "us"]);
        assert_eq!(fleet.row("eu").unwrap().states, [2, 0, 0]);
        assert_eq!(fleet.row("us").unwrap().hit_rate(), Some(0));
    }
}
