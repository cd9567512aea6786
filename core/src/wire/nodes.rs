//! Nodes, their caches, and the tokens that they join with.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Digest;

/// A host that runs sandboxes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Node {
    /// Name, unique within the service.
    pub name: String,
    /// Region that it belongs to.
    pub region: String,
    /// Labels that it was started with.
    pub labels: BTreeMap<String, String>,
    /// State.
    pub state: NodeState,
    /// Version of its program.
    pub version: String,
    /// When it joined.
    pub joined: String,
    /// When it was last heard of.
    pub last_seen: String,
    /// What its cache holds and may hold.
    pub cache: CacheUsage,
    /// Sandboxes that run there.
    pub sandboxes: usize,
    /// What keeps its images.
    #[serde(default, skip_serializing_if = "NodeRuntime::is_chalk")]
    pub runtime: NodeRuntime,
    /// Base URL under which it serves layers to its region, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<String>,
}

/// What keeps the images of a [`Node`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum NodeRuntime {
    /// The node itself; it runs sandboxes from them.
    #[default]
    Chalk,
    /// A containerd, for the containers of Kubernetes or nerdctl; the node runs no sandboxes.
    Containerd,
}

impl NodeRuntime {
    /// Whether it is the one that nodes have unless they say otherwise.
    pub fn is_chalk(&self) -> bool {
        *self == Self::Chalk
    }
}

/// State of a [`Node`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// Connected; takes work.
    Ready,
    /// Connected; takes no new work.
    Draining,
    /// Not connected.
    Lost,
}

/// How full a node's cache is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CacheUsage {
    /// Most bytes that it may hold.
    pub size_limit: u64,
    /// Bytes on disk, shared layers counted once.
    pub used: u64,
    /// Of these, bytes that no eviction may take now: pinned or in use.
    pub held: u64,
    /// Whole images.
    pub images: usize,
    /// Whole layers.
    pub layers: usize,
    /// Leases and warms that found their image there, since the node started.
    pub hits: u64,
    /// Leases and warms that had to fetch, since the node started.
    pub misses: u64,
    /// Layers that were evicted since the node started.
    pub evictions: u64,
}

/// An image in the cache of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CachedImage {
    /// Digest of its manifest.
    pub digest: Digest,
    /// Image hash; absent for images that were not built here, such as pre-warmed bases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_hash: Option<Digest>,
    /// What it was pulled by.
    pub image: String,
    /// Bytes on disk of its layers, those that it shares included.
    pub bytes: u64,
    /// Number of layers.
    pub layers: usize,
    /// Labels of the pins that keep it.
    pub pins: Vec<String>,
    /// Sandboxes that use it.
    pub in_use: usize,
    /// When it was last warmed or used.
    pub last_used: String,
    /// Whether the blobs of all its layers are kept, so that other nodes can have them from here.
    #[serde(default)]
    pub blobs_kept: bool,
}

/// What a node's cache holds, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CacheListing {
    /// Name of the node.
    pub node: String,
    /// In all.
    pub usage: CacheUsage,
    /// Images, most recently used first.
    pub images: Vec<CachedImage>,
    /// Everything that takes room, with the reason why it is kept.
    pub items: Vec<CacheItem>,
    /// How many images and items are not listed, because the answer would be too long.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u64,
}

/// Which connected node has which image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CacheMap {
    /// Digests of the manifests of all images that some node has, sorted.
    pub images: Vec<Digest>,
    /// By name of a connected node: indexes in `images`, rising.
    pub nodes: BTreeMap<String, Vec<u32>>,
}

/// A thing on a node's disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CacheItem {
    /// What it is.
    pub kind: CacheItemKind,
    /// Its digest.
    pub digest: Digest,
    /// Bytes on disk.
    pub bytes: u64,
    /// Why it is kept, or may go; for people.
    pub why: String,
    /// Whether an eviction may take it now.
    pub evictable: bool,
}

/// Kinds of [`CacheItem`]s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum CacheItemKind {
    /// A layer in its mountable form, by the digest of its blob.
    Layer,
    /// A blob as it came, kept for other nodes.
    Blob,
    /// A mounted file or directory.
    File,
}

/// What to free in a node's cache.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct GcRequest {
    /// Only say what would go.
    #[serde(default)]
    pub dry_run: bool,
    /// Free until at most this many bytes are used; everything that may go when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_bytes: Option<u64>,
}

/// What a collection freed, or would free.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct GcReport {
    /// Name of the node.
    pub node: String,
    /// Whether nothing was touched.
    pub dry_run: bool,
    /// Bytes freed, shared layers counted once.
    pub freed_bytes: u64,
    /// What went.
    pub freed: Vec<CacheItem>,
    /// What stays, and why.
    pub kept: Vec<CacheItem>,
    /// Usage afterwards.
    pub usage: CacheUsage,
    /// How many items of `freed` and `kept` are not listed, because the answer would be too long.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A join token to make.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct JoinTokenRequest {
    /// Only for nodes of this region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Seconds until it expires; a day when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
    /// How many nodes may join with it; any number when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses: Option<u32>,
}

/// A join token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct JoinToken {
    /// Identifier.
    pub id: String,
    /// The token; only in the answer that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Region that it is limited to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// When it expires.
    pub expires: String,
    /// Nodes that may still join with it; any number when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses_left: Option<u32>,
}

/// A region with its registry and nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Region {
    /// Name.
    pub name: String,
    /// `host[:port][/prefix]` of its registry.
    pub registry: String,
    /// Whether the registry is the service's own, which every region without one of its own uses.
    pub home: bool,
    /// Nodes that are connected.
    pub nodes: usize,
}

/// Base images that every node keeps ready.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Prewarm {
    /// References, by tag (followed when it moves) or digest.
    pub images: Vec<String>,
    /// What became of each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<PrewarmState>,
}

/// State of one image of the [`Prewarm`] list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PrewarmState {
    /// Reference.
    pub image: String,
    /// Digest of the manifest that the tag named when it was last looked up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// When it was last looked up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked: Option<String>,
    /// Connected nodes that have it.
    pub nodes_ready: usize,
    /// Why it could not be looked up or copied, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
