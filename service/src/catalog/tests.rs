//! The catalog of a registry that several services share.

use std::path::Path;

use bytes::Bytes;
use chalk_core::Spec;
use chalk_core::spec::{Base, Step, StepKind};
use serde_json::{Value, json};

use super::*;
use crate::registry::Registry;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len()})
}

fn spec(command: &str) -> Spec {
    let mut spec = Spec::new(Base::Scratch);
    let command = command.to_owned();
    spec.steps = vec![Step::new(StepKind::Run { command })];
    spec
}

async fn push(registry: &Registry, blobs: &BlobStore, bytes: &[u8]) {
    let blob = blobs.put(bytes).unwrap();
    let none = Progress::none();
    let pushed = registry.push_blob(IMAGES, &blob, blobs, &none);
    pushed.await.unwrap();
}

async fn put(registry: &Registry, name: &str, manifest: &Value) -> Digest {
    let bytes = Bytes::from(manifest.to_string());
    let put = registry.put_manifest(IMAGES, name, MANIFEST, bytes);
    put.await.unwrap().digest
}

/// One image under the hashes of specs, which are attached to it.
async fn image(registry: &Registry, blobs: &BlobStore, specs: &[&Spec]) -> Digest {
    let config = br#"{"os":"linux","architecture":"amd64"}"#;
    for bytes in [&config[..], b"layer", b"{}"] {
        push(registry, blobs, bytes).await;
    }
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", b"layer")],
    });
    let name = Digest::of(manifest.to_string().as_bytes()).to_string();
    let digest = put(registry, &name, &manifest).await;
    for spec in specs {
        let text = serde_json::to_vec(spec).unwrap();
        push(registry, blobs, &text).await;
        let attached = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": SPEC_TYPE,
            "config": descriptor("application/vnd.oci.empty.v1+json", b"{}"),
            "layers": [descriptor(SPEC_TYPE, &text)],
            "subject": descriptor(MANIFEST, manifest.to_string().as_bytes()),
        });
        let name = Digest::of(attached.to_string().as_bytes()).to_string();
        put(registry, &name, &attached).await;
        let hash = spec.image_hash().unwrap();
        put(registry, &hash.hex(), &manifest).await;
    }
    digest
}

fn catalog(dir: &Path, name: &str, registry: &Registry, blobs: &BlobStore) -> Catalog {
    let (index, _) = Index::open(&dir.join(format!("{name}.redb"))).unwrap();
    let (registry, at) = (Arc::new(registry.clone()), "registry.example".to_owned());
    let catalog = Catalog::new(registry, at, Arc::new(index), blobs.clone());
    catalog.noting_uses(dir.join(name)).unwrap()
}

#[tokio::test]
async fn an_image_of_equal_bytes_of_another_service_stays() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = BlobStore::open(dir.path().join("store")).unwrap();
    let registry = Registry::open(dir.path().join("registry"), blobs.clone()).unwrap();
    let [one, two] = ["echo 1", "echo 2"].map(spec);
    let [first, second] = [&one, &two].map(|spec| spec.image_hash().unwrap());
    let digest = image(&registry, &blobs, &[&one, &two]).await;
    let [here, there] = ["here", "there"].map(|name| catalog(dir.path(), name, &registry, &blobs));
    assert_eq!(here.find(&first).await.unwrap().unwrap().digest, digest);
    // The service here has never heard of the second.
    here.delete(&first).await.unwrap();
    assert!(here.find(&first).await.unwrap().is_none());
    assert!(there.find(&second).await.unwrap().is_some());
    assert_eq!(there.spec(&second, &digest).await.unwrap(), two);
    // The last takes all along.
    there.delete(&second).await.unwrap();
    assert!(there.find(&second).await.unwrap().is_none());
    let name = digest.to_string();
    let head = registry.head_manifest(IMAGES, &name).await.unwrap();
    assert_eq!(head, None);
    let attached = registry.referrers(IMAGES, &digest, None).await.unwrap();
    assert!(attached.is_empty());
}

/// Anybody may attach something that calls itself a spec.
#[tokio::test]
async fn what_is_no_spec_hides_none() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = BlobStore::open(dir.path().join("store")).unwrap();
    let registry = Registry::open(dir.path().join("registry"), blobs.clone()).unwrap();
    let one = spec("echo 1");
    let hash = one.image_hash().unwrap();
    let digest = image(&registry, &blobs, &[&one]).await;
    let name = digest.to_string();
    let manifest = Regional::manifest(&registry, IMAGES, &name).await.unwrap();
    let manifest = manifest.unwrap();
    for number in 0..8 {
        let odd = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "artifactType": SPEC_TYPE,
            "manifests": [],
            "subject": descriptor(MANIFEST, &manifest.bytes),
            "annotations": {"number": number.to_string()},
        });
        let bytes = Bytes::from(odd.to_string());
        let (name, index) = (
            Digest::of(&bytes).to_string(),
            "application/vnd.oci.image.index.v1+json",
        );
        registry
            .put_manifest(IMAGES, &name, index, bytes)
            .await
            .unwrap();
    }
    let catalog = catalog(dir.path(), "here", &registry, &blobs);
    assert_eq!(catalog.spec(&hash, &digest).await.unwrap(), one);
    catalog.delete(&hash).await.unwrap();
    assert!(catalog.find(&hash).await.unwrap().is_none());
}
