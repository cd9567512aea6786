//! Passes: tokens that expire soon and are not kept anywhere, since they carry what they allow and
//! the service's signature on it. They outlive a restart of the service.
//!
//! `<prefix><claims>.<signature>`, both parts base64url without padding; the claims are JSON.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::signing::SigningKey;

/// What passes begin with, so that people see what they found.
const PREFIX: &str = "cha_";
/// Longest pass that is looked at, in bytes.
const LIMIT: usize = 8192;
/// Purpose of the signature.
const PURPOSE: &str = "pass v1";

/// What a pass is good for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "for", rename_all = "snake_case")]
pub(crate) enum Good {
    /// Whatever the client may do.
    Client,
    /// Pulling from one repository.
    Pull {
        /// The repository.
        repository: String,
    },
    /// What the client may do in the registry, in these repositories alone.
    Registry {
        /// The repositories.
        repositories: Vec<Repository>,
    },
}

/// What a pass is good for in a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Repository {
    /// Its name; `_catalog` stands for the list of all.
    #[serde(rename = "n")]
    pub(crate) name: String,
    #[serde(rename = "pull", default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) pull: bool,
    #[serde(rename = "push", default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) push: bool,
    #[serde(rename = "del", default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) delete: bool,
}

/// What a pass says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pass {
    /// Client that it was made for; none for the administrator.
    pub(crate) client: Option<String>,
    /// Seconds since 1970 at which it ends.
    pub(crate) expires: i64,
    #[serde(flatten)]
    pub(crate) good: Good,
}

impl Pass {
    /// The text of the pass.
    pub(crate) fn seal(&self, key: &SigningKey) -> String {
        // Texts and numbers only, so that this cannot fail.
        let claims = BASE64.encode(serde_json::to_vec(self).unwrap_or_default());
        let signature = BASE64.encode(key.sign(PURPOSE, claims.as_bytes()));
        format!("{PREFIX}{claims}.{signature}")
    }

    /// The pass that a text is, if it was made here and still counts.
    pub(crate) fn open(text: &[u8], key: &SigningKey, now: Timestamp) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let (claims, signature) = text.strip_prefix(PREFIX)?.split_once('.')?;
        let signature = (text.len() <= LIMIT).then(|| BASE64.decode(signature).ok())??;
        if !key.verifies(PURPOSE, claims.as_bytes(), &signature) {
            return None;
        }
        let pass: Self = serde_json::from_slice(&BASE64.decode(claims).ok()?).ok()?;
        (now.as_second() < pass.expires).then_some(pass)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_are_what_was_sealed() {
        let key = SigningKey::new([1; 32]);
        let now = Timestamp::from_second(1_000).unwrap();
        let pass = Pass {
            client: Some("c".into()),
            expires: 1_001,
            good: Good::Pull {
                repository: "a/b".into(),
            },
        };
        let text = pass.seal(&key);
        assert_eq!(Pass::open(text.as_bytes(), &key, now), Some(pass.clone()));
        let later = Timestamp::from_second(1_001).unwrap();
        assert_eq!(Pass::open(text.as_bytes(), &key, later), None);
        let other = SigningKey::new([2; 32]);
        assert_eq!(Pass::open(text.as_bytes(), &other, now), None);
        for at in 0..text.len() {
            let mut bent = text.clone().into_bytes();
            bent[at] = if bent[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(Pass::open(&bent, &key, now), None, "{at}");
        }
        for wrong in ["", "cha_", "cha_.", "cha_e30.", &text[..text.len() - 1]] {
            assert_eq!(Pass::open(wrong.as_bytes(), &key, now), None, "{wrong}");
        }
    }
}
