//! Which node has which images, as the nodes report it.
//!
//! A thousand nodes with hundreds of images each are to cost little: an image is kept once, and a
//! node's images are bits.

use std::collections::BTreeMap;

use chalk_core::Digest;
use chalk_core::wire::CacheMap;

/// Images of all nodes.
#[derive(Debug, Default)]
pub(crate) struct Caches {
    numbers: BTreeMap<Digest, u32>,
    /// By number: how many nodes have it.
    holders: Vec<u32>,
    digests: Vec<Digest>,
    free: Vec<u32>,
}

/// Images of one node.
#[derive(Debug, Default, Clone)]
pub(crate) struct Held {
    /// What it has.
    there: Bits,
    /// Of these, what it can give to others.
    kept: Bits,
}

impl Held {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.there.len()
    }
}

/// A set of numbers.
#[derive(Debug, Default, Clone)]
struct Bits(Vec<u64>);

impl Bits {
    fn has(&self, number: u32) -> bool {
        let word = self.0.get(number as usize / 64).copied().unwrap_or(0);
        word >> (number % 64) & 1 == 1
    }

    fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    fn set(&mut self, number: u32, to: bool) {
        let at = number as usize / 64;
        if self.0.len() <= at {
            self.0.resize(at + 1, 0);
        }
        let bit = 1 << (number % 64);
        if to {
            self.0[at] |= bit;
        } else {
            self.0[at] &= !bit;
        }
    }

    fn numbers(&self) -> impl Iterator<Item = u32> + '_ {
        let bits = |(at, word): (usize, &u64)| {
            let word = *word;
            (0..64_u32).filter_map(move |bit| {
                (word >> bit & 1 == 1).then_some(u32::try_from(at * 64).unwrap_or(0) + bit)
            })
        };
        self.0.iter().enumerate().flat_map(bits)
    }
}

impl Caches {
    /// Whether a node has the image of that manifest.
    pub(crate) fn has(&self, held: &Held, digest: &Digest) -> bool {
        self.numbers.get(digest).is_some_and(|n| held.there.has(*n))
    }

    /// Whether a node has the image of that manifest with the blobs of its layers.
    pub(crate) fn keeps(&self, held: &Held, digest: &Digest) -> bool {
        self.numbers.get(digest).is_some_and(|n| held.kept.has(*n))
    }

    /// A node has an image, and its blobs or not.
    pub(crate) fn report(&mut self, held: &mut Held, digest: &Digest, kept: bool) {
        self.put(held, digest);
        if let Some(number) = self.numbers.get(digest) {
            held.kept.set(*number, kept);
        }
    }

    /// A node has an image; whether with its blobs is to be seen.
    pub(crate) fn put(&mut self, held: &mut Held, digest: &Digest) {
        let number = match self.numbers.get(digest) {
            Some(number) => *number,
            None => self.add(*digest),
        };
        if !held.there.has(number) {
            held.there.set(number, true);
            self.holders[number as usize] += 1;
        }
    }

    fn add(&mut self, digest: Digest) -> u32 {
        let number = self.free.pop().unwrap_or_else(|| {
            self.holders.push(0);
            self.digests.push(digest);
            u32::try_from(self.holders.len() - 1).unwrap_or(u32::MAX)
        });
        self.digests[number as usize] = digest;
        self.numbers.insert(digest, number);
        number
    }

    /// A node has an image no more.
    pub(crate) fn remove(&mut self, held: &mut Held, digest: &Digest) {
        if let Some(number) = self.numbers.get(digest).copied()
            && held.there.has(number)
        {
            held.there.set(number, false);
            held.kept.set(number, false);
            self.release(number);
        }
    }

    /// A node has nothing any more.
    pub(crate) fn clear(&mut self, held: &mut Held) {
        let old = std::mem::take(held);
        for number in old.there.numbers() {
            self.release(number);
        }
    }

    /// Which of some nodes has what.
    pub(crate) fn map<'a>(&self, nodes: impl Iterator<Item = (String, &'a Held)>) -> CacheMap {
        let mut places = vec![0_u32; self.digests.len()];
        for (place, number) in (0..).zip(self.numbers.values()) {
            places[*number as usize] = place;
        }
        let list = |held: &Held| {
            let mut list: Vec<u32> = held.there.numbers().map(|n| places[n as usize]).collect();
            list.sort_unstable();
            list
        };
        CacheMap {
            images: self.numbers.keys().copied().collect(),
            nodes: nodes.map(|(name, held)| (name, list(held))).collect(),
        }
    }

    fn release(&mut self, number: u32) {
        let holders = &mut self.holders[number as usize];
        *holders -= 1;
        if *holders == 0 {
            self.numbers.remove(&self.digests[number as usize]);
            self.free.push(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_counted_and_forgotten() {
        let mut caches = Caches::default();
        let (mut a, mut b) = (Held::default(), Held::default());
        let digest = |n: u32| Digest::of(&n.to_le_bytes());
        for n in 0..200 {
            caches.put(&mut a, &digest(n));
            caches.put(&mut a, &digest(n));
        }
        caches.put(&mut b, &digest(70));
        assert_eq!((a.len(), b.len()), (200, 1));
        assert!(caches.has(&b, &digest(70)) && !caches.has(&b, &digest(71)));
        caches.remove(&mut a, &digest(70));
        caches.remove(&mut a, &digest(70));
        assert!(!caches.has(&a, &digest(70)) && caches.has(&b, &digest(70)));
        caches.clear(&mut a);
        assert_eq!(caches.numbers.len(), 1);
        assert!(caches.has(&b, &digest(70)));
        // Numbers are given again, and mean the new image only.
        caches.put(&mut a, &digest(1000));
        assert!(caches.has(&a, &digest(1000)) && !caches.has(&b, &digest(1000)));
        // Blobs go before their image, and do not come back with another of its number.
        caches.report(&mut b, &digest(1000), true);
        assert!(caches.keeps(&b, &digest(1000)) && !caches.keeps(&a, &digest(1000)));
        caches.put(&mut b, &digest(1000));
        assert!(caches.keeps(&b, &digest(1000)));
        caches.report(&mut b, &digest(1000), false);
        assert!(caches.has(&b, &digest(1000)) && !caches.keeps(&b, &digest(1000)));
        caches.report(&mut b, &digest(1000), true);
        caches.remove(&mut b, &digest(1000));
        caches.put(&mut b, &digest(1000));
        assert!(!caches.keeps(&b, &digest(1000)));
        assert_eq!(caches.holders.len(), 200);
    }

    #[test]
    fn the_map_says_what_each_node_has() {
        let mut caches = Caches::default();
        let (mut a, mut b) = (Held::default(), Held::default());
        let mut digests: Vec<Digest> = (0..100_u32).map(|n| Digest::of(&n.to_le_bytes())).collect();
        for digest in &digests {
            caches.put(&mut a, digest);
        }
        for digest in digests.iter().take(90) {
            caches.remove(&mut a, digest);
        }
        caches.put(&mut b, &digests[95]);
        let named = [("a".to_owned(), &a), ("b".to_owned(), &b)];
        let map = caches.map(named.into_iter());
        let mut left = digests.split_off(90);
        let shared = left[5];
        left.sort_unstable();
        assert_eq!(map.images, left);
        assert_eq!(map.nodes["a"], (0..10).collect::<Vec<u32>>());
        let place = left.iter().position(|digest| *digest == shared).unwrap();
        assert_eq!(map.nodes["b"], [u32::try_from(place).unwrap()]);
    }
}
