//! Which neighbouring layers of a long image are joined.
//!
//! An image can have 127 layers in Docker's drivers, and its store takes 125; a spec may have more
//! steps. Layers are joined in runs of neighbours, none of them larger than a threshold, so a
//! change re-packs a run of small layers and never a big one. Runs are cut from the bottom at
//! multiples of a power of two: adding a step moves the cuts of no other run, save when the number
//! of steps outgrows the power, and joined layers are found again in the step cache.

use std::ops::Range;

/// Most layers of a published image. Leaves room for those who build upon it.
pub(super) const MAX_LAYERS: usize = 120;

/// Layers up to here are joined first, in bytes as stored.
const SMALL: u64 = 1 << 20;

/// Cuts layers with these sizes into runs so that at most `limit` remain. The first `base` layers
/// come from elsewhere, where they are shared, and are joined only when there is no other way. A
/// run of one layer is that layer.
pub(super) fn runs(sizes: &[u64], base: usize, limit: usize) -> Vec<Range<usize>> {
    let limit = limit.max(1);
    let whole = |count: usize| (0..count).map(|i| i..i + 1);
    if sizes.len() <= limit {
        return whole(sizes.len()).collect();
    }
    let own = &sizes[base..];
    let room = limit.saturating_sub(base);
    if room == 0 || own.is_empty() {
        // The base alone is too long: all layers are treated alike.
        return cut(sizes, 0, limit);
    }
    let mut runs: Vec<Range<usize>> = whole(base).collect();
    runs.extend(cut(own, base, room));
    runs
}

fn cut(sizes: &[u64], offset: usize, limit: usize) -> Vec<Range<usize>> {
    let mut small = SMALL;
    loop {
        let mut length = 2;
        while length < sizes.len() * 2 {
            let runs = cut_at(sizes, offset, length, small);
            if runs.len() <= limit {
                return runs;
            }
            length *= 2;
        }
        match small.checked_mul(4) {
            Some(next) => small = next,
            None => return std::iter::once(offset..offset + sizes.len()).collect(),
        }
    }
}

fn cut_at(sizes: &[u64], offset: usize, length: usize, small: u64) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (i, size) in sizes.iter().enumerate() {
        let at = offset + i;
        let joins = i % length != 0 && *size <= small && sizes[i - 1] <= small;
        match runs.last_mut() {
            Some(run) if joins => run.end = at + 1,
            _ => runs.push(at..at + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(runs: &[Range<usize>]) -> Vec<usize> {
        runs.iter().map(Range::len).collect()
    }

    #[test]
    fn short_images_stay() {
        assert_eq!(sizes(&runs(&[1; 120], 10, 120)), vec![1; 120]);
        assert!(runs(&[], 0, 120).is_empty());
    }

    #[test]
    fn runs_cover_all_layers_in_order() {
        let check = |sizes: &[u64], base: usize, limit: usize| {
            let runs = runs(sizes, base, limit);
            assert!(runs.len() <= limit, "{} runs", runs.len());
            let joined: Vec<usize> = runs.iter().cloned().flatten().collect();
            assert_eq!(joined, (0..sizes.len()).collect::<Vec<_>>());
        };
        check(&[100; 500], 5, 120);
        check(&[100; 5000], 1, 120);
        check(&[u64::MAX; 500], 0, 120);
        check(&[100; 300], 200, 120);
        check(&[100; 300], 300, 120);
        check(&[100; 3], 1, 1);
        let mixed: Vec<u64> = (0..500).map(|i| 1 << (i % 40)).collect();
        check(&mixed, 3, 120);
    }

    #[test]
    fn big_layers_and_the_base_stay_alone() {
        let mut layers = vec![1000; 500];
        layers[0] = 80 << 20;
        layers[250] = 300 << 20;
        let runs = runs(&layers, 3, 120);
        for alone in [0, 1, 2, 250] {
            assert!(runs.contains(&(alone..alone + 1)));
        }
    }

    #[test]
    fn a_longer_image_keeps_its_runs() {
        let (short, long) = (runs(&[1000; 400], 1, 120), runs(&[1000; 401], 1, 120));
        assert_eq!(short[..short.len() - 1], long[..short.len() - 1]);
    }
}
