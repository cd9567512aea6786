//! What a manifest says that a registry must know: its type, what it names, what it refers to.

use std::collections::BTreeMap;

use chalk_core::AnyDigest;
use serde::Deserialize;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// A manifest that was understood and can be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) media_type: String,
    /// Blobs that must be in the repository.
    pub(super) blobs: Vec<AnyDigest>,
    /// Size of each of them, as the manifest says.
    pub(super) sizes: Vec<u64>,
    /// Manifests that must be in the repository.
    pub(super) manifests: Vec<AnyDigest>,
    /// Manifest that this one refers to.
    pub(super) subject: Option<AnyDigest>,
    /// What kind of artifact it is, to a reader of its subject's referrers.
    pub(super) artifact_type: Option<String>,
    pub(super) annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: Option<u64>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: AnyDigest,
    size: u64,
}

/// Reads a manifest that came as `content_type` (empty: it did not say).
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(content_type: &str, bytes: &[u8]) -> Result<Content, String> {
    let document: Document =
        serde_json::from_slice(bytes).map_err(|e| format!("is not a manifest in JSON: {e}"))?;
    let sent = content_type.split(';').next().unwrap_or_default().trim();
    let said = document.media_type.as_deref().unwrap_or_default();
    let media_type = match (sent, said) {
        ("", "") => match (&document.manifests, &document.config) {
            (Some(_), None) => OCI_INDEX,
            (None, Some(_)) => OCI_MANIFEST,
            _ => return Err("names no media type".to_owned()),
        },
        ("", one) | (one, "") => one,
        // Two readers of one document must not see two things in it.
        (sent, said) if sent == said => sent,
        (sent, said) => {
            return Err(format!("came as `{sent}`, but calls itself `{said}`"));
        }
    };
    if document.schema_version != Some(2) {
        return Err("needs `schemaVersion` 2".to_owned());
    }
    let mut sizes = Vec::new();
    let (blobs, manifests) = match (media_type, document.config.as_ref()) {
        (OCI_INDEX | DOCKER_LIST, None) if document.layers.is_none() => {
            let list = document.manifests.unwrap_or_default();
            (Vec::new(), list.into_iter().map(|d| d.digest).collect())
        }
        (OCI_INDEX | DOCKER_LIST, _) => {
            return Err("is an index with `config` or `layers`".to_owned());
        }
        (OCI_MANIFEST | DOCKER_MANIFEST, _) if document.manifests.is_some() => {
            return Err("is an image with `manifests`".to_owned());
        }
        (OCI_MANIFEST | DOCKER_MANIFEST, Some(config)) => {
            let Some(layers) = &document.layers else {
                return Err("has no `layers`".to_owned());
            };
            let kept = layers.iter().filter(|layer| !elsewhere(&layer.media_type));
            let all: Vec<&Descriptor> = std::iter::once(config).chain(kept).collect();
            sizes = all.iter().map(|d| d.size).collect();
            (all.iter().map(|d| d.digest.clone()).collect(), Vec::new())
        }
        (OCI_MANIFEST | DOCKER_MANIFEST, None) => {
            return Err("has no `config`".to_owned());
        }
        (other, _) => {
            return Err(format!("media type `{other}` is not supported"));
        }
    };
    // The config's type stands in for a missing artifact type (image-spec manifest.md,
    // "Guidelines for Artifact Usage"); an index has neither.
    let artifact_type = document
        .artifact_type
        .filter(|kind| !kind.is_empty())
        .or_else(|| document.config.map(|config| config.media_type));
    Ok(Content {
        media_type: media_type.to_owned(),
        blobs,
        sizes,
        manifests,
        subject: document.subject.map(|subject| subject.digest),
        artifact_type,
        annotations: document.annotations.unwrap_or_default(),
    })
}

/// Whether a layer may lie elsewhere (image-spec layer.md, "Non-Distributable Layers", and
/// Docker's foreign layers).
fn elsewhere(media_type: &str) -> bool {
    media_type.contains("nondistributable") || media_type.contains("rootfs.foreign")
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn reads_and_refuses() {
        let check = |kind: &str, json: &str, expect: Result<(usize, usize, Option<&str>), &str>| {
            let json = json.replace(
                "DESC",
                &format!(r#"{{"mediaType":"x/y","digest":"{D}","size":0}}"#),
            );
            match (read(kind, json.as_bytes()), expect) {
                (Ok(got), Ok((blobs, manifests, artifact))) => {
                    assert_eq!(
                        (got.blobs.len(), got.manifests.len()),
                        (blobs, manifests),
                        "{json}"
                    );
                    assert_eq!(got.artifact_type.as_deref(), artifact, "{json}");
                }
                (Err(got), Err(expect)) => assert!(got.contains(expect), "{got}"),
                (got, _) => panic!("{json}: {got:?}"),
            }
        };
        let image = r#"{"schemaVersion":2,"config":DESC,"layers":[DESC,DESC]}"#;
        check(OCI_MANIFEST, image, Ok((3, 0, Some("x/y"))));
        check("", image, Ok((3, 0, Some("x/y"))));
        check(
            &format!("{DOCKER_MANIFEST}; charset=utf-8"),
            image,
            Ok((3, 0, Some("x/y"))),
        );
        check(OCI_INDEX, image, Err("index with"));
        check("application/json", image, Err("not supported"));
        let index = r#"{"schemaVersion":2,"manifests":[DESC],"artifactType":"a/b"}"#;
        check(OCI_INDEX, index, Ok((0, 1, Some("a/b"))));
        check(OCI_MANIFEST, index, Err("image with"));
        check(
            OCI_INDEX,
            r#"{"schemaVersion":2,"manifests":[]}"#,
            Ok((0, 0, None)),
        );
        check(
            OCI_INDEX,
            r#"{"schemaVersion":1,"manifests":[]}"#,
            Err("schemaVersion"),
        );
        check(
            OCI_MANIFEST,
            r#"{"schemaVersion":2,"config":DESC}"#,
            Err("no `layers`"),
        );
        check(
            OCI_MANIFEST,
            r#"{"schemaVersion":2,"layers":[]}"#,
            Err("no `config`"),
        );
        let said = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[]}}"#);
        check(DOCKER_LIST, &said, Err("calls itself"));
        let bad = r#"{"schemaVersion":2,"config":{"mediaType":"x/y","digest":"sha256:1","size":0},"layers":[]}"#;
        check(OCI_MANIFEST, bad, Err("not a digest"));
        check(OCI_MANIFEST, "[1]", Err("JSON"));
        check(OCI_MANIFEST, "", Err("JSON"));
        let foreign = format!(
            r#"{{"schemaVersion":2,"config":DESC,"layers":[{{"mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip","digest":"{D}","size":1}}]}}"#
        );
        check(DOCKER_MANIFEST, &foreign, Ok((1, 0, Some("x/y"))));
    }
}
