//! Tags and manifests go.
//!
//! Older registries delete by digest alone, which takes every tag of it along. There a tag is first
//! moved to an index that no other tag has. Since some registries delete nothing at all
//! (`docker-registry` does not unless it is told to), that is tried on such an index without a tag
//! first: a registry that refuses that keeps the tag as it is.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chalk_core::{Digest, Reference};
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::Client;
use super::auth::Scopes;
use super::error::RegistryError;
use super::manifest::Manifest;
use super::referrers::INDEX;
use super::transport::{ANSWER_LIMIT, Answer, Attempt};

/// Annotation of an index that stands under a tag which is being removed.
const NOTE: &str = "chalk.removed";
/// How long a registry that refused a delete is not asked for another: each question leaves it an
/// index that it cannot lose.
const REFUSED: Duration = Duration::from_secs(3600);

/// What is known of deletes by digest, by repository.
#[derive(Debug, Default)]
pub(super) struct Deletes(Mutex<BTreeMap<String, Known>>);

#[derive(Debug, Clone, Copy)]
enum Known {
    Done,
    Refused(Instant),
}

impl Deletes {
    fn note(&self, repository: &Reference, known: Known) {
        // A poisoned lock guards a map that is sound all the same.
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(key(repository), known);
    }

    /// Whether deletes by digest were done or refused, if that is known.
    fn known(&self, repository: &Reference) -> Option<bool> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match all.get(&key(repository))? {
            Known::Done => Some(true),
            Known::Refused(when) => (when.elapsed() < REFUSED).then_some(false),
        }
    }
}

fn key(repository: &Reference) -> String {
    format!("{}/{}", repository.registry(), repository.repository())
}

/// Whether a manifest is only there in the place of one whose tag is being removed: who finds it under
/// a tag takes the tag for absent.
pub fn is_removed(manifest: &Manifest) -> bool {
    #[derive(Deserialize)]
    struct Noted {
        annotations: Option<BTreeMap<String, String>>,
    }
    manifest.media_type == INDEX
        && serde_json::from_slice::<Noted>(&manifest.bytes).is_ok_and(|noted| {
            noted
                .annotations
                .is_some_and(|notes| notes.contains_key(NOTE))
        })
}

/// An index of nothing that is no other's.
fn nothing() -> Bytes {
    let nothing = json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [],
        "annotations": { NOTE: format!("{:032x}", rand::random::<u128>()) },
    });
    nothing.to_string().into()
}

impl Client {
    /// Deletes the manifest behind a digest, or a tag; `false` when there was none. A manifest that
    /// goes leaves the index of its subject's referrers first, since registries take no index that
    /// lists what is gone, and its own index goes with it (spec.md, "Deleting Manifests"; both only
    /// where the registry lacks the referrers API).
    ///
    /// # Errors
    /// All of [`RegistryError`] but `NotFound` and `NoSuchPlatform`; `NoDeletes` when the registry
    /// does not allow deletion.
    pub async fn delete_manifest(&self, reference: &Reference) -> Result<bool, RegistryError> {
        let Some(digest) = reference.digest() else {
            return self.delete_tag(reference).await;
        };
        if self.inner.deletes.known(reference) == Some(false) {
            return Err(no_deletes(reference));
        }
        let filed = self.unfile_referrer(reference, &digest).await?;
        let deleted = match self.delete_one(reference).await {
            Ok(deleted) => deleted,
            Err(error) => {
                // It stays, and so must be found.
                if let Some(found) = filed {
                    let (kind, bytes) = (&found.media_type, &found.bytes);
                    self.file_referrer(reference, kind, bytes).await?;
                }
                return Err(error);
            }
        };
        self.remove_own_index(reference, &digest).await?;
        Ok(deleted)
    }

    /// Deletes a tag and nothing else.
    async fn delete_tag(&self, reference: &Reference) -> Result<bool, RegistryError> {
        match self.delete_one(reference).await {
            // A registry that deletes by digest alone says so in one of these ways.
            Err(RegistryError::Protocol { detail, .. })
                if ["400", "405", "501"].contains(&status_of(&detail)) => {}
            deleted => return deleted,
        }
        let endpoint = self.origin(reference.registry()).await?;
        let old = match self.manifest_at(&endpoint, reference).await {
            Ok(Some(old)) => Some(old),
            Ok(None) => return Ok(false),
            // What rotted can be deleted, too, and is not worth to be put back.
            Err(RegistryError::DigestMismatch { .. }) => None,
            Err(error) => return Err(error),
        };
        if let Some(left) = old.as_ref().filter(|old| is_removed(old)) {
            // Somebody broke off here before.
            return self.delete_one(&reference.with_digest(left.digest)).await;
        }
        self.try_delete(reference).await?;
        let moved = self
            .put_one(reference, INDEX, nothing(), HeaderMap::new())
            .await?
            .digest;
        let deleted = self.delete_one(&reference.with_digest(moved)).await;
        if let (Err(_), Some(old)) = (&deleted, &old) {
            self.put_back(reference, old, &moved).await;
        }
        // The tag itself was there.
        deleted.map(|_| true)
    }

    /// Sees that a repository deletes by digest, before anything depends on it.
    async fn try_delete(&self, repository: &Reference) -> Result<(), RegistryError> {
        match self.inner.deletes.known(repository) {
            Some(true) => return Ok(()),
            Some(false) => return Err(no_deletes(repository)),
            None => {}
        }
        let bytes = nothing();
        let at = repository.with_digest(Digest::of(&bytes));
        self.put_one(&at, INDEX, bytes, HeaderMap::new()).await?;
        match self.delete_one(&at).await {
            Ok(_) => Ok(()),
            Err(RegistryError::NoDeletes { .. }) => Err(no_deletes(repository)),
            Err(error) => Err(error),
        }
    }

    /// Puts a manifest under its tag again, unless somebody else moved that meanwhile.
    async fn put_back(&self, reference: &Reference, old: &Manifest, moved: &Digest) {
        let put = async {
            let head = self.head_manifest(reference).await?;
            if head.is_some_and(|head| head.digest != *moved) {
                return Ok(());
            }
            let (kind, bytes) = (&old.media_type, old.bytes.clone());
            let put = self.put_one(reference, kind, bytes, HeaderMap::new());
            put.await.map(drop)
        };
        if let Err(error) = put.await {
            let digest = old.digest;
            tracing::error!(%reference, %digest, %error, "the tag lost its manifest, which can be put back by hand");
        }
    }

    /// Deletes what is under a digest or tag and nothing else.
    pub(super) async fn delete_one(&self, reference: &Reference) -> Result<bool, RegistryError> {
        let endpoint = self.origin(reference.registry()).await?;
        let (repository, name) = (reference.repository(), reference.manifest_name());
        let url = endpoint.url(&format!("{repository}/manifests/{name}"))?;
        let what = format!("deletion of {reference}");
        let scopes = Scopes::delete(repository);
        let attempt = Attempt::new(Method::DELETE, url);
        let answer = self
            .fetch(&endpoint, &scopes, attempt, ANSWER_LIMIT, &what)
            .await?;
        let by_digest = reference.digest().is_some();
        let deletes = &self.inner.deletes;
        match answer.status {
            status if status.is_success() => {
                if by_digest {
                    deletes.note(reference, Known::Done);
                }
                Ok(true)
            }
            StatusCode::NOT_FOUND => Ok(false),
            _ if by_digest && is_unsupported(&answer) => {
                deletes.note(reference, Known::Refused(Instant::now()));
                Err(no_deletes(reference))
            }
            _ => Err(self.refused(&endpoint, &answer, &what).await),
        }
    }
}

fn no_deletes(reference: &Reference) -> RegistryError {
    RegistryError::NoDeletes {
        registry: reference.registry().to_owned(),
        what: reference.to_string(),
    }
}

/// Whether a registry says that it does not do such things at all (spec.md, "Error Codes").
fn is_unsupported(answer: &Answer) -> bool {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<Problem>,
    }
    #[derive(Deserialize)]
    struct Problem {
        code: String,
    }
    answer.status == StatusCode::METHOD_NOT_ALLOWED
        || answer.status.is_client_error()
            && serde_json::from_slice::<Errors>(&answer.body)
                .is_ok_and(|body| body.errors.iter().any(|one| one.code == "UNSUPPORTED"))
}

/// The number in what [`RegistryError::Protocol`] says of an answer.
fn status_of(detail: &str) -> &str {
    let answered = detail.strip_prefix("answered ").unwrap_or_default();
    answered.split(' ').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_stands_for_a_removed_tag() {
        let check = |media_type: &str, bytes: Bytes, expect: bool| {
            let manifest = Manifest {
                digest: Digest::of(&bytes),
                media_type: media_type.to_owned(),
                bytes,
            };
            assert_eq!(is_removed(&manifest), expect, "{manifest:?}");
        };
        check(INDEX, nothing(), true);
        assert_ne!(nothing(), nothing());
        let other = "application/vnd.oci.image.manifest.v1+json";
        check(other, nothing(), false);
        let index = |notes: &str| Bytes::from(format!(r#"{{"manifests":[]{notes}}}"#));
        check(INDEX, index(""), false);
        check(INDEX, index(r#","annotations":null"#), false);
        check(INDEX, index(r#","annotations":{"a":"b"}"#), false);
    }
}
