//! A number of processor cores as a setting: `2`, `0.5`.

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// Least part of a core that the kernel can give.
const LEAST: f64 = 0.01;
/// More than any machine has.
const MOST: f64 = 1_000_000.0;

/// A number of processor cores, at least 0.01.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Cpus(f64);

impl Cpus {
    /// The number.
    pub fn cores(self) -> f64 {
        self.0
    }

    fn new<E: Error>(cores: f64) -> Result<Self, E> {
        match (LEAST..=MOST).contains(&cores) {
            true => Ok(Self(cores)),
            false => Err(E::invalid_value(Unexpected::Float(cores), &Cores)),
        }
    }
}

struct Cores;

impl Visitor<'_> for Cores {
    type Value = Cpus;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a number of cores, at least {LEAST}")
    }

    fn visit_f64<E: Error>(self, cores: f64) -> Result<Cpus, E> {
        Cpus::new(cores)
    }

    fn visit_u64<E: Error>(self, cores: u64) -> Result<Cpus, E> {
        Cpus::new(cores as f64)
    }

    fn visit_i64<E: Error>(self, cores: i64) -> Result<Cpus, E> {
        Cpus::new(cores as f64)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Cpus, E> {
        match text.parse() {
            Ok(cores) => Cpus::new(cores),
            Err(_) => Err(E::invalid_value(Unexpected::Str(text), &self)),
        }
    }
}

impl<'de> Deserialize<'de> for Cpus {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Cores)
    }
}
