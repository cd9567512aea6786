//! Building an image anew and comparing it with the published one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Digest;

/// A verification to start.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VerifyRequest {
    /// Values of the secrets that steps name. Never kept.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, String>,
    /// Cancel it when the last client that follows its events is gone.
    #[serde(default)]
    pub cancel_on_disconnect: bool,
}

/// How an image that was built anew compares with the published one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Verification {
    /// Whether config and all layers are the same to the byte.
    pub identical: bool,
    /// Whether the published config says what a build says now: environment, command, history.
    /// Its list of layers counts in [`layers`](Self::layers) alone.
    pub config_identical: bool,
    /// The layers that steps made, in order; those of the base are pinned by its digest.
    pub layers: Vec<LayerCheck>,
}

/// One layer of a [`Verification`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LayerCheck {
    /// Index of its step in the steps of the build; none for a layer that stands for several.
    pub step: Option<usize>,
    /// What made it, one line.
    pub title: String,
    /// Digest of the published layer's uncompressed bytes; null when the published image has none
    /// here.
    pub published: Option<Digest>,
    /// The same of the layer that was built now; null when none was made.
    pub rebuilt: Option<Digest>,
    /// Whether both are the same.
    pub identical: bool,
    /// Files that differ, by path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileCheck>,
    /// How many more differ than are listed.
    #[serde(default)]
    pub more: u64,
}

/// A file that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FileCheck {
    /// Path in the layer, with odd bytes escaped; a whiteout stands as `.wh.NAME`.
    pub path: String,
    /// What differs.
    pub differs: Vec<Difference>,
}

/// What of a file can differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Difference {
    /// Only the published layer has it.
    OnlyPublished,
    /// Only the rebuilt layer has it.
    OnlyRebuilt,
    /// File, directory, link, device.
    Kind,
    /// Bytes, target of a link, or number of a device.
    Content,
    /// Permission bits.
    Mode,
    /// User or group.
    Owner,
    /// Modification time.
    Time,
    /// Extended attributes, file capabilities among them.
    Xattr,
}

impl Difference {
    /// Word for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::OnlyPublished => "only in the published image",
            Self::OnlyRebuilt => "only in the rebuilt image",
            Self::Kind => "kind",
            Self::Content => "content",
            Self::Mode => "mode",
            Self::Owner => "owner",
            Self::Time => "time",
            Self::Xattr => "xattr",
        }
    }
}
