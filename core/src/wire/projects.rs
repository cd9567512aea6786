//! Projects: who shares what, and how much of it.

use serde::{Deserialize, Serialize};

/// The project of everything that was not given another one.
pub const DEFAULT_PROJECT: &str = "default";

pub(super) fn default_project() -> String {
    DEFAULT_PROJECT.to_owned()
}

pub(super) fn is_default(project: &str) -> bool {
    project == DEFAULT_PROJECT
}

/// A project. Its tokens see and change what belongs to it, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Project {
    /// Name: 1 to 63 lower-case letters, digits and hyphens, from a letter or digit to one.
    pub name: String,
    /// When it was made; absent for the default project, which always was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// What it may take at most.
    pub quotas: Quotas,
    /// What it takes.
    pub usage: ProjectUsage,
}

/// What a project may take at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Quotas {
    /// Builds that wait or run at once; any number when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub builds: Option<u64>,
    /// Bytes of its images, pushes, uploads and volumes as stored; any number when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_bytes: Option<u64>,
}

/// What a project takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ProjectUsage {
    /// Builds that wait or run.
    pub builds: u64,
    /// Images.
    pub images: u64,
    /// Bytes as stored, each blob counted once; what other projects have, too, counts for each.
    /// Absent while nobody counts: there is no other project than the default one, and it has no
    /// quota.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_bytes: Option<u64>,
}

/// A project to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ProjectRequest {
    /// As [`Project::name`].
    pub name: String,
    /// What it may take at most.
    #[serde(default)]
    pub quotas: Quotas,
}
