//! Warming: bringing images into the caches of nodes ahead of any sandbox.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Problem;
use crate::Digest;

/// Images to bring to nodes. Without nodes, labels and region: to every node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct WarmRequest {
    /// Hash prefixes or names.
    pub images: Vec<String>,
    /// Only these nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// Only nodes with all of these labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Only nodes of this region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Every node, said aloud; not together with the others.
    #[serde(default)]
    pub all: bool,
    /// Keep the images there until they are unpinned, whatever else is evicted.
    #[serde(default)]
    pub pin: bool,
    /// Seconds after which what is not ready has failed; a day when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u64>,
}

/// A warm, past or present.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Warm {
    /// Identifier, sortable by time.
    pub id: String,
    /// State.
    pub status: WarmStatus,
    /// Image hashes.
    pub images: Vec<Digest>,
    /// When it was asked for.
    pub created: String,
    /// When its last target ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<String>,
    /// One for each image and node.
    pub nodes: Vec<WarmTarget>,
}

/// State of a [`Warm`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum WarmStatus {
    /// Some targets are still to come.
    Running,
    /// Every target is ready.
    Ready,
    /// Some targets are ready, some failed.
    Partly,
    /// No target is ready.
    Failed,
    /// Cancelled before its end.
    Cancelled,
}

/// One image on one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct WarmTarget {
    /// Name of the node.
    pub node: String,
    /// Its region.
    pub region: String,
    /// Image hash.
    pub image_hash: Digest,
    /// State.
    pub state: WarmState,
    /// Bytes done of those that are fetched.
    pub done: u64,
    /// Bytes to fetch, when known.
    pub total: u64,
    /// Bytes that came over the network.
    pub bytes_fetched: u64,
    /// Bytes of the image, as stored in the registry, that were there before.
    pub bytes_present: u64,
    /// Of the bytes that came over the network, those that came from mirrors.
    #[serde(default)]
    pub bytes_from_mirrors: u64,
    /// Digests that were checked; none of an image that was there before.
    #[serde(default)]
    pub digests_verified: u32,
    /// Whether every digest was checked, now or when it was fetched.
    pub verified: bool,
    /// Wall time on the node.
    pub seconds: f64,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Problem>,
    /// Tries that are left, where it failed in a way that may pass.
    #[serde(default)]
    pub retries_left: u32,
}

/// State of a [`WarmTarget`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum WarmState {
    /// Waits for its wave, its node, or the copy to its region's registry.
    Queued,
    /// The node fetches it.
    Pulling,
    /// It can be started.
    Ready,
    /// It failed; a node that was lost may still come back and become ready.
    Failed,
}

/// What a node says when an image is ready.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Receipt {
    /// Digest of the manifest.
    pub digest: Digest,
    /// Bytes that came over the network, manifest and config included.
    pub bytes_fetched: u64,
    /// Of these, bytes that came from mirrors.
    pub bytes_from_mirrors: u64,
    /// Bytes of the image, as stored in the registry, that were there before.
    pub bytes_present: u64,
    /// Digests that were checked: manifest, config, and blob and uncompressed form of each layer.
    pub digests_verified: u32,
    /// Wall time.
    pub seconds: f64,
}

/// Progress of one layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LayerProgress {
    /// Digest of its blob.
    pub digest: Digest,
    /// Bytes done.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

/// Something that happened in a warm. Numbers rise; what newer news of the same target replaced is
/// left out, so that whoever comes late or is slow sees what is so now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct WarmEvent {
    /// Number within the warm, from 1 on.
    pub seq: u64,
    /// When.
    pub time: String,
    /// What.
    #[serde(flatten)]
    pub kind: WarmEventKind,
}

/// Kinds of [`WarmEvent`]s.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum WarmEventKind {
    /// An image is copied to a region's registry.
    Copying {
        /// Image hash.
        image_hash: Digest,
        /// Region.
        region: String,
        /// Bytes done.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// A node fetches; at most a few times a second and node.
    Pulling {
        /// Name of the node.
        node: String,
        /// Image hash.
        image_hash: Digest,
        /// Bytes done.
        done: u64,
        /// Bytes in all.
        total: u64,
        /// Layers on their way.
        layers: Vec<LayerProgress>,
    },
    /// A target changed its state.
    Target {
        /// The target as it is now.
        target: WarmTarget,
    },
    /// The end; more events follow only when a lost node comes back.
    Finished {
        /// The warm as it ended.
        warm: Box<Warm>,
    },
}
