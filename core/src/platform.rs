//! The platform that an image is for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Operating system, architecture and variant, printed as `os/arch[/variant]` (`linux/arm64/v8`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Platform {
    /// `GOOS` word of the OCI image index: `linux`.
    pub os: String,
    /// `GOARCH` word: `amd64`, `arm64`.
    pub architecture: String,
    /// Variant of the architecture, such as `v8`.
    pub variant: Option<String>,
}

/// A text that is not a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a platform: expected `os/arch` or `os/arch/variant`, such as `linux/amd64`")]
pub struct InvalidPlatform(pub String);

impl Default for Platform {
    /// `linux/amd64` on every host: a hash must not depend on where it is computed.
    fn default() -> Self {
        Self {
            os: "linux".into(),
            architecture: "amd64".into(),
            variant: None,
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = InvalidPlatform;

    /// Parses `os/arch[/variant]`. `x86_64`, `aarch64` and `arm64/v8` become `amd64` and `arm64`,
    /// as containerd's platform rules say.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let words: Vec<&str> = text.split('/').collect();
        let sound = |word: &&str| {
            !word.is_empty()
                && word
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        };
        if !(2..=3).contains(&words.len()) || !words.iter().all(sound) {
            return Err(InvalidPlatform(text.to_owned()));
        }
        let architecture = match words[1] {
            "x86_64" | "x86-64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let variant = words
            .get(2)
            .filter(|v| (architecture, **v) != ("arm64", "v8"));
        Ok(Self {
            os: words[0].to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(|v| (*v).to_owned()),
        })
    }
}

impl Serialize for Platform {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Platform {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_normalises() {
        let check = |text: &str, expect: Option<&str>| {
            assert_eq!(
                text.parse::<Platform>()
                    .ok()
                    .map(|p| p.to_string())
                    .as_deref(),
                expect
            );
        };
        check("linux/amd64", Some("linux/amd64"));
        check("linux/x86_64", Some("linux/amd64"));
        check("linux/arm64/v8", Some("linux/arm64"));
        check("linux/arm/v7", Some("linux/arm/v7"));
        check("linux", None);
        check("linux/", None);
        check("Linux/amd64", None);
        check("linux/amd64/v1/x", None);
    }
}
