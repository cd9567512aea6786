//! Manifests by the subject that they refer to (spec.md, "Listing Referrers").

use std::collections::BTreeMap;

use chalk_core::AnyDigest;
use serde::{Deserialize, Serialize};

use super::content::Content;
use super::error::EmbeddedError;
use super::layout::Layout;

type Result<T> = std::result::Result<T, EmbeddedError>;

/// What a list of referrers says of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub(super) media_type: String,
    pub(super) digest: AnyDigest,
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<String, String>,
}

/// Which referrers are wanted, and how many.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// Of one kind only.
    pub(super) artifact_type: Option<&'a str>,
    /// Only those behind this one.
    pub(super) after: Option<&'a AnyDigest>,
    /// Most of them.
    pub(super) count: usize,
    /// Most bytes of their descriptors; one comes in any case.
    pub(super) bytes: u64,
}

impl Wanted<'_> {
    /// All, or all of one kind.
    pub(super) const fn all(artifact_type: Option<&str>) -> Wanted<'_> {
        Wanted {
            artifact_type,
            after: None,
            count: usize::MAX,
            bytes: u64::MAX,
        }
    }
}

/// Files a manifest under its subject, if it has one.
pub(super) fn add(
    layout: &Layout,
    repository: &str,
    digest: &AnyDigest,
    size: u64,
    content: &Content,
) -> Result<()> {
    let Some(subject) = &content.subject else {
        return Ok(());
    };
    let descriptor = Descriptor {
        media_type: content.media_type.clone(),
        digest: digest.clone(),
        size,
        artifact_type: content.artifact_type.clone(),
        annotations: content.annotations.clone(),
    };
    let path = layout.referrers(repository, subject)?.join(digest.hex());
    let text = serde_json::to_vec(&descriptor)
        .map_err(|e| EmbeddedError::ManifestInvalid(e.to_string()))?;
    layout.write(&path, &text)
}

/// Takes a manifest from under its subject.
pub(super) fn remove(
    layout: &Layout,
    repository: &str,
    digest: &AnyDigest,
    subject: &AnyDigest,
) -> Result<()> {
    let dir = layout.referrers(repository, subject)?;
    layout.remove(&dir.join(digest.hex())).map(|_| ())
}

/// The wanted referrers of `subject`, sorted by the hex digits of their digest, and whether there
/// are more behind them.
pub(super) fn list(
    layout: &Layout,
    repository: &str,
    subject: &AnyDigest,
    wanted: Wanted<'_>,
) -> Result<(Vec<Descriptor>, bool)> {
    let dir = layout.referrers(repository, subject)?;
    let after = wanted.after.map(AnyDigest::hex).unwrap_or_default();
    let names = layout.names(&dir)?;
    let behind = &names[names.partition_point(|name| *name <= after)..];
    let (mut found, mut bytes) = (Vec::new(), 0);
    for name in behind {
        let Some(digest) = AnyDigest::from_hex(name) else {
            continue;
        };
        // Written before the manifest, it may be there without it after a crash.
        if !layout.has(&layout.manifest(repository, &digest)?)? {
            continue;
        }
        let Some(text) = layout.read(&dir.join(name))? else {
            continue;
        };
        let Ok(descriptor) = serde_json::from_slice::<Descriptor>(&text) else {
            continue;
        };
        let kind = descriptor.artifact_type.as_deref();
        if wanted.artifact_type.is_some() && wanted.artifact_type != kind {
            continue;
        }
        bytes += text.len() as u64;
        if found.len() >= wanted.count || (bytes > wanted.bytes && !found.is_empty()) {
            return Ok((found, true));
        }
        found.push(descriptor);
    }
    Ok((found, false))
}

#[cfg(test)]
mod tests {
    use chalk_core::any_digest::Algorithm;

    use super::*;

    #[test]
    fn pages_are_bounded_by_count_and_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(dir.path(), None).unwrap();
        let subject = AnyDigest::of(Algorithm::Sha512, b"subject");
        let mut digests = Vec::new();
        for number in 0..6_u8 {
            let algorithm = Algorithm::ALL[usize::from(number % 2)];
            let digest = AnyDigest::of(algorithm, &[number]);
            let kind = if number < 4 { "a/b" } else { "c/d" };
            let content = Content {
                media_type: "x/y".to_owned(),
                blobs: Vec::new(),
                sizes: Vec::new(),
                manifests: Vec::new(),
                subject: Some(subject.clone()),
                artifact_type: Some(kind.to_owned()),
                annotations: BTreeMap::from([("pad".to_owned(), "x".repeat(100))]),
            };
            add(&layout, "app", &digest, 7, &content).unwrap();
            if number > 0 {
                let link = layout.manifest("app", &digest).unwrap();
                layout.write(&link, b"x/y").unwrap();
                digests.push(digest);
            }
        }
        digests.sort_by_key(AnyDigest::hex);
        let walk = |artifact_type: Option<&str>, count: usize, bytes: u64| {
            let (mut pages, mut all, mut more) = (0, Vec::<AnyDigest>::new(), true);
            while more {
                let wanted = Wanted {
                    artifact_type,
                    after: all.last(),
                    count,
                    bytes,
                };
                let (page, further) = list(&layout, "app", &subject, wanted).unwrap();
                all.extend(page.into_iter().map(|one| one.digest));
                (pages, more) = (pages + 1, further);
            }
            (pages, all)
        };
        assert_eq!(walk(None, 100, 1 << 20), (1, digests.clone()));
        assert_eq!(walk(None, 2, 1 << 20), (3, digests.clone()));
        assert_eq!(walk(None, 100, 1), (5, digests.clone()), "one at least");
        let (pages, some) = walk(Some("a/b"), 1, 1 << 20);
        assert_eq!((pages, some.len()), (3, 3), "one has no manifest");
        assert_eq!(walk(Some("none"), 1, 1), (1, Vec::new()));

        remove(&layout, "app", &digests[0], &subject).unwrap();
        assert_eq!(walk(None, 100, 1 << 20).1, digests[1..]);
    }
}
