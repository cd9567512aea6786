//! Secrets that the service has for builds.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `secrets.*`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Secrets {
    /// Name of a secret to the file that has its value; read anew for each build.
    pub files: BTreeMap<String, PathBuf>,
    /// Name of a secret to the variable of the service's environment that has its value.
    pub env: BTreeMap<String, String>,
    /// Name of a secret to the names or identifiers of the tokens that may use it, besides the
    /// administrator's; one that is not listed is for all who may build.
    pub clients: BTreeMap<String, Vec<String>>,
}
