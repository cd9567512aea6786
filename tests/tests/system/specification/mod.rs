//! The registry against the OCI distribution specification 1.1 (`spec.md`), a file for each of its
//! sections, by plain requests. Each test is named by what the section says.

use chalk_core::any_digest::Algorithm;
use chalk_tests::{RegistryHttp, World, noise, unique};

use crate::Test;

mod blob_deletes;
mod chunks;
mod conditions;
mod error_codes;
mod manifests;
mod mounts;
mod pulls;
mod referrers;
mod support;
mod tags;
mod tools;
mod whole_blobs;

/// Modules by name.
pub(crate) const MODULES: &[(&str, &[Test])] = &[
    ("specification::support", support::TESTS),
    ("specification::pulls", pulls::TESTS),
    ("specification::whole_blobs", whole_blobs::TESTS),
    ("specification::chunks", chunks::TESTS),
    ("specification::mounts", mounts::TESTS),
    ("specification::manifests", manifests::TESTS),
    ("specification::conditions", conditions::TESTS),
    ("specification::tags", tags::TESTS),
    ("specification::referrers", referrers::TESTS),
    ("specification::blob_deletes", blob_deletes::TESTS),
    ("specification::error_codes", error_codes::TESTS),
    ("specification::tools", tools::TESTS),
];

/// Both algorithms: what holds for one holds for the other.
const ALGORITHMS: [Algorithm; 2] = Algorithm::ALL;

/// The shared service's registry, and a repository that no other test uses.
fn fresh(world: &World) -> (RegistryHttp, String) {
    let repository = format!("specification/{}", unique());
    (RegistryHttp::of(world.service()), repository)
}

/// So many bytes that nobody has pushed yet.
fn bytes(count: usize) -> Vec<u8> {
    let mut bytes = noise(&unique(), count);
    bytes.truncate(count);
    bytes
}
