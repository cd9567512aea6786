//! Settings of nodes, regions, warms and sandboxes.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use chalk_core::Reference;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Slim Python bases that are kept ready unless the list is set.
const BASES: [&str; 5] = ["3.10", "3.11", "3.12", "3.13", "3.14"];

/// `regions.*`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Regions {
    /// Region of the service's own registry, which every region without one of its own uses.
    pub home: String,
    /// Region to its registry.
    pub registries: BTreeMap<String, RegistryAt>,
}

/// `nodes.*`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Nodes {
    /// How often a connected node says that it lives.
    #[serde(with = "crate::settings::length::required")]
    pub heartbeat: Duration,
    /// Silence after which a node counts as lost.
    #[serde(with = "crate::settings::length::required")]
    pub lost_after: Duration,
}

/// `warm.*`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Warm {
    /// Nodes that pull from one region's registry at once, of all warms; others wait, or pull from
    /// nodes.
    pub registry_pulls: usize,
    /// Nodes that pull an image from each other in a row.
    pub chain: usize,
    /// Finished warms whose records are kept.
    pub keep: usize,
}

/// `prewarm.*`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Prewarm {
    /// Images that every node keeps ready, until the API sets another list.
    pub images: Vec<String>,
    /// How often is looked whether their tags moved.
    #[serde(with = "crate::settings::length::required")]
    pub interval: Duration,
}

/// `sandboxes.*`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sandboxes {
    /// Ended sandboxes whose records are kept.
    pub keep: usize,
    /// How long a sandbox that is to end with its clients waits for one to come back.
    #[serde(with = "crate::settings::length::required")]
    pub disconnect_grace: Duration,
}

impl Default for Regions {
    fn default() -> Self {
        Self {
            home: "local".to_owned(),
            registries: BTreeMap::new(),
        }
    }
}

impl Default for Nodes {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(10),
            lost_after: Duration::from_secs(30),
        }
    }
}

impl Default for Warm {
    fn default() -> Self {
        Self {
            registry_pulls: 4,
            chain: 16,
            keep: 200,
        }
    }
}

impl Default for Prewarm {
    fn default() -> Self {
        let image = |version: &&str| format!("docker.io/library/python:{version}-slim-bookworm");
        Self {
            images: BASES.iter().map(image).collect(),
            interval: Duration::from_secs(300),
        }
    }
}

impl Default for Sandboxes {
    fn default() -> Self {
        Self {
            keep: 1000,
            disconnect_grace: Duration::from_secs(10),
        }
    }
}

/// Where the registry of a region is: `[http://]host[:port][/prefix]`. Plain HTTP is spoken where
/// it is said so, on loopback, and where the setting `registry.insecure` allows it. With a scheme, a
/// path up to `/v2` is that of the registry's API: `https://host/registry/v2/prefix`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryAt {
    /// `[http://]host[:port]`, with the path of the API where that was given.
    url: String,
    prefix: String,
}

/// A text that is no [`RegistryAt`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no registry: expected `host[:port][/prefix]`")]
pub struct InvalidRegistry(pub String);

impl RegistryAt {
    /// `[http://]host[:port]`, with the path of the API where that was given.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// `host[:port]`.
    pub fn host(&self) -> &str {
        let rest = self.url.split("://").last().unwrap_or_default();
        rest.split('/').next().unwrap_or_default()
    }

    /// Path in front of every repository; may be empty.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}

impl std::str::FromStr for RegistryAt {
    type Err = InvalidRegistry;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidRegistry(text.to_owned());
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme @ ("http" | "https"), rest)) => (format!("{scheme}://"), rest),
            Some(_) => return Err(invalid()),
            None => (String::new(), text),
        };
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = path.trim_end_matches('/');
        let parts: Vec<&str> = path.split('/').collect();
        let v2 = parts.iter().position(|part| *part == "v2");
        let (api, prefix) = match v2.filter(|_| !scheme.is_empty()) {
            Some(at) => (
                format!("/{}", parts[..=at].join("/")),
                parts[at + 1..].join("/"),
            ),
            None => (String::new(), path.to_owned()),
        };
        let prefix = prefix.as_str();
        let path = if prefix.is_empty() { "x" } else { prefix };
        Reference::new(host, path, None, None).map_err(|_| invalid())?;
        Ok(Self {
            url: format!("{scheme}{host}{api}"),
            prefix: prefix.to_owned(),
        })
    }
}

impl fmt::Display for RegistryAt {
    /// `host[:port][/prefix]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.host())?;
        match self.prefix.as_str() {
            "" => Ok(()),
            prefix => write!(f, "/{prefix}"),
        }
    }
}

impl Serialize for RegistryAt {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let slash = if self.prefix.is_empty() { "" } else { "/" };
        serializer.serialize_str(&format!("{}{slash}{}", self.url, self.prefix))
    }
}

impl<'de> Deserialize<'de> for RegistryAt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries() {
        let check = |text: &str, expect: Option<(&str, &str, &str)>| {
            let got: Option<RegistryAt> = text.parse().ok();
            let parts = got.as_ref().map(|at| (at.url(), at.host(), at.prefix()));
            assert_eq!(parts, expect, "{text}");
        };
        check(
            "eu.example:5000",
            Some(("eu.example:5000", "eu.example:5000", "")),
        );
        check("http://h:1/a/b/", Some(("http://h:1", "h:1", "a/b")));
        check(
            "https://h.example/a",
            Some(("https://h.example", "h.example", "a")),
        );
        check(
            "http://h:1/r/v2/a/b",
            Some(("http://h:1/r/v2", "h:1", "a/b")),
        );
        check("https://h/v2", Some(("https://h/v2", "h", "")));
        check("h/v2/a", Some(("h", "h", "v2/a")));
        for bad in ["", "ftp://h", "h:1/A", "h:x", "h:1//a"] {
            check(bad, None);
        }
        let text: RegistryAt = serde_json::from_str("\"h:1/a\"").unwrap();
        assert_eq!(serde_json::to_string(&text).unwrap(), "\"h:1/a\"");
    }
}
