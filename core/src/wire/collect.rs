//! Garbage collection of the service.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What to collect: all that the service's settings `gc.*` let go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CollectRequest {
    /// Only say what would go, and why the rest stays.
    #[serde(default)]
    pub dry_run: bool,
}

/// A line of the answer: every item, then the end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum CollectEvent {
    /// What became of a thing.
    Item(CollectItem),
    /// The last line.
    Done(CollectSummary),
    /// The last line, when the collection broke off. What was freed by then is freed.
    Failed {
        /// Why.
        problem: super::Problem,
    },
}

/// A thing that is kept or freed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CollectItem {
    /// What it is.
    pub area: CollectArea,
    /// Its name there.
    pub name: String,
    /// Digest of the manifest or blob, with its algorithm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Whether it goes.
    pub freed: bool,
    /// Why it goes or stays; for people.
    pub why: String,
    /// Bytes of all that it is made of, shared parts included.
    pub bytes: u64,
    /// Bytes that go with it. What several things share is counted once, with the last of them that
    /// goes; nothing of it goes while one of them stays.
    pub frees: u64,
}

/// Kinds of things that are collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum CollectArea {
    /// Images that were built here, by their hash.
    Images,
    /// Tags of images by the names that somebody gave them.
    Names,
    /// Base images that were imported or are kept ready.
    Imports,
    /// Cached steps, by their key.
    Steps,
    /// Manifests that no tag points to.
    Manifests,
    /// Blobs that no manifest names: files that were uploaded for builds, layers whose push broke off.
    Blobs,
    /// Blobs on their way in.
    Uploads,
    /// Objects that were uploaded for volumes.
    Volumes,
    /// Caches of the builder: unpacked layers, package managers, cache mounts.
    Caches,
    /// Records of builds.
    Builds,
}

/// What a collection did, or would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CollectSummary {
    /// Whether nothing was touched.
    pub dry_run: bool,
    /// When it began.
    pub started: String,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Bytes freed, shared parts counted once.
    pub freed_bytes: u64,
    /// The same by kind of thing.
    pub areas: BTreeMap<CollectArea, CollectTotal>,
}

/// Things of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CollectTotal {
    /// How many stay.
    pub kept: u64,
    /// How many go.
    pub freed: u64,
    /// Bytes that go with them.
    pub freed_bytes: u64,
}

impl CollectArea {
    /// All of them, in the order in which they are told.
    pub const ALL: [Self; 10] = [
        Self::Images,
        Self::Names,
        Self::Imports,
        Self::Steps,
        Self::Manifests,
        Self::Blobs,
        Self::Uploads,
        Self::Volumes,
        Self::Caches,
        Self::Builds,
    ];

    /// Its word, as in JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Images => "images",
            Self::Names => "names",
            Self::Imports => "imports",
            Self::Steps => "steps",
            Self::Manifests => "manifests",
            Self::Blobs => "blobs",
            Self::Uploads => "uploads",
            Self::Volumes => "volumes",
            Self::Caches => "caches",
            Self::Builds => "builds",
        }
    }
}
