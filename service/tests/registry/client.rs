//! The client against the embedded registry.

use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse;
use base64::Engine as _;
use chalk_core::{Platform, Reference};
use chalk_service::registry::{External, Regional, RegistryLimits};
use chalk_store::registry::{Client, Credential, Progress, Pushed, RegistryError, Transfer};
use serde_json::json;
use std::sync::{Arc, Mutex};

use crate::fixture::{
    Embedded, Fake, OCI_MANIFEST, answer, client, digest, image, index, noise, options, store,
};

fn reference(server: &Embedded, rest: &str) -> Reference {
    format!("{}/{rest}", server.addr).parse().unwrap()
}

fn amd64() -> Platform {
    Platform::default()
}

#[tokio::test]
async fn image_goes_there_and_back() {
    let server = Embedded::start().await;
    let (_dir, here) = store();
    let big = noise(9 << 20);
    let pushed = image(&here, "amd64", &[b"one", &big, b"one"]);
    let target = reference(&server, "team/app:v1");
    let client = client();
    let published = client
        .push_image(&target, &pushed.digest, &here, &Progress::none())
        .await;
    assert_eq!(published.unwrap().digest, pushed.digest);

    let head = client.head_manifest(&target).await.unwrap().unwrap();
    assert_eq!((head.digest, head.size), (pushed.digest, Some(pushed.size)));
    assert_eq!(head.media_type, OCI_MANIFEST);
    assert_eq!(client.tags(&target).await.unwrap(), ["v1"]);

    let (_dir, there) = store();
    let seen: Arc<Mutex<Vec<Transfer>>> = Arc::default();
    let log = Arc::clone(&seen);
    let progress = Progress::new(move |step| log.lock().unwrap().push(step));
    let got = client
        .pull_image(&target, &amd64(), &there, &progress)
        .await
        .unwrap();
    assert_eq!(got.manifest.digest, pushed.digest);
    assert_eq!(got.index, None);
    assert_eq!(there.read_small(digest(&big), 16 << 20).unwrap(), big);
    assert_eq!(there.size(pushed.digest).unwrap(), Some(pushed.size));
    let steps = seen.lock().unwrap().clone();
    let ends = |done: &Transfer| done.digest == digest(&big) && done.done == big.len() as u64;
    assert!(steps.iter().any(|step| ends(step) && !step.present));

    // The second time nothing moves.
    seen.lock().unwrap().clear();
    client
        .pull_image(&target, &amd64(), &there, &progress)
        .await
        .unwrap();
    assert!(seen.lock().unwrap().iter().all(|step| step.present));
    let big = chalk_store::Blob {
        digest: digest(&big),
        size: big.len() as u64,
    };
    let none = Progress::none();
    let again = client
        .push_blob(&target, &big, &here, None, &none)
        .await
        .unwrap();
    assert_eq!(again, Pushed::Present);
    let other = reference(&server, "team/other");
    let mounted = client
        .push_blob(&other, &big, &here, Some("team/app"), &none)
        .await
        .unwrap();
    assert_eq!(mounted, Pushed::Mounted);
    assert!(
        !client
            .mount(&other, &digest(b"nowhere"), "team/app")
            .await
            .unwrap()
    );

    assert!(client.delete_manifest(&target).await.unwrap());
    assert!(!client.delete_manifest(&target).await.unwrap());
    assert_eq!(client.manifest(&target).await.unwrap(), None);
    assert!(
        client
            .manifest(&target.with_digest(pushed.digest))
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn platform_is_chosen_or_the_others_listed() {
    let server = Embedded::start().await;
    let (_dir, here) = store();
    let amd = image(&here, "amd64", &[b"amd"]);
    let arm = image(&here, "arm64", &[b"arm"]);
    let both = index(&here, &[("amd64", amd), ("arm64", arm)]);
    let client = client();
    let multi = reference(&server, "multi:v1");
    client
        .push_image(&multi, &both.digest, &here, &Progress::none())
        .await
        .unwrap();
    let single = reference(&server, "single:v1");
    client
        .push_image(&single, &arm.digest, &here, &Progress::none())
        .await
        .unwrap();

    let arm64 = "linux/arm64/v8".parse().unwrap();
    let got = client.resolve(&multi, &arm64).await.unwrap();
    assert_eq!(
        (got.manifest.digest, got.index),
        (arm.digest, Some(both.digest))
    );
    let got = client.resolve(&single, &arm64).await.unwrap();
    assert_eq!(got.manifest.digest, arm.digest);

    let check = async |at: &Reference, wanted: &str, expect: &[&str]| {
        let wanted: Platform = wanted.parse().unwrap();
        match client.resolve(at, &wanted).await {
            Err(RegistryError::NoSuchPlatform { available, .. }) => assert_eq!(available, expect),
            other => panic!("{other:?}"),
        }
    };
    check(&multi, "linux/s390x", &["linux/amd64", "linux/arm64"]).await;
    check(&single, "linux/amd64", &["linux/arm64"]).await;
    let absent = client
        .resolve(&reference(&server, "multi:v2"), &amd64())
        .await;
    assert!(matches!(absent, Err(RegistryError::NotFound { .. })));
}

#[tokio::test]
async fn mirrors_come_first_and_the_origin_makes_up_for_them() {
    let origin = Embedded::start().await;
    let mirror = Embedded::start().await;
    let lying = Fake::start(|parts, _, _| match parts.uri.path().contains("/blobs/") {
        true => answer(200, &[], "something else of the wrong size"),
        false => answer(404, &[], ""),
    })
    .await;
    let (_dir, here) = store();
    let pushed = image(&here, "amd64", &[b"layer"]);
    let plain = client();
    let none = Progress::none();
    for server in [&origin, &mirror] {
        let at = reference(server, "app:v1");
        plain
            .push_image(&at, &pushed.digest, &here, &none)
            .await
            .unwrap();
    }

    // A mirror of a registry that is not there at all.
    let dead = "127.0.0.1:1/app:v1".parse().unwrap();
    let mut settings = options();
    settings.mirrors.insert(
        "127.0.0.1:1".into(),
        vec![format!("http://{}", mirror.addr)],
    );
    let (_dir, there) = store();
    let mirrored = Client::new(settings).unwrap();
    let got = mirrored
        .pull_image(&dead, &amd64(), &there, &none)
        .await
        .unwrap();
    assert_eq!(got.manifest.digest, pushed.digest);
    let absent = "127.0.0.1:1/app:v2".parse().unwrap();
    let error = mirrored.manifest(&absent).await.unwrap_err();
    assert!(
        matches!(error, RegistryError::Unreachable { .. }),
        "{error:?}"
    );
    assert!(
        error
            .to_string()
            .contains(&format!("mirror {}: not there", mirror.addr)),
        "{error}"
    );

    // Mirrors that are dead, empty or corrupt, in front of a registry that has it.
    let mut settings = options();
    let mirrors = vec!["127.0.0.1:1".to_owned(), lying.addr.to_string()];
    settings.mirrors.insert(origin.addr.to_string(), mirrors);
    let (_dir, there) = store();
    let at = reference(&origin, "app:v1");
    let got = Client::new(settings)
        .unwrap()
        .pull_image(&at, &amd64(), &there, &none)
        .await;
    assert_eq!(got.unwrap().manifest.digest, pushed.digest);
    assert!(lying.count("GET /v2/app/blobs/") > 0);
}

/// The embedded registry behind the login `any:token`.
async fn guarded() -> Embedded {
    let pair = base64::engine::general_purpose::STANDARD.encode("any:token");
    let wanted = format!("Basic {pair}");
    Embedded::with(RegistryLimits::default(), move |router| {
        router.layer(from_fn(move |request: Request, next: Next| {
            let given = request.headers().get(header::AUTHORIZATION).cloned();
            let sound = given.is_some_and(|given| given == wanted.as_str());
            async move {
                if sound {
                    return next.run(request).await;
                }
                let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"chalk\"")];
                (StatusCode::UNAUTHORIZED, challenge).into_response()
            }
        }))
    })
    .await
}

#[tokio::test]
async fn basic_login() {
    let server = guarded().await;
    let (_dir, here) = store();
    let pushed = image(&here, "amd64", &[b"layer", &noise(5 << 20)]);
    let at = reference(&server, "app:v1");
    let login = |password: &str| {
        let mut settings = options();
        let credential = Credential::Password {
            user: "any".into(),
            password: password.into(),
        };
        settings
            .explicit
            .insert(server.addr.to_string(), credential);
        Client::new(settings).unwrap()
    };
    let none = Progress::none();
    login("token")
        .push_image(&at, &pushed.digest, &here, &none)
        .await
        .unwrap();
    for refused in [client(), login("wrong")] {
        let error = refused.manifest(&at).await.unwrap_err();
        assert!(matches!(error, RegistryError::Denied { .. }), "{error:?}");
        let text = error.to_string();
        assert!(
            text.contains(&format!("docker login {}", server.addr)),
            "{text}"
        );
        assert!(!text.contains("wrong"), "{text}");
    }
}

/// What both kinds of regional registry must do alike.
async fn check_regional(regional: &dyn Regional) {
    let (_dir, here) = store();
    let none = Progress::none();
    let manifest = image(&here, "amd64", &[b"layer"]);
    let bytes = here.read_small(manifest.digest, 1 << 20).unwrap();
    let parts: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let repository = "images/x";
    assert_eq!(regional.tags(repository).await.unwrap(), [""; 0]);
    assert_eq!(
        regional.head_manifest(repository, "v1").await.unwrap(),
        None
    );
    let early = regional
        .put_manifest(repository, "v1", OCI_MANIFEST, bytes.clone().into())
        .await;
    assert!(early.is_err(), "its blobs are not there");
    let mut blobs = vec![&parts["config"]];
    blobs.extend(parts["layers"].as_array().unwrap());
    for part in blobs {
        let blob = chalk_store::Blob {
            digest: part["digest"].as_str().unwrap().parse().unwrap(),
            size: part["size"].as_u64().unwrap(),
        };
        assert!(!regional.has_blob(repository, &blob.digest).await.unwrap());
        regional
            .push_blob(repository, &blob, &here, &none)
            .await
            .unwrap();
        assert!(regional.has_blob(repository, &blob.digest).await.unwrap());
        let again = regional
            .push_blob(repository, &blob, &here, &none)
            .await
            .unwrap();
        assert_eq!(again, Pushed::Present);
        let (_dir, there) = store();
        regional
            .pull_blob(repository, &blob, &there, &none)
            .await
            .unwrap();
        assert_eq!(there.size(blob.digest).unwrap(), Some(blob.size));
    }
    let put = regional
        .put_manifest(repository, "v1", OCI_MANIFEST, bytes.clone().into())
        .await;
    assert_eq!(put.unwrap().digest, manifest.digest);
    let name = manifest.digest.to_string();
    for name in ["v1", name.as_str()] {
        let head = regional
            .head_manifest(repository, name)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(head.digest, manifest.digest);
        let got = regional.manifest(repository, name).await.unwrap().unwrap();
        assert_eq!(got.bytes, bytes);
    }
    assert_eq!(regional.tags(repository).await.unwrap(), ["v1"]);

    let mut note = parts;
    let kind = "application/vnd.example.note";
    note["artifactType"] = kind.into();
    note["subject"] = json!({
        "mediaType": OCI_MANIFEST,
        "digest": manifest.digest,
        "size": manifest.size,
    });
    let note = note.to_string().into_bytes();
    let at = digest(&note).to_string();
    let put = regional
        .put_manifest(repository, &at, OCI_MANIFEST, note.clone().into())
        .await;
    assert_eq!(put.unwrap().digest, digest(&note));
    for (filter, expect) in [(None, 1), (Some(kind), 1), (Some("a/b"), 0)] {
        let found = regional
            .referrers(repository, &manifest.digest, filter)
            .await
            .unwrap();
        assert_eq!(found.len(), expect, "{filter:?}");
        assert!(found.iter().all(|one| one.digest == digest(&note)));
    }

    let missing = regional.manifest(repository, "v2").await.unwrap();
    assert_eq!(missing, None);
    let bad = regional.head_manifest("../x", "v1").await;
    assert!(bad.is_err());
    assert!(regional.delete(repository, "v1").await.unwrap());
    assert!(!regional.delete(repository, "v1").await.unwrap());
    assert!(
        regional
            .manifest(repository, &name)
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn embedded_registry_is_regional() {
    let server = Embedded::start().await;
    check_regional(&server.registry).await;
}

#[tokio::test]
async fn external_registry_is_regional() {
    let server = guarded().await;
    let mut settings = options();
    let credential = Credential::Password {
        user: "any".into(),
        password: "token".into(),
    };
    settings
        .explicit
        .insert(server.addr.to_string(), credential);
    let url = format!("http://{}", server.addr);
    let external = External::new(&url, "team/chalk", settings).unwrap();
    check_regional(&external).await;
    assert_eq!(
        server.registry.repositories().unwrap(),
        ["team/chalk/images/x"]
    );

    for bad in [
        "ftp://r.example",
        "r.example/path",
        "u:p@r.example",
        "",
        "a b",
    ] {
        assert!(External::new(bad, "", options()).is_err(), "{bad}");
    }
    assert!(External::new("r.example", "../up", options()).is_err());
}

/// `0.0.0.0` reaches this machine, but is no loopback address to the client.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn insecure_registries_are_asked_what_they_speak() {
    if ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]
        .iter()
        .any(|v| std::env::var(v).is_ok())
    {
        eprintln!("not tried: a proxy would get the request");
        return;
    }
    let server = Embedded::start().await;
    let (_dir, here) = store();
    let pushed = image(&here, "amd64", &[b"layer"]);
    let host = format!("0.0.0.0:{}", server.addr.port());
    let at: Reference = format!("{host}/app:v1").parse().unwrap();
    let none = Progress::none();
    let strict = client()
        .push_image(&at, &pushed.digest, &here, &none)
        .await
        .unwrap_err();
    assert!(
        strict.to_string().contains("insecure registries"),
        "{strict}"
    );
    let mut settings = options();
    settings.insecure.insert(host);
    let lenient = Client::new(settings).unwrap();
    lenient
        .push_image(&at, &pushed.digest, &here, &none)
        .await
        .unwrap();
    assert_eq!(lenient.tags(&at).await.unwrap(), ["v1"]);
}
