//! Tokens of people and programs, and what they allow.

use serde::{Deserialize, Serialize};

/// What a token allows. Each role may look at everything of its project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Looks at what its project has and pulls its images.
    Read,
    /// Builds, names and pushes images, keeps volumes, and runs sandboxes.
    Build,
    /// Brings images to nodes, and says which they keep ready.
    Warm,
    /// Everything, of every project: nodes, tokens and deletion, too.
    Admin,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 4] = [Self::Read, Self::Build, Self::Warm, Self::Admin];

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Build => "build",
            Self::Warm => "warm",
            Self::Admin => "admin",
        }
    }
}

/// A word that is no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no role: expected read, build, warm or admin")]
pub struct InvalidRole(String);

impl std::str::FromStr for Role {
    type Err = InvalidRole;

    fn from_str(word: &str) -> Result<Self, InvalidRole> {
        let found = Self::ALL.into_iter().find(|role| role.word() == word);
        found.ok_or_else(|| InvalidRole(word.chars().take(40).collect()))
    }
}

/// A token to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ClientTokenRequest {
    /// What it is for; need not be unique.
    pub name: String,
    /// What it allows; `build` when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<Role>,
    /// Project that it belongs to; the default one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Seconds until it expires; never when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
}

/// A token of a person or program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ClientToken {
    /// Identifier, which Chalk's own SDK logs in with.
    pub client_id: String,
    /// What it is for.
    pub name: String,
    /// What it allows.
    pub roles: Vec<Role>,
    /// Project that it belongs to.
    #[serde(default = "super::projects::default_project")]
    pub project: String,
    /// When it was made.
    pub created: String,
    /// When it expires; never when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// What Chalk's own SDK logs in with; only in the answer that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<String>,
    /// What the command, HTTP calls and `docker login` take; only in the answer that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}
