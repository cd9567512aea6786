//! Images, their names, deletion, import.

use chalk_core::Digest;
use chalk_core::wire::{Image, ImageDetail, Imported, problem};
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::service::{Api, commands, ok, request, settings};

#[tokio::test]
async fn images_are_listed_described_named_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::start(settings(dir.path())).await;
    let mut wanted = request(commands(&["a"]));
    wanted.name = Some("team/app:v1".into());
    let built = api.finished(&wanted).await;
    let other = api.finished(&request(commands(&["b"]))).await;
    let hash = built.image_hash;

    let images: Vec<Image> = api.get("/v1/images").await;
    let hashes: Vec<_> = images.iter().map(|image| image.image_hash).collect();
    assert_eq!(hashes, [other.image_hash, hash]);
    for name in ["team/app", "team/app:v1"] {
        let images: Vec<Image> = api.get(&format!("/v1/images?name={name}")).await;
        assert_eq!(images.len(), 1, "{name}");
        assert_eq!(images[0].names, ["team/app:v1"]);
    }
    assert_eq!(api.get::<Vec<Image>>("/v1/images?name=team").await, []);

    for id in [
        hash.to_string(),
        hash.hex(),
        hash.hex()[..8].to_owned(),
        "team%2Fapp:v1".to_owned(),
    ] {
        let detail: ImageDetail = api.get(&format!("/v1/images/{id}")).await;
        assert_eq!(detail.spec, commands(&["a"]));
        assert_eq!(detail.image.digest, built.digest.unwrap());
        assert_eq!(Some(&detail.image.image), built.image.as_ref());
        assert_eq!(detail.config.env, ["A=1"]);
        assert_eq!(detail.layer_list.len(), 1);
        assert_eq!(detail.layer_list[0].created_by, "fake");
        assert_eq!(detail.steps.len(), 1);
        let manifest = api.request(Method::GET, &format!("/v1/images/{id}/manifest"));
        let manifest = manifest.send().await.unwrap().bytes().await.unwrap();
        assert_eq!(Digest::of(&manifest), detail.image.digest);
    }
    let short = api.request(Method::GET, &format!("/v1/images/{}", &hash.hex()[..7]));
    assert_eq!(api.problem(short).await.kind, problem::NOT_FOUND);

    // A name moves from one image to the other.
    let put =
        |id: &str, name: &str| api.request(Method::PUT, &format!("/v1/images/{id}/names/{name}"));
    let named: Image = ok(put(&other.image_hash.hex(), "team%2Fapp:v1")).await;
    assert_eq!(named.names, ["team/app:v1"]);
    let detail: ImageDetail = api.get("/v1/images/team%2Fapp:v1").await;
    assert_eq!(detail.image.image_hash, other.image_hash);
    let named: Image = ok(put("team%2Fapp:v1", "second")).await;
    assert_eq!(named.names, ["second:latest", "team/app:v1"]);
    let path = "/v2/team/app/manifests/v1";
    let pulled = api.request(Method::GET, path).send().await.unwrap();
    let bytes = pulled.bytes().await.unwrap();
    assert_eq!(chalk_core::Digest::of(&bytes), other.digest.unwrap());

    // Deleting a name leaves the image, deleting the image takes its names along.
    let delete = async |id: &str| {
        let request = api.request(Method::DELETE, &format!("/v1/images/{id}"));
        request.send().await.unwrap().status()
    };
    assert_eq!(delete("second").await, StatusCode::NO_CONTENT);
    assert_eq!(delete("second").await, StatusCode::NOT_FOUND);
    assert_eq!(
        delete(&other.image_hash.hex()).await,
        StatusCode::NO_CONTENT
    );
    assert_eq!(delete(&other.image_hash.hex()).await, StatusCode::NOT_FOUND);
    assert_eq!(delete("team%2Fapp:v1").await, StatusCode::NOT_FOUND);
    let gone = api
        .request(Method::GET, path)
        .send()
        .await
        .unwrap()
        .status();
    assert_eq!(gone, StatusCode::NOT_FOUND);
    let left: Vec<Image> = api.get("/v1/images").await;
    assert_eq!(left.len(), 1);
    // It is built anew when asked for.
    let again = api.finished(&request(commands(&["b"]))).await;
    assert_ne!(again.id, other.id);
    api.running.shutdown().await;
}

#[tokio::test]
async fn the_registry_is_the_truth() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::start(settings(dir.path())).await;
    let mut wanted = request(commands(&["a"]));
    wanted.name = Some("app:v1".into());
    let built = api.finished(&wanted).await;
    let other = api.finished(&request(commands(&["b"]))).await;
    // Somebody pushes to the name.
    let manifest = format!("/v2/chalk/images/manifests/{}", other.image_hash.hex());
    let manifest = api.request(Method::GET, &manifest).send().await.unwrap();
    let media_type = manifest.headers()["content-type"].clone();
    let body: Value = manifest.json().await.unwrap();
    for blob in [&body["config"], &body["layers"][0]] {
        let digest = blob["digest"].as_str().unwrap();
        let mount = format!("/v2/app/blobs/uploads/?mount={digest}&from=chalk%2Fimages");
        let status = api
            .request(Method::POST, &mount)
            .send()
            .await
            .unwrap()
            .status();
        assert_eq!(status, StatusCode::CREATED);
    }
    let push = api
        .request(Method::PUT, "/v2/app/manifests/v1")
        .header("content-type", media_type)
        .body(body.to_string());
    assert_eq!(push.send().await.unwrap().status(), StatusCode::CREATED);
    let detail: ImageDetail = api.get("/v1/images/app:v1").await;
    assert_eq!(detail.image.image_hash, other.image_hash);
    // Somebody deletes an image.
    let path = format!("/v2/chalk/images/manifests/{}", built.digest.unwrap());
    let deleted = api
        .request(Method::DELETE, &path)
        .send()
        .await
        .unwrap()
        .status();
    assert_eq!(deleted, StatusCode::ACCEPTED);
    let path = format!("/v1/images/{}", built.image_hash);
    let problem = api.problem(api.request(Method::GET, &path)).await;
    assert_eq!(problem.kind, problem::NOT_FOUND);
    wanted.name = None;
    assert_ne!(api.accepted(&wanted).await.id, built.id);
    api.running.shutdown().await;
}

#[tokio::test]
async fn a_root_file_system_becomes_a_base() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::start(settings(dir.path())).await;
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    header.set_mode(0o644);
    tar.append_data(&mut header, "etc/hello", &b"hello"[..])
        .unwrap();
    let tar = tar.into_inner().unwrap();
    let import = api
        .request(
            Method::POST,
            "/v1/imports?ref=python:3.12&platform=linux/arm64",
        )
        .body(tar);
    let imported: Imported = ok(import).await;
    assert_eq!(
        imported.reference.to_string(),
        "docker.io/library/python:3.12"
    );
    assert_eq!(imported.platform.to_string(), "linux/arm64");
    let path = "/v2/imports/docker.io/library/python/manifests/3.12";
    let manifest = api.request(Method::GET, path).send().await.unwrap();
    let bytes = manifest.bytes().await.unwrap();
    assert_eq!(chalk_core::Digest::of(&bytes), imported.digest);
    let left = std::fs::read_dir(dir.path().join("imports"))
        .unwrap()
        .count();
    assert_eq!(left, 0);
    api.running.shutdown().await;
}
