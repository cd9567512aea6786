//! Tags that go from registries that delete by digest alone, and tags that stay in those that delete
//! nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::response::Response;
use chalk_core::{Digest, Reference};
use chalk_service::registry::{External, Regional};
use chalk_store::registry::{RegistryError, is_removed};

use crate::fixture::{Fake, OCI_INDEX, OCI_MANIFEST, answer, client, digest, options};

/// What a registry holds that deletes no tags.
#[derive(Default)]
struct State {
    manifests: BTreeMap<Digest, Vec<u8>>,
    tags: BTreeMap<String, Digest>,
    /// How many manifests it deletes before it deletes nothing any more.
    deletes: usize,
}

type Shared = Arc<Mutex<State>>;

impl State {
    fn find(&self, name: &str) -> Option<(Digest, Vec<u8>)> {
        let digest = name.parse().ok().or_else(|| self.tags.get(name).copied())?;
        Some((digest, self.manifests.get(&digest)?.clone()))
    }

    fn put(&mut self, name: &str, body: &[u8]) -> Digest {
        let digest = digest(body);
        self.manifests.insert(digest, body.to_vec());
        if name.parse::<Digest>().is_err() {
            self.tags.insert(name.to_owned(), digest);
        }
        digest
    }

    fn answer(&mut self, method: &str, name: &str, body: &[u8]) -> Response {
        let unsupported = r#"{"errors":[{"code":"UNSUPPORTED","message":"no"}]}"#;
        match method {
            "PUT" => {
                self.put(name, body);
                answer(201, &[], "")
            }
            "DELETE" => match name.parse::<Digest>() {
                Ok(digest) if self.deletes > 0 => {
                    self.deletes -= 1;
                    self.tags.retain(|_, to| *to != digest);
                    let found = self.manifests.remove(&digest).is_some();
                    answer(if found { 202 } else { 404 }, &[], "")
                }
                _ => answer(405, &[], unsupported),
            },
            _ => match self.find(name) {
                Some((digest, bytes)) => {
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    let kind = [OCI_INDEX, OCI_MANIFEST];
                    let kind = kind.into_iter().find(|kind| text.contains(kind)).unwrap();
                    let digest = digest.to_string();
                    let headers = [("docker-content-digest", &*digest), ("content-type", kind)];
                    answer(200, &headers, bytes)
                }
                None => answer(404, &[], ""),
            },
        }
    }
}

async fn registry(deletes: usize) -> (Fake, Shared) {
    let state: Shared = Arc::default();
    state.lock().unwrap().deletes = deletes;
    let shared = state.clone();
    let fake = Fake::start(move |parts, body, _| {
        match parts.uri.path().strip_prefix("/v2/app/manifests/") {
            Some(name) => {
                let mut state = shared.lock().unwrap();
                state.answer(parts.method.as_str(), name, body)
            }
            None => answer(404, &[], ""),
        }
    })
    .await;
    (fake, state)
}

fn at(fake: &Fake) -> Reference {
    format!("{}/app:v1", fake.addr).parse().unwrap()
}

fn manifest() -> Vec<u8> {
    format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","layers":[]}}"#).into_bytes()
}

fn is_without_deletes(error: &RegistryError) -> bool {
    error
        .to_string()
        .contains("REGISTRY_STORAGE_DELETE_ENABLED")
        && matches!(error, RegistryError::NoDeletes { .. })
}

#[tokio::test]
async fn a_tag_goes_alone() {
    let (fake, state) = registry(usize::MAX).await;
    let kept = {
        let mut state = state.lock().unwrap();
        state.put("v1", &manifest());
        state.put("v2", &manifest())
    };
    let client = client();
    assert!(client.delete_manifest(&at(&fake)).await.unwrap());
    assert!(!client.delete_manifest(&at(&fake)).await.unwrap());
    let state = state.lock().unwrap();
    assert_eq!(state.tags, [("v2".to_owned(), kept)].into());
    let left: Vec<_> = state.manifests.keys().collect();
    assert_eq!(left, [&kept], "what stood for the tag is gone, too");
}

#[tokio::test]
async fn a_registry_without_deletes_keeps_its_tags_as_they_are() {
    let (fake, state) = registry(0).await;
    let kept = state.lock().unwrap().put("v1", &manifest());
    let client = client();
    for reference in [at(&fake), at(&fake), at(&fake).with_digest(kept)] {
        let error = client.delete_manifest(&reference).await.unwrap_err();
        assert!(is_without_deletes(&error), "{error:?}");
    }
    assert_eq!(state.lock().unwrap().find("v1"), Some((kept, manifest())));
    assert_eq!(
        fake.count("PUT /v2/app/manifests/v1"),
        0,
        "{:?}",
        fake.log()
    );
    // One question is enough: each leaves the registry an index that it cannot lose.
    assert_eq!(fake.count("PUT"), 1, "{:?}", fake.log());
}

#[tokio::test]
async fn a_tag_whose_removal_fails_gets_its_manifest_back() {
    let (fake, state) = registry(1).await;
    let kept = state.lock().unwrap().put("v1", &manifest());
    let error = client().delete_manifest(&at(&fake)).await.unwrap_err();
    assert!(is_without_deletes(&error), "{error:?}");
    assert_eq!(state.lock().unwrap().find("v1"), Some((kept, manifest())));
    assert_eq!(
        fake.count("PUT /v2/app/manifests/v1"),
        2,
        "{:?}",
        fake.log()
    );
}

#[tokio::test]
async fn other_refusals_leave_a_tag_alone() {
    let fake = Fake::start(|parts, _, _| match parts.method.as_str() {
        "DELETE" => answer(412, &[], r#"{"errors":[{"code":"PRECONDITION"}]}"#),
        _ => answer(200, &[("content-type", OCI_MANIFEST)], manifest()),
    })
    .await;
    let error = client().delete_manifest(&at(&fake)).await.unwrap_err();
    assert!(matches!(error, RegistryError::Protocol { .. }), "{error:?}");
    assert_eq!(fake.count("PUT"), 0);
}

/// A service that was killed between moving the tag and deleting what it was moved to.
#[tokio::test]
async fn a_removal_that_broke_off_counts_as_done() {
    let (fake, state) = registry(usize::MAX).await;
    let left = {
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[],"annotations":{{"chalk.removed":"1"}}}}"#
        );
        let mut state = state.lock().unwrap();
        state.put("v2", &manifest());
        state.put("v1", text.as_bytes())
    };
    let found = client().manifest(&at(&fake)).await.unwrap().unwrap();
    assert!(is_removed(&found));
    let url = format!("http://{}", fake.addr);
    let external = External::new(&url, "", options()).unwrap();
    assert_eq!(external.head_manifest("app", "v1").await.unwrap(), None);
    assert_eq!(external.manifest("app", "v1").await.unwrap(), None);
    assert!(external.manifest("app", "v2").await.unwrap().is_some());
    assert!(external.head_manifest("app", "v2").await.unwrap().is_some());
    assert!(external.delete("app", "v1").await.unwrap());
    assert_eq!(state.lock().unwrap().find(&left.to_string()), None);
    assert_eq!(fake.count("PUT"), 0, "nothing has to be moved for that");
}
