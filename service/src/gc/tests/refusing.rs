//! Collections of an external registry that refuses.

use std::collections::BTreeSet;
use std::sync::Mutex;

use async_trait::async_trait;
use chalk_store::Blob;
use chalk_store::registry::{Manifest, ManifestHead, Published, Pushed, Referrer, RegistryError};

use super::external_registry::plan_of;
use super::*;
use crate::registry::RegionalError;

/// What a registry does with deletes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deletes {
    /// It refuses those of the tags that it keeps.
    Some,
    None,
}

/// A registry that keeps some tags whatever it is told, and cannot say what is attached to some
/// manifests.
#[derive(Debug)]
struct Refusing {
    registry: Registry,
    deletes: Deletes,
    keeps: BTreeSet<String>,
    silent_about: BTreeSet<Digest>,
    /// Names that it was to delete.
    asked: Mutex<Vec<String>>,
}

type Outcome<T> = Result<T, RegionalError>;

fn refused(what: &str) -> RegionalError {
    let error = RegistryError::Protocol {
        host: "registry.example".to_owned(),
        what: what.to_owned(),
        detail: "answered 409 Conflict: no".to_owned(),
    };
    error.into()
}

#[async_trait]
impl Regional for Refusing {
    async fn head_manifest(&self, repository: &str, name: &str) -> Outcome<Option<ManifestHead>> {
        self.registry.head_manifest(repository, name).await
    }

    async fn manifest(&self, repository: &str, name: &str) -> Outcome<Option<Manifest>> {
        Regional::manifest(&self.registry, repository, name).await
    }

    async fn has_blob(&self, repository: &str, digest: &Digest) -> Outcome<bool> {
        self.registry.has_blob(repository, digest).await
    }

    async fn mount_blob(&self, repository: &str, digest: &Digest, from: &str) -> Outcome<bool> {
        self.registry.mount_blob(repository, digest, from).await
    }

    async fn push_blob(
        &self,
        repository: &str,
        blob: &Blob,
        store: &BlobStore,
        progress: &Progress,
    ) -> Outcome<Pushed> {
        let pushed = self.registry.push_blob(repository, blob, store, progress);
        pushed.await
    }

    async fn pull_blob(
        &self,
        repository: &str,
        blob: &Blob,
        store: &BlobStore,
        progress: &Progress,
    ) -> Outcome<()> {
        let pulled = self.registry.pull_blob(repository, blob, store, progress);
        pulled.await
    }

    async fn put_manifest(
        &self,
        repository: &str,
        name: &str,
        media_type: &str,
        bytes: Bytes,
    ) -> Outcome<Published> {
        let put = self
            .registry
            .put_manifest(repository, name, media_type, bytes);
        put.await
    }

    async fn tags(&self, repository: &str) -> Outcome<Vec<String>> {
        Regional::tags(&self.registry, repository).await
    }

    async fn referrers(
        &self,
        repository: &str,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Outcome<Vec<Referrer>> {
        if self.silent_about.contains(subject) {
            return Err(refused("referrers"));
        }
        let found = self.registry.referrers(repository, subject, artifact_type);
        found.await
    }

    async fn delete(&self, repository: &str, name: &str) -> Outcome<bool> {
        self.asked.lock().unwrap().push(name.to_owned());
        if self.deletes == Deletes::None {
            let error = RegistryError::NoDeletes {
                registry: "registry.example".to_owned(),
                what: name.to_owned(),
            };
            return Err(error.into());
        }
        if self.keeps.contains(name) {
            return Err(refused(name));
        }
        self.registry.delete(repository, name).await
    }
}

fn hash(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

/// A catalog of that registry that knows the images `one` and `odd`, and steps that nobody used.
fn world(place: &Place, refusing: Arc<Refusing>, odd: Digest) -> (Catalog, InUse) {
    let (index, _) = Index::open(&place.dir.path().join("index.redb")).unwrap();
    let known = Known {
        digest: odd,
        platform: chalk_core::Platform::default(),
        size: 1,
        layers: 1,
        created: "2020-01-01T00:00:00Z".to_owned(),
    };
    index.put_image(&hash("odd"), &known).unwrap();
    let at = "registry.example".to_owned();
    let catalog = Catalog::new(refusing, at, Arc::new(index), place.blobs.clone());
    let catalog = catalog.noting_uses(place.dir.path().join("uses")).unwrap();
    let mut in_use = InUse::default();
    for name in ["a", "b", "c"] {
        place.image(STEPS, &hash(name).hex(), &[name]);
        let long_ago = SystemTime::now() - 1000 * HOUR;
        in_use.steps.insert(hash(name), long_ago);
    }
    (catalog, in_use)
}

/// Plans and drops, and gives the plan and what became of its tags.
fn drop_all(place: &Place, catalog: &Catalog, mut in_use: InUse) -> (Plan, Vec<Dropped>) {
    let (plan, horizon) = plan_of(place, catalog, &mut in_use);
    let dropped = external::drop_tags(catalog, &plan.tags, &plan.manifests, &horizon);
    let dropped = place.wait(dropped);
    (plan, dropped)
}

fn refusing(place: &Place, deletes: Deletes, keeps: &str, odd: Digest) -> Arc<Refusing> {
    Arc::new(Refusing {
        registry: place.registry.clone(),
        deletes,
        keeps: [hash(keeps).hex()].into(),
        silent_about: [odd].into(),
        asked: Mutex::default(),
    })
}

#[test]
fn a_tag_that_stays_and_an_image_that_cannot_be_judged_keep_no_others() {
    let place = Place::new();
    let odd = place.image(IMAGES, &hash("odd").hex(), &["odd"]);
    let registry = refusing(&place, Deletes::Some, "a", odd);
    let (catalog, in_use) = world(&place, registry, odd);
    let (plan, dropped) = drop_all(&place, &catalog, in_use);
    assert_eq!(dropped.len(), 3, "{:#?}", plan.tags);
    for (tag, dropped) in plan.tags.iter().zip(&dropped) {
        match dropped {
            Dropped::Gone => assert_ne!(tag.tag, hash("a").hex()),
            Dropped::Failed(why) => {
                assert_eq!(tag.tag, hash("a").hex());
                assert!(why.contains("409"), "{why}");
            }
            Dropped::Stays => panic!("{tag:?}"),
        }
    }
    let left = place.registry.tags(STEPS).unwrap();
    assert_eq!(left, [hash("a").hex()]);
    let (goes, why, _) = fate(&plan, &hash("odd").hex());
    assert!(!goes && why.contains("cannot be read"), "{why}");
}

#[test]
fn a_registry_without_deletes_is_asked_once() {
    let place = Place::new();
    let odd = place.image(IMAGES, &hash("odd").hex(), &["odd"]);
    let registry = refusing(&place, Deletes::None, "a", odd);
    let (catalog, in_use) = world(&place, registry.clone(), odd);
    let (_, dropped) = drop_all(&place, &catalog, in_use);
    assert_eq!(dropped.len(), 3);
    for dropped in &dropped {
        let Dropped::Failed(why) = dropped else {
            panic!("{dropped:?}");
        };
        assert!(why.contains("does not allow deletes"), "{why}");
    }
    assert_eq!(registry.asked.lock().unwrap().len(), 1);
    assert_eq!(place.registry.tags(STEPS).unwrap().len(), 3);
}
