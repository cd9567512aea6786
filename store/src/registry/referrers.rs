//! Manifests by the manifest that they refer to: by the referrers API, and for registries without
//! it by an index under a tag (spec.md, "Referrers Tag Schema").
//!
//! The specification knows no way to change that index without losing what another client adds at
//! the same time. Changes of one [`Client`] take turns here. Against other processes the index is
//! put under the condition that it is still the one that was read, which some registries heed, and
//! read again afterwards, until the change is found in it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chalk_core::{Digest, Reference};
use reqwest::header::{HeaderMap, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

use super::Client;
use super::error::RegistryError;
use super::listing::parse;
use super::manifest::Manifest;

pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// How often a change of an index is tried at most.
const ROUNDS: u32 = 10;
/// Bounds of the wait before an index is read again. Others who read it before us need about as long
/// to write theirs as we needed to read and write.
const SETTLE: (Duration, Duration) = (Duration::from_millis(30), Duration::from_secs(2));
/// Indexes that one client changes at once.
const TURNS: usize = 16;

/// Manifest that names another as its `subject`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Referrer {
    /// Type of the manifest.
    pub media_type: String,
    /// Digest of the manifest.
    pub digest: Digest,
    /// Size of the manifest in bytes.
    pub size: u64,
    /// Kind of artifact that the manifest is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Annotations of the manifest.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "or_none"
    )]
    pub annotations: BTreeMap<String, String>,
}

/// `null` as nothing.
fn or_none<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Turns of those who change indexes.
#[derive(Debug, Default)]
pub(super) struct Indexes([Mutex<()>; TURNS]);

impl Indexes {
    async fn turn(&self, subject: &Digest) -> MutexGuard<'_, ()> {
        let at = usize::from(subject.as_bytes()[0]) % TURNS;
        self.0[at].lock().await
    }
}

/// What is done to an index.
#[derive(Debug, Clone, Copy)]
enum Change<'a> {
    Add(&'a Value),
    Remove(&'a Digest),
}

impl Change<'_> {
    /// Whether the entry list is as it should be.
    fn is_done(&self, list: &[Value]) -> bool {
        let lists = |digest: &str| list.iter().any(|entry| entry["digest"] == digest);
        match self {
            Self::Add(entry) => lists(entry["digest"].as_str().unwrap_or_default()),
            Self::Remove(digest) => !lists(&digest.to_string()),
        }
    }

    /// Whether it adds one of those.
    fn adds_any(&self, digests: &BTreeSet<String>) -> bool {
        match self {
            Self::Add(entry) => digests.contains(entry["digest"].as_str().unwrap_or_default()),
            Self::Remove(_) => false,
        }
    }

    fn apply(&self, list: &mut Vec<Value>) {
        match self {
            Self::Add(entry) => list.push((*entry).clone()),
            Self::Remove(digest) => {
                let digest = digest.to_string();
                list.retain(|entry| entry["digest"] != digest.as_str());
            }
        }
    }
}

#[derive(Deserialize)]
struct Index {
    manifests: Option<Vec<Value>>,
}

impl Index {
    /// What it lists, less what is not of ours: anybody may attach things, by other algorithms or in
    /// forms of their own.
    fn referrers(self) -> impl Iterator<Item = Referrer> {
        let entries = self.manifests.unwrap_or_default().into_iter();
        entries.filter_map(|entry| match serde_json::from_value(entry) {
            Ok(referrer) => Some(referrer),
            Err(error) => {
                tracing::debug!(%error, "a referrer is passed over");
                None
            }
        })
    }
}

/// The parts of a manifest that a list of referrers tells of.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Referring {
    subject: Option<Named>,
    artifact_type: Option<String>,
    annotations: Option<Value>,
    config: Option<Named>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named {
    media_type: String,
    digest: Digest,
}

/// Tag under which registries without the referrers API keep the referrers of `subject`.
fn fallback_tag(of: &Reference, subject: &Digest) -> Result<Reference, RegistryError> {
    let tag = subject.to_string().replace(':', "-");
    Reference::new(of.registry(), of.repository(), Some(&tag), None).map_err(|e| {
        RegistryError::Protocol {
            host: of.registry().to_owned(),
            what: format!("referrers of {subject}"),
            detail: e.to_string(),
        }
    })
}

impl Client {
    /// Manifests that name `subject`, of one kind only if `artifact_type` is given; by the
    /// referrers API, else by the referrers tag.
    ///
    /// # Errors
    /// All of [`RegistryError`] but `NotFound` and `NoSuchPlatform`.
    pub async fn referrers(
        &self,
        repository: &Reference,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Referrer>, RegistryError> {
        let endpoint = self.origin(repository.registry()).await?;
        let name = repository.repository();
        let what = format!("referrers of {subject} in {name}");
        let mut url = endpoint.url(&format!("{name}/referrers/{subject}"))?;
        if let Some(kind) = artifact_type {
            url.query_pairs_mut().append_pair("artifactType", kind);
        }
        let answers = self.pages(&endpoint, url, name, &what).await?;
        let mut all: Vec<Referrer> = Vec::new();
        if answers.is_empty() {
            let at = fallback_tag(repository, subject)?;
            if let Some(found) = self.manifest(&at).await? {
                let index: Index =
                    serde_json::from_slice(&found.bytes).map_err(|e| RegistryError::Protocol {
                        host: endpoint.host(),
                        what,
                        detail: format!("the referrers tag holds no valid index: {e}"),
                    })?;
                all.extend(index.referrers());
            }
        } else {
            for answer in answers {
                all.extend(parse::<Index>(&endpoint, &answer, &what)?.referrers());
            }
        }
        // Filtering is optional for a registry (spec.md, "Listing Referrers"), so do it here too.
        all.retain(|one| artifact_type.is_none() || one.artifact_type.as_deref() == artifact_type);
        Ok(all)
    }

    /// Adds a manifest with a `subject` to the index under the referrers tag, for registries that
    /// do not know the subject by themselves.
    pub(super) async fn file_referrer(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: &Bytes,
    ) -> Result<(), RegistryError> {
        let Ok(referring) = serde_json::from_slice::<Referring>(bytes) else {
            return Ok(());
        };
        let Some(subject) = referring.subject else {
            return Ok(());
        };
        let mut entry = json!({
            "mediaType": media_type,
            "digest": Digest::of(bytes),
            "size": bytes.len(),
        });
        let kind = referring.artifact_type.filter(|kind| !kind.is_empty());
        if let Some(kind) = kind.or(referring.config.map(|config| config.media_type)) {
            entry["artifactType"] = kind.into();
        }
        if let Some(annotations) = referring.annotations {
            entry["annotations"] = annotations;
        }
        let change = Change::Add(&entry);
        self.change_index(reference, &subject.digest, change).await
    }

    /// Takes a manifest that is to be deleted out of the index of its subject, and gives it if it has
    /// a subject; nothing where the registry does not have it.
    pub(super) async fn unfile_referrer(
        &self,
        reference: &Reference,
        digest: &Digest,
    ) -> Result<Option<Manifest>, RegistryError> {
        let found = match self.manifest(reference).await {
            Ok(found) => found,
            // What rotted can be deleted, too. An entry that stays is dropped by the next change.
            Err(RegistryError::DigestMismatch { .. }) => None,
            Err(error) => return Err(error),
        };
        let Some(found) = found else {
            return Ok(None);
        };
        let referring = serde_json::from_slice::<Referring>(&found.bytes).ok();
        let Some(subject) = referring.and_then(|referring| referring.subject) else {
            return Ok(None);
        };
        let change = Change::Remove(digest);
        self.change_index(reference, &subject.digest, change)
            .await?;
        Ok(Some(found))
    }

    /// Removes the index of what referred to a manifest that was deleted.
    pub(super) async fn remove_own_index(
        &self,
        reference: &Reference,
        deleted: &Digest,
    ) -> Result<(), RegistryError> {
        let _turn = self.inner.indexes.turn(deleted).await;
        let own = fallback_tag(reference, deleted)?;
        match self.head_manifest(&own).await? {
            Some(head) => self.remove_index(&own, &head.digest).await,
            None => Ok(()),
        }
    }

    async fn change_index(
        &self,
        reference: &Reference,
        subject: &Digest,
        change: Change<'_>,
    ) -> Result<(), RegistryError> {
        let _turn = self.inner.indexes.turn(subject).await;
        let at = fallback_tag(reference, subject)?;
        let mut lost = BTreeSet::new();
        for _ in 0..ROUNDS {
            let began = Instant::now();
            let found = self.manifest(&at).await?;
            let read = found.as_ref().map(|found| found.digest);
            let mut index = found
                .and_then(|found| serde_json::from_slice(&found.bytes).ok())
                .filter(|index: &Value| index["manifests"].is_array())
                .unwrap_or_else(empty_index);
            let Some(list) = index["manifests"].as_array_mut() else {
                return Ok(());
            };
            if change.is_done(list) {
                return Ok(());
            }
            change.apply(list);
            list.retain(|entry| !lost.contains(entry["digest"].as_str().unwrap_or_default()));
            match (list.is_empty(), read) {
                (true, Some(read)) => self.remove_index(&at, &read).await?,
                _ => {
                    let text = index.to_string().into();
                    match self.put_one(&at, INDEX, text, condition(read)).await {
                        // Somebody was faster.
                        Err(error) if is_precondition(&error) => {}
                        // Registries take no index that lists what is gone, by whomever.
                        Err(error) if is_refusal(&error) => {
                            let gone = self.lost(reference, &index).await?;
                            if gone.is_empty() || change.adds_any(&gone) {
                                return Err(error);
                            }
                            lost.extend(gone);
                            continue;
                        }
                        put => {
                            put?;
                        }
                    }
                }
            }
            let settle = began.elapsed().clamp(SETTLE.0, SETTLE.1);
            tokio::time::sleep(rand::random_range(settle..=settle * 2)).await;
        }
        Err(RegistryError::Protocol {
            host: at.registry().to_owned(),
            what: format!("referrers of {subject} in {}", at.repository()),
            detail: format!(
                "others changed the index under its referrers tag at the same time, {ROUNDS} times; try again"
            ),
        })
    }

    /// Digests that an index lists and the repository does not have.
    async fn lost(
        &self,
        repository: &Reference,
        index: &Value,
    ) -> Result<BTreeSet<String>, RegistryError> {
        let mut lost = BTreeSet::new();
        for entry in index["manifests"].as_array().into_iter().flatten() {
            let text = entry["digest"].as_str().unwrap_or_default();
            let there = match text.parse() {
                Ok(digest) => self.head_manifest(&repository.with_digest(digest)).await?,
                Err(_) => None,
            };
            if there.is_none() {
                lost.insert(text.to_owned());
            }
        }
        Ok(lost)
    }

    /// Removes the tag of an index.
    async fn remove_index(&self, at: &Reference, index: &Digest) -> Result<(), RegistryError> {
        match self.delete_one(at).await {
            // Older registries delete by digest alone. What lists the same referrers goes with it,
            // and that is an index of the same subject, or an empty one.
            Err(RegistryError::Protocol { .. }) => {
                let digest = Reference::new(at.registry(), at.repository(), None, Some(*index));
                match digest {
                    Ok(digest) => self.delete_one(&digest).await.map(drop),
                    Err(_) => Ok(()),
                }
            }
            deleted => deleted.map(drop),
        }
    }
}

/// That the index is still the one that was read, or still is not there (RFC 9110, section 13).
fn condition(read: Option<Digest>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    match read {
        Some(digest) => {
            let tag = HeaderValue::from_str(&format!("\"{digest}\""));
            headers.extend(tag.ok().map(|tag| (IF_MATCH, tag)));
        }
        None => {
            headers.insert(IF_NONE_MATCH, HeaderValue::from_static("*"));
        }
    }
    headers
}

fn is_precondition(error: &RegistryError) -> bool {
    matches!(error, RegistryError::Protocol { detail, .. } if detail.starts_with("answered 412"))
}

fn is_refusal(error: &RegistryError) -> bool {
    match error {
        RegistryError::Protocol { detail, .. } => detail.starts_with("answered 4"),
        RegistryError::NotFound { .. } => true,
        _ => false,
    }
}

fn empty_index() -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [],
    })
}
