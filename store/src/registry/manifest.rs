//! Manifests: fetched by tag or digest, checked, and resolved to the one for a platform.

use bytes::Bytes;
use chalk_core::{Digest, Platform, Reference};
use oci_spec::image::{ImageIndex, ImageManifest};
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode};
use serde::Deserialize;

use super::auth::Scopes;
use super::endpoint::Endpoint;
use super::error::RegistryError;
use super::platform::{choose, from_words, runs};
use super::transport::{Answer, Attempt};
use super::{Client, MANIFEST_LIMIT};

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.oci.artifact.manifest.v1+json;q=0.5, */*;q=0.1";

/// An index may list indexes, but not without end.
const MAX_NESTING: usize = 4;

/// A manifest or index as a registry gave it; its bytes have its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// SHA-256 of the bytes.
    pub digest: Digest,
    /// What it calls itself, or else what the registry called it.
    pub media_type: String,
    /// The manifest itself, at most [`MANIFEST_LIMIT`] bytes.
    pub bytes: Bytes,
}

/// What a registry says about a manifest without sending it. Not verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestHead {
    /// Its digest.
    pub digest: Digest,
    /// Its media type, empty when the registry names none.
    pub media_type: String,
    /// Its size in bytes, if the registry says.
    pub size: Option<u64>,
}

/// The image manifest that a reference means for one platform.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The manifest of the platform's image, never an index.
    pub manifest: Manifest,
    /// Digest of the index that it was chosen from, if there was one.
    pub index: Option<Digest>,
    /// The same, parsed.
    pub image: ImageManifest,
}

impl Manifest {
    /// Whether this is an index (or Docker's manifest list).
    pub fn is_index(&self) -> bool {
        matches!(self.media_type.as_str(), OCI_INDEX | DOCKER_LIST)
    }
}

impl Client {
    /// Fetches the manifest or index behind `reference`, from mirrors first; `None` when there is
    /// none.
    ///
    /// # Errors
    /// All of [`RegistryError`] but `NotFound` and `NoSuchPlatform`.
    pub async fn manifest(&self, reference: &Reference) -> Result<Option<Manifest>, RegistryError> {
        let mut notes = Vec::new();
        for endpoint in self.endpoints(reference.registry()).await? {
            match self.manifest_at(&endpoint, reference).await {
                Ok(Some(manifest)) => return Ok(Some(manifest)),
                Ok(None) if !endpoint.mirror => return Ok(None),
                Ok(None) => notes.push(format!("mirror {}: not there", endpoint.host())),
                Err(error) if !endpoint.mirror => return Err(error.with_notes(&notes)),
                Err(error) => notes.push(passed_over(&endpoint, &error)),
            }
        }
        Ok(None)
    }

    /// Digest, type and size of a manifest at the registry itself, without its bytes; `None` when
    /// there is none.
    ///
    /// # Errors
    /// As [`manifest`](Self::manifest).
    pub async fn head_manifest(
        &self,
        reference: &Reference,
    ) -> Result<Option<ManifestHead>, RegistryError> {
        let endpoint = self.origin(reference.registry()).await?;
        let answer = self
            .ask_manifest(&endpoint, reference, Method::HEAD)
            .await?;
        let Some(answer) = answer else {
            return Ok(None);
        };
        let text = |name| {
            answer
                .headers
                .get(name)
                .and_then(|v: &HeaderValue| v.to_str().ok())
        };
        let announced = announced_digest(&answer.headers).or(reference.digest());
        if let Some(digest) = announced {
            return Ok(Some(ManifestHead {
                digest,
                media_type: content_type(&answer.headers),
                size: text(CONTENT_LENGTH).and_then(|t| t.parse().ok()),
            }));
        }
        // The header is only a SHOULD (spec.md, "Pulling manifests").
        let manifest = self.manifest_at(&endpoint, reference).await?;
        Ok(manifest.map(|manifest| ManifestHead {
            digest: manifest.digest,
            size: Some(manifest.bytes.len() as u64),
            media_type: manifest.media_type,
        }))
    }

    /// Finds the image manifest that `reference` means for `platform`.
    ///
    /// # Errors
    /// All of [`RegistryError`]; [`RegistryError::NoSuchPlatform`] also when a single image is
    /// for another platform.
    pub async fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Resolved, RegistryError> {
        let mut at = reference.clone();
        let mut index = None;
        let mut chosen_by_platform = false;
        for _ in 0..MAX_NESTING {
            let manifest = self
                .manifest(&at)
                .await?
                .ok_or_else(|| RegistryError::NotFound {
                    what: format!("image {at}"),
                    registry: at.registry().to_owned(),
                    notes: String::new(),
                })?;
            let protocol = |detail: String| RegistryError::Protocol {
                host: at.registry().to_owned(),
                what: format!("manifest {at}"),
                detail,
            };
            if manifest.is_index() {
                let list: ImageIndex = serde_json::from_slice(&manifest.bytes)
                    .map_err(|e| protocol(format!("is not a valid index: {e}")))?;
                let entry =
                    choose(&list, platform).map_err(|available| RegistryError::NoSuchPlatform {
                        reference: reference.to_string(),
                        wanted: platform.clone(),
                        available,
                    })?;
                let digest = entry.digest().to_string().parse();
                let digest: Digest = digest.map_err(|e| protocol(format!("{e}")))?;
                chosen_by_platform = entry.platform().is_some();
                index.get_or_insert(manifest.digest);
                at = at.with_digest(digest);
                continue;
            }
            let image = parse_image(&manifest).map_err(protocol)?;
            if !chosen_by_platform {
                self.check_platform(reference, &at, platform, &image)
                    .await?;
            }
            return Ok(Resolved {
                manifest,
                index,
                image,
            });
        }
        Err(RegistryError::Protocol {
            host: reference.registry().to_owned(),
            what: format!("manifest {reference}"),
            detail: format!("indexes are nested more than {MAX_NESTING} deep"),
        })
    }

    /// A lone image names its platform in its config only.
    async fn check_platform(
        &self,
        reference: &Reference,
        at: &Reference,
        wanted: &Platform,
        image: &ImageManifest,
    ) -> Result<(), RegistryError> {
        #[derive(Deserialize)]
        struct Config {
            os: Option<String>,
            architecture: Option<String>,
            variant: Option<String>,
        }
        let digest = image.config().digest().to_string().parse::<Digest>();
        let digest = digest.map_err(|e| RegistryError::Protocol {
            host: at.registry().to_owned(),
            what: format!("manifest {at}"),
            detail: e.to_string(),
        })?;
        let bytes = self.small_blob(at, &digest).await?;
        let has = serde_json::from_slice(&bytes)
            .ok()
            .and_then(|config: Config| {
                let (os, architecture) = (config.os?, config.architecture?);
                from_words(&os, &architecture, config.variant.as_deref())
            });
        match has {
            Some(has) if runs(wanted, &has) => Ok(()),
            has => Err(RegistryError::NoSuchPlatform {
                reference: reference.to_string(),
                wanted: wanted.clone(),
                available: has.iter().map(ToString::to_string).collect(),
            }),
        }
    }

    /// The manifest or index behind `reference` at one server; `None` when there is none.
    pub(super) async fn manifest_at(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
    ) -> Result<Option<Manifest>, RegistryError> {
        let answer = self.ask_manifest(endpoint, reference, Method::GET).await?;
        let Some(answer) = answer else {
            return Ok(None);
        };
        let actual = Digest::of(&answer.body);
        let announced = announced_digest(&answer.headers);
        for expected in [reference.digest(), announced].into_iter().flatten() {
            if expected != actual {
                return Err(RegistryError::DigestMismatch {
                    host: endpoint.host(),
                    what: format!("manifest {reference}"),
                    expected,
                    actual,
                });
            }
        }
        let media_type = media_type(&answer.headers, &answer.body).map_err(|detail| {
            RegistryError::Protocol {
                host: endpoint.host(),
                what: format!("manifest {reference}"),
                detail,
            }
        })?;
        Ok(Some(Manifest {
            digest: actual,
            media_type,
            bytes: answer.body,
        }))
    }

    async fn ask_manifest(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        method: Method,
    ) -> Result<Option<Answer>, RegistryError> {
        let (repository, name) = (reference.repository(), reference.manifest_name());
        let url = endpoint.url(&format!("{repository}/manifests/{name}"))?;
        let mut attempt = Attempt::new(method, url);
        attempt
            .headers
            .insert(ACCEPT, HeaderValue::from_static(ACCEPTED));
        let scopes = Scopes::pull(repository);
        let what = format!("manifest {reference}");
        let answer = self
            .fetch(endpoint, &scopes, attempt, MANIFEST_LIMIT, &what)
            .await?;
        match answer.status {
            StatusCode::OK => Ok(Some(answer)),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(self.refused(endpoint, &answer, &what).await),
        }
    }
}

/// Note on a mirror that could not serve, for the error of the registry itself.
pub(super) fn passed_over(endpoint: &Endpoint, error: &RegistryError) -> String {
    tracing::debug!(mirror = endpoint.host(), %error, "mirror passed over");
    format!("mirror {}: {error}", endpoint.host())
}

/// Parses an image manifest of either family.
pub(super) fn parse_image(manifest: &Manifest) -> Result<ImageManifest, String> {
    match manifest.media_type.as_str() {
        OCI_MANIFEST | DOCKER_MANIFEST => {}
        other if other.starts_with("application/vnd.docker.distribution.manifest.v1") => {
            return Err(
                "is in Docker's schema 1, which no current tool writes: push it anew".into(),
            );
        }
        other => {
            return Err(format!(
                "has the type `{other}`, which is no container image"
            ));
        }
    }
    serde_json::from_slice(&manifest.bytes).map_err(|e| format!("is not a valid manifest: {e}"))
}

/// A `Docker-Content-Digest` that is SHA-256; others cannot be checked here and do not count.
pub(super) fn announced_digest(headers: &HeaderMap) -> Option<Digest> {
    headers
        .get("docker-content-digest")?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

fn content_type(headers: &HeaderMap) -> String {
    let value = headers
        .get(CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    value
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}

/// Type of a manifest: its own word first, since that is under the digest; the registry's next;
/// its shape last. A document that could be read as both image and index is refused, so that no
/// two readers of one digest see different images.
pub(super) fn media_type(headers: &HeaderMap, body: &[u8]) -> Result<String, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
        layers: Option<serde::de::IgnoredAny>,
        config: Option<serde::de::IgnoredAny>,
    }
    let shape: Shape =
        serde_json::from_slice(body).map_err(|e| format!("is not a JSON manifest: {e}"))?;
    let image = shape.layers.is_some() || shape.config.is_some();
    if image && shape.manifests.is_some() {
        return Err("has both `manifests` and `layers` or `config`".to_owned());
    }
    let sent = content_type(headers);
    let said = shape.media_type.filter(|said| !said.is_empty());
    let named = said.or_else(|| {
        let known = sent.starts_with("application/vnd.");
        known.then_some(sent)
    });
    match named {
        Some(named) => Ok(named),
        None if shape.manifests.is_some() => Ok(OCI_INDEX.to_owned()),
        None if image => Ok(OCI_MANIFEST.to_owned()),
        None => Err("names no media type, and its shape shows none".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_media_types() {
        let check = |header: &str, body: &str, expect: Result<&str, &str>| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_str(header).unwrap());
            match (media_type(&headers, body.as_bytes()), expect) {
                (Ok(got), Ok(expect)) => assert_eq!(got, expect, "{body}"),
                (Err(got), Err(expect)) => assert!(got.contains(expect), "{got}"),
                (got, _) => panic!("{header} {body}: {got:?}"),
            }
        };
        let index = format!(r#"{{"mediaType":"{OCI_INDEX}","manifests":[]}}"#);
        check(OCI_INDEX, &index, Ok(OCI_INDEX));
        check(OCI_MANIFEST, &index, Ok(OCI_INDEX));
        check("application/json", r#"{"manifests":[]}"#, Ok(OCI_INDEX));
        check(
            "text/plain",
            r#"{"config":{},"layers":[]}"#,
            Ok(OCI_MANIFEST),
        );
        let typed = format!("{DOCKER_MANIFEST}; charset=utf-8");
        check(&typed, r#"{"config":{},"layers":[]}"#, Ok(DOCKER_MANIFEST));
        check(OCI_INDEX, r#"{"manifests":[],"layers":[]}"#, Err("both"));
        check("text/html", "<html>", Err("not a JSON"));
        check("text/plain", "{}", Err("no media type"));
    }
}
