//! Chance that is the same for the same seed: every thing that is made up draws from a generator of
//! its own, named by what the thing is, so that adding one changes no other.

use chalk_core::Digest;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// A generator for the thing of that name.
pub(crate) fn of(seed: u64, name: impl std::fmt::Display) -> StdRng {
    let digest = Digest::of(format!("{seed} {name}").as_bytes());
    StdRng::from_seed(*digest.as_bytes())
}

/// One of a list that is not empty.
pub(crate) fn one<'a, T: ?Sized>(rng: &mut StdRng, list: &[&'a T]) -> &'a T {
    list[rng.random_range(0..list.len())]
}

/// Some of a list, each at most once, in the order of the list.
pub(crate) fn some<'a, T: ?Sized>(rng: &mut StdRng, list: &[&'a T], count: usize) -> Vec<&'a T> {
    let mut at = rand::seq::index::sample(rng, list.len(), count.min(list.len())).into_vec();
    at.sort_unstable();
    at.into_iter().map(|at| list[at]).collect()
}

/// A number between two, small ones as likely as large ones by order of magnitude.
pub(crate) fn spread(rng: &mut StdRng, least: f64, most: f64) -> f64 {
    rng.random_range(least.ln()..=most.ln()).exp()
}

/// Hex digits.
pub(crate) fn hex(rng: &mut StdRng, count: usize) -> String {
    let digit = |_| char::from_digit(rng.random_range(0..16), 16).unwrap_or('0');
    (0..count).map(digit).collect()
}
