//! Image references, normalised as Docker and containerd do.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Digest;

/// Reference to an image in a registry, in normal form: `python:3.12` is
/// `docker.io/library/python:3.12`; without tag and digest the tag is `latest`.
///
/// Grammar: `[host[:port]/]path[:tag][@sha256:hex]`, per the OCI distribution specification's
/// "Pulling manifests" (`path` is lower-case words joined by `.`, `_`, `__`, `-` and `/`; a tag has
/// at most 128 characters).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// A text that is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an image reference: {reason}")]
pub struct InvalidReference {
    /// What was given.
    pub text: String,
    /// What is wrong with it and what was expected.
    pub reason: &'static str,
}

impl Reference {
    /// Puts a reference together from parts that are already normal.
    ///
    /// # Errors
    /// When a part does not match the grammar.
    pub fn new(
        registry: &str,
        repository: &str,
        tag: Option<&str>,
        digest: Option<Digest>,
    ) -> Result<Self, InvalidReference> {
        let mut text = format!("{registry}/{repository}");
        if let Some(tag) = tag {
            text = format!("{text}:{tag}");
        }
        if let Some(digest) = digest {
            text = format!("{text}@{digest}");
        }
        text.parse()
    }

    /// Host and port of the registry as written: `docker.io`, `127.0.0.1:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Path of the repository within its registry: `library/python`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, if one was written or implied.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one was written.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The same reference pinned to `digest`; the tag is kept for the reader.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// The same reference without its digest (`latest` when it had no tag).
    #[must_use]
    pub fn without_digest(&self) -> Self {
        let tag = self.tag.clone().or_else(|| Some("latest".to_owned()));
        Self {
            tag,
            digest: None,
            ..self.clone()
        }
    }

    /// What stands behind `/manifests/` in a request: the digest if there is one, else the tag.
    pub fn manifest_name(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let err = |reason| InvalidReference {
            text: text.to_owned(),
            reason,
        };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest = digest
                    .parse()
                    .map_err(|_| err("its digest is not `sha256:` and 64 lower-case hex digits"))?;
                (rest, Some(digest))
            }
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(err("a tag has 1 to 128 letters, digits, `_`, `.` and `-`"));
        }
        let (registry, path) = match name.split_once('/') {
            Some((host, path))
                if host.contains(['.', ':'])
                    || host == "localhost"
                    || host != host.to_ascii_lowercase() =>
            {
                (host, path)
            }
            _ => ("docker.io", name),
        };
        let registry = if registry == "index.docker.io" {
            "docker.io"
        } else {
            registry
        };
        let repository = if registry == "docker.io" && !path.contains('/') {
            format!("library/{path}")
        } else {
            path.to_owned()
        };
        if !is_host(registry) {
            return Err(err("the registry is not a host name with an optional port"));
        }
        if path.is_empty() || repository.len() > 255 || !repository.split('/').all(is_component) {
            return Err(err(
                "a repository is lower-case words of letters and digits joined by `.`, `_`, `-` and `/`",
            ));
        }
        let tag = match (tag, digest) {
            (None, None) => Some("latest".to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(Self {
            registry: registry.to_owned(),
            repository,
            tag,
            digest,
        })
    }
}

/// Whether `text` may stand as a tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
pub fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=128).contains(&text.len())
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

/// Whether `text` may stand as a repository name of the OCI distribution specification.
pub fn is_repository(text: &str) -> bool {
    text.len() <= 255 && text.split('/').all(is_component)
}

fn is_component(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !alphanumeric(first) || !alphanumeric(last) {
        return false;
    }
    // Between words stands one `.`, one or two `_`, or any number of `-`.
    bytes.split(|&b| alphanumeric(b)).all(|separator| {
        matches!(separator, [] | b"." | b"_" | b"__") || separator.iter().all(|&b| b == b'-')
    })
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let port_sound = port.is_none_or(|p| p.parse::<u16>().is_ok());
    let name = |h: &str| {
        h.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
    };
    let v6 = |h: &str| {
        h.strip_prefix('[')
            .and_then(|h| h.strip_suffix(']'))
            .is_some_and(|h| h.parse::<std::net::Ipv6Addr>().is_ok())
    };
    port_sound && (name(host) || v6(host))
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalises_and_refuses() {
        let d = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let check = |text: &str, expect: Option<&str>| {
            let got = text.parse::<Reference>().ok().map(|r| r.to_string());
            assert_eq!(got.as_deref(), expect, "{text}");
        };
        check("python", Some("docker.io/library/python:latest"));
        check(
            "python:3.12-slim",
            Some("docker.io/library/python:3.12-slim"),
        );
        check("docker.io/python", Some("docker.io/library/python:latest"));
        check("index.docker.io/a/b", Some("docker.io/a/b:latest"));
        check("user/app", Some("docker.io/user/app:latest"));
        check("ghcr.io/org/image:tag", Some("ghcr.io/org/image:tag"));
        check("localhost/app", Some("localhost/app:latest"));
        check("127.0.0.1:5000/a/b:c", Some("127.0.0.1:5000/a/b:c"));
        check("[::1]:5000/a", Some("[::1]:5000/a:latest"));
        check(
            &format!("python@{d}"),
            Some(&format!("docker.io/library/python@{d}")),
        );
        check(
            &format!("python:3@{d}"),
            Some(&format!("docker.io/library/python:3@{d}")),
        );
        check("a__b/c--d:x", Some("docker.io/a__b/c--d:x"));
        for bad in [
            "",
            "Python",
            "a//b",
            "a/",
            "/a",
            "a:",
            "a:b:c",
            "a___b",
            "-a",
            "a@sha256:1",
            "a b",
            "a\n",
            "ghcr.io/",
            "h:99999/a",
            "../a",
        ] {
            check(bad, None);
        }
    }
}
