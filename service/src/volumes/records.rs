//! What the ledger keeps of volumes.
//!
//! | table | key | value |
//! |---|---|---|
//! | `volumes` | identifier | [`VolumeRecord`] |
//! | `volume_refs` | identifier `/` name | [`RefRecord`] |
//! | `volume_versions` | identifier `/` number, 16 hex digits | [`VersionRecord`] |
//! | `volume_commits` | identifier `/` identifier of the commit | [`CommitRecord`] |

use chalk_core::Digest;
use chalk_core::wire::DEFAULT_PROJECT;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::manifest::Stats;

/// What a volume is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum VolumeKind {
    /// Anything.
    #[default]
    Plain,
    /// Source files that somebody deploys.
    SourceCode,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VolumeRecord {
    /// Identifier, sortable by time.
    pub(crate) id: String,
    /// Name; no two volumes of a project share one at a time.
    pub(crate) name: String,
    /// Project that it belongs to; the default one for volumes of before there were projects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) project: Option<String>,
    /// What it is for.
    #[serde(default)]
    pub(crate) kind: VolumeKind,
    /// When it was made.
    pub(crate) created: Timestamp,
    /// Number of its newest version, whatever the ref; 0 before the first.
    pub(crate) versions: u64,
}

impl VolumeRecord {
    /// Project that it belongs to.
    pub(crate) fn project(&self) -> &str {
        self.project.as_deref().unwrap_or(DEFAULT_PROJECT)
    }
}

/// Where a ref points.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RefRecord {
    /// Name.
    pub(crate) name: String,
    /// Number of the version.
    pub(crate) version: u64,
    /// When it moved there.
    pub(crate) updated: Timestamp,
}

/// A version, which never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VersionRecord {
    /// Number within the volume, counted from 1.
    pub(crate) number: u64,
    /// Number of versions from the first one to this one, by parents.
    pub(crate) sequence: u64,
    /// Number of the version that it changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) parent: Option<u64>,
    /// When it was committed.
    pub(crate) created: Timestamp,
    /// Ref on which it was committed.
    #[serde(rename = "ref")]
    pub(crate) on: String,
    /// The commit that made it.
    pub(crate) commit: String,
    /// Who committed it, as the client said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) author: String,
    /// The blob that lists its files.
    pub(crate) manifest: Digest,
    /// Totals.
    pub(crate) stats: Stats,
}

/// A commit that made a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CommitRecord {
    /// Number of the version.
    pub(crate) version: u64,
}

/// Key of a version.
pub(super) fn version_key(volume: &str, number: u64) -> String {
    format!("{volume}/{number:016x}")
}

/// Key of a ref or commit.
pub(super) fn key(volume: &str, name: &str) -> String {
    format!("{volume}/{name}")
}
