//! The client against registries that fail, stall, cut off and lie.

use std::io::{ErrorKind, Read as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chalk_core::Reference;
use chalk_store::registry::{Client, Progress, Pushed, RegistryError};
use chalk_store::{Blob, BlobError, Follower};
use tokio::sync::oneshot;

use crate::fixture::{
    Fake, OCI_MANIFEST, answer, broken_body, client, digest, noise, options, store,
};

const MANIFEST: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

fn at(fake: &Fake) -> Reference {
    format!("{}/app:v1", fake.addr).parse().unwrap()
}

fn blob(bytes: &[u8]) -> Blob {
    Blob {
        digest: digest(bytes),
        size: bytes.len() as u64,
    }
}

/// What a follower reads.
async fn read(follower: oneshot::Receiver<Follower>) -> std::io::Result<Vec<u8>> {
    let mut follower = follower.await.unwrap();
    let read = move || {
        let mut bytes = Vec::new();
        follower.read_to_end(&mut bytes).map(|_| bytes)
    };
    tokio::task::spawn_blocking(read).await.unwrap()
}

#[tokio::test]
async fn passing_failures_are_retried() {
    let fake = Fake::start(|_, _, before| match before {
        0 => answer(503, &[("retry-after", "0")], ""),
        1 => answer(429, &[], ""),
        2 => answer(200, &[("content-length", "100")], broken_body(b"{")),
        _ => answer(200, &[], MANIFEST),
    })
    .await;
    let got = client().manifest(&at(&fake)).await.unwrap().unwrap();
    assert_eq!(got.digest, digest(MANIFEST.as_bytes()));
    assert_eq!(fake.count("GET"), 4);
}

#[tokio::test]
async fn lasting_failures_end() {
    let check =
        async |status: u16, headers: &'static [(&str, &str)], tries: usize, expect: &str| {
            let fake = Fake::start(move |_, _, _| answer(status, headers, "why not")).await;
            let error = client().manifest(&at(&fake)).await.unwrap_err();
            let got = format!("{error:?}");
            assert!(got.starts_with(expect), "{status}: {got}");
            assert!(error.to_string().contains("why not"), "{error}");
            assert_eq!(fake.count("GET"), tries, "{status}");
        };
    check(500, &[], 4, "Unavailable").await;
    check(503, &[("retry-after", "3600")], 1, "Unavailable").await;
    check(400, &[], 1, "Protocol").await;
    check(403, &[], 1, "Denied").await;
    check(401, &[], 1, "Denied").await;
    check(401, &[("www-authenticate", "Negotiate")], 1, "Denied").await;
    check(418, &[], 1, "Protocol").await;

    let nobody: Reference = "127.0.0.1:1/app:v1".parse().unwrap();
    let error = client().manifest(&nobody).await.unwrap_err();
    assert!(
        matches!(error, RegistryError::Unreachable { .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn broken_download_goes_on() {
    let content = noise(3 << 20);
    let cut = 1 << 20;
    for ranges in [true, false] {
        let served = content.clone();
        let length = content.len().to_string();
        let fake = Fake::start(move |parts, _, before| {
            if before == 0 {
                return answer(
                    200,
                    &[("content-length", &length)],
                    broken_body(&served[..cut]),
                );
            }
            let range = parts
                .headers
                .get("range")
                .map(|v| v.to_str().unwrap().to_owned());
            let start =
                range.and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
            match start {
                Some(start) if ranges => {
                    let range = format!("bytes {start}-{}/{}", served.len() - 1, served.len());
                    let rest: Vec<u8> = served[start..].to_vec();
                    answer(206, &[("content-range", &range)], rest)
                }
                _ => answer(200, &[], served.clone()),
            }
        })
        .await;
        let (_dir, store) = store();
        let wanted = blob(&content);
        let (client, at, (sender, follower)) = (client(), at(&fake), oneshot::channel());
        let progress = Progress::none();
        let pulled = client.pull_followed(&at, &wanted, &store, &progress, Some(sender));
        let (pulled, followed) = tokio::join!(pulled, read(follower));
        pulled.unwrap();
        assert_eq!(store.read_small(wanted.digest, 8 << 20).unwrap(), content);
        // Whoever reads it meanwhile does not see where it broke.
        assert!(followed.unwrap() == content);
        assert_eq!(fake.count("GET"), 2, "ranges: {ranges}");
    }
}

#[tokio::test]
async fn wrong_blobs_never_enter_the_store() {
    let check = async |body: &'static [u8], expect: &str| {
        let fake = Fake::start(move |_, _, _| answer(200, &[], body)).await;
        let (_dir, store) = store();
        let wanted = blob(b"content");
        let (client, at, (sender, follower)) = (client(), at(&fake), oneshot::channel());
        let progress = Progress::none();
        let pulled = client.pull_followed(&at, &wanted, &store, &progress, Some(sender));
        let (pulled, followed) = tokio::join!(pulled, read(follower));
        let got = format!("{:?}", pulled.unwrap_err());
        assert!(got.starts_with(expect), "{got}");
        // Nobody who reads it meanwhile takes it for whole.
        assert_eq!(followed.unwrap_err().kind(), ErrorKind::ConnectionAborted);
        assert_eq!(store.list().unwrap().count(), 0);
        assert_eq!(
            std::fs::read_dir(store.root().join("tmp")).unwrap().count(),
            0
        );
    };
    check(b"CONTENT", "DigestMismatch").await;
    check(b"content and more", "TooLarge").await;
    check(b"cont", "Unreachable").await;
}

#[tokio::test]
async fn wrong_manifests_are_refused() {
    let check = async |headers: &'static [(&str, &str)], body: Vec<u8>, pin: bool, expect: &str| {
        let fake = Fake::start(move |_, _, _| answer(200, headers, body.clone())).await;
        let mut at = at(&fake);
        if pin {
            at = at.with_digest(digest(b"other"));
        }
        let got = format!("{:?}", client().manifest(&at).await.unwrap_err());
        assert!(got.starts_with(expect), "{got}");
    };
    let zeros = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
    check(&[], MANIFEST.into(), true, "DigestMismatch").await;
    let lie = Box::leak(Box::new([("docker-content-digest", zeros)]));
    check(lie, MANIFEST.into(), false, "DigestMismatch").await;
    check(
        &[],
        b"<html>not a registry</html>".to_vec(),
        false,
        "Protocol",
    )
    .await;
    check(&[], vec![b' '; (4 << 20) + 1], false, "TooLarge").await;
    let both = br#"{"manifests":[],"layers":[]}"#.to_vec();
    check(&[], both, false, "Protocol").await;
}

#[tokio::test]
async fn endless_indexes_end() {
    // Nested by tag of the same name it cannot be, so each level is another digest.
    let mut levels = vec![MANIFEST.to_owned()];
    for _ in 0..6 {
        let below = levels.last().unwrap();
        let level = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{
                "mediaType": "application/vnd.oci.image.index.v1+json",
                "digest": digest(below.as_bytes()),
                "size": below.len(),
                "platform": {"os": "linux", "architecture": "amd64"},
            }],
        });
        levels.push(level.to_string());
    }
    let fake = Fake::start(move |parts, _, _| {
        let path = parts.uri.path();
        let found = levels
            .iter()
            .find(|level| path.ends_with(&digest(level.as_bytes()).hex()));
        answer(200, &[], found.or(levels.last()).unwrap().clone())
    })
    .await;
    let error = client()
        .resolve(&at(&fake), &"linux/amd64".parse().unwrap())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("nested"), "{error}");
}

#[tokio::test]
async fn silent_registry_is_given_up() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut settings = options();
    settings.idle_timeout = Duration::from_millis(50);
    settings.retry.attempts = 2;
    let silent: Reference = format!("{address}/app:v1").parse().unwrap();
    let error = Client::new(settings)
        .unwrap()
        .manifest(&silent)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("no answer"), "{error}");
    drop(listener);
}

#[tokio::test]
async fn broken_upload_goes_on() {
    let content = noise(6 << 20);
    let kept = 2 << 20;
    let received: Arc<Mutex<Vec<u8>>> = Arc::default();
    let so_far = Arc::clone(&received);
    let fake = Fake::start(move |parts, body, before| {
        let mut so_far = so_far.lock().unwrap();
        let session = [("location", "/up/1?state=a%2Fb")];
        match (parts.method.as_str(), parts.uri.path()) {
            ("HEAD", _) => answer(404, &[], ""),
            ("POST", _) => answer(202, &session, ""),
            ("PATCH", "/up/1") if before == 0 => {
                // Keeps a part of what came and fails.
                so_far.extend(&body[..kept]);
                answer(502, &[], "")
            }
            ("PATCH", "/up/1") => {
                let range = parts.headers["content-range"].to_str().unwrap();
                assert_eq!(range, format!("{kept}-{}", (6 << 20) - 1));
                so_far.extend(body);
                answer(202, &session, "")
            }
            ("GET", "/up/1") => {
                let range = format!("0-{}", so_far.len() - 1);
                answer(204, &[session[0], ("range", &range)], "")
            }
            ("PUT", "/up/1") => answer(201, &[], ""),
            other => panic!("{other:?}"),
        }
    })
    .await;
    let (_dir, store) = store();
    let sent = store.put(&content).unwrap();
    let pushed = client()
        .push_blob(&at(&fake), &sent, &store, None, &Progress::none())
        .await;
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
    assert_eq!(digest(&received.lock().unwrap()), sent.digest);
    let end = format!(
        "PUT /up/1?state=a%2Fb&digest=sha256%3A{}",
        sent.digest.hex()
    );
    assert_eq!(fake.log().last(), Some(&end));
}

#[tokio::test]
async fn lost_answer_to_a_finished_upload_is_no_failure() {
    let fake = Fake::start(|parts, _, before| match parts.method.as_str() {
        // Not there at first, there after the upload.
        "HEAD" if before == 0 => answer(404, &[], ""),
        "HEAD" => answer(200, &[], ""),
        "POST" => answer(202, &[("location", "/up/1")], ""),
        "PUT" if before == 0 => answer(504, &[], ""),
        _ => answer(404, &[], ""),
    })
    .await;
    let (_dir, store) = store();
    let sent = store.put(b"content").unwrap();
    let pushed = client()
        .push_blob(&at(&fake), &sent, &store, None, &Progress::none())
        .await;
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
}

#[tokio::test]
async fn rotten_blob_is_found_when_a_registry_refuses_it() {
    let fake = Fake::start(|parts, _, _| match parts.method.as_str() {
        "HEAD" => answer(404, &[], ""),
        "POST" => answer(202, &[("location", "/up/1")], ""),
        _ => answer(
            400,
            &[],
            r#"{"errors":[{"code":"DIGEST_INVALID","message":"no"}]}"#,
        ),
    })
    .await;
    let (_dir, store) = store();
    let sent = store.put(b"content").unwrap();
    let push = async || {
        let pushed = client()
            .push_blob(&at(&fake), &sent, &store, None, &Progress::none())
            .await;
        pushed.unwrap_err()
    };
    let error = push().await;
    assert!(error.to_string().contains("DIGEST_INVALID no"), "{error}");
    std::fs::write(store.path(&sent.digest), b"rotten!").unwrap();
    let error = push().await;
    assert!(
        matches!(error, RegistryError::Store(BlobError::Io { .. })),
        "{error:?}"
    );
    assert_eq!(store.size(sent.digest).unwrap(), None, "it is set aside");
}

#[tokio::test]
async fn referrers_tag_stands_in_for_the_api() {
    let kept: Arc<Mutex<Option<Vec<u8>>>> = Arc::default();
    let state = Arc::clone(&kept);
    let subject = digest(b"subject");
    let tag = format!("/v2/app/manifests/sha256-{}", subject.hex());
    let fake = Fake::start(move |parts, body, _| {
        let path = parts.uri.path();
        let mut kept = state.lock().unwrap();
        match (parts.method.as_str(), path == tag) {
            ("PUT", true) => {
                *kept = Some(body.to_vec());
                answer(201, &[], "")
            }
            ("PUT", false) => answer(201, &[], ""),
            ("GET", true) => match &*kept {
                Some(index) => answer(200, &[], index.clone()),
                None => answer(404, &[], ""),
            },
            _ => answer(404, &[], ""),
        }
    })
    .await;
    let client = client();
    let note = |text: &str| {
        let descriptor =
            |digest| serde_json::json!({"mediaType": "a/b", "digest": digest, "size": 2});
        let note = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": text,
            "config": descriptor(digest(b"{}")),
            "layers": [],
            "subject": descriptor(subject),
        });
        note.to_string()
    };
    for kind in ["a/one", "a/two", "a/one"] {
        let bytes = note(kind);
        let target = at(&fake).with_digest(digest(bytes.as_bytes()));
        client
            .put_manifest(&target, OCI_MANIFEST, bytes.into())
            .await
            .unwrap();
    }
    let all = client.referrers(&at(&fake), &subject, None).await.unwrap();
    assert_eq!(all.len(), 2);
    let one = client
        .referrers(&at(&fake), &subject, Some("a/two"))
        .await
        .unwrap();
    assert_eq!(one.len(), 1);
    assert_eq!(one[0].digest, digest(note("a/two").as_bytes()));
}

/// Another writer who read the index before us writes it after us: ours is added again. One who is
/// faster makes a registry that heeds conditions refuse ours: it is added to his.
#[tokio::test]
async fn referrers_tag_survives_other_writers() {
    let kept: Arc<Mutex<Option<Vec<u8>>>> = Arc::default();
    let state = Arc::clone(&kept);
    let subject = digest(b"subject");
    let tag = format!("/v2/app/manifests/sha256-{}", subject.hex());
    let others = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{"mediaType": "a/b", "digest": digest(b"other"), "size": 5}],
    })
    .to_string();
    let theirs = others.clone();
    let fake = Fake::start(move |parts, body, before| {
        let path = parts.uri.path();
        let mut kept = state.lock().unwrap();
        match (parts.method.as_str(), path == tag) {
            ("PUT", true) if before == 0 => {
                assert_eq!(parts.headers["if-none-match"], "*");
                *kept = Some(theirs.clone().into());
                answer(412, &[], "")
            }
            ("PUT", true) if before == 1 => {
                let read = format!("\"{}\"", digest(theirs.as_bytes()));
                assert_eq!(parts.headers["if-match"], read.as_str());
                // Ours is gone before anybody has seen it.
                answer(201, &[], "")
            }
            ("PUT", true) => {
                *kept = Some(body.to_vec());
                answer(201, &[], "")
            }
            ("PUT", false) => answer(201, &[], ""),
            ("GET", true) => match &*kept {
                Some(index) => answer(200, &[], index.clone()),
                None => answer(404, &[], ""),
            },
            _ => answer(404, &[], ""),
        }
    })
    .await;
    let note = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": "a/one",
        "subject": {"mediaType": "a/b", "digest": subject, "size": 7},
    })
    .to_string();
    let ours = digest(note.as_bytes());
    let target = at(&fake).with_digest(ours);
    let put = client()
        .put_manifest(&target, OCI_MANIFEST, note.into())
        .await;
    put.unwrap();
    let all = client().referrers(&at(&fake), &subject, None).await;
    let all: Vec<_> = all.unwrap().into_iter().map(|one| one.digest).collect();
    assert_eq!(all, [digest(b"other"), ours]);
    assert!(!others.contains(&ours.to_string()));
}

/// A registry that takes no index which lists what is gone: what others deleted leaves the index with
/// the next change, and what is there stays.
#[tokio::test]
async fn referrers_tag_loses_what_others_deleted() {
    let subject = digest(b"subject");
    let (gone, there) = (digest(b"gone"), digest(b"there"));
    let tag = format!("/v2/app/manifests/sha256-{}", subject.hex());
    let entry = |of| serde_json::json!({"mediaType": "a/b", "digest": of, "size": 5});
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [entry(gone), entry(there)]});
    let kept = Arc::new(Mutex::new(index.to_string()));
    let state = Arc::clone(&kept);
    let fake = Fake::start(move |parts, body, _| {
        let path = parts.uri.path();
        let mut kept = state.lock().unwrap();
        match (parts.method.as_str(), path == tag) {
            ("PUT", true) => {
                let text = String::from_utf8(body.to_vec()).unwrap();
                if text.contains(&gone.to_string()) {
                    let why = r#"{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN"}]}"#;
                    return answer(400, &[], why);
                }
                *kept = text;
                answer(201, &[], "")
            }
            ("PUT", false) => answer(201, &[], ""),
            ("GET", true) => answer(200, &[], kept.clone()),
            ("HEAD", false) if !path.ends_with(&gone.to_string()) => {
                let found = path.rsplit('/').next().unwrap().to_owned();
                let headers = [
                    ("docker-content-digest", found),
                    ("content-type", OCI_MANIFEST.to_owned()),
                ];
                let headers = headers
                    .each_ref()
                    .map(|(name, value)| (*name, value.as_str()));
                answer(200, &headers, "")
            }
            _ => answer(404, &[], ""),
        }
    })
    .await;
    let note = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": "a/one",
        "subject": {"mediaType": "a/b", "digest": subject, "size": 7},
    })
    .to_string();
    let ours = digest(note.as_bytes());
    let target = at(&fake).with_digest(ours);
    let client = client();
    let put = client.put_manifest(&target, OCI_MANIFEST, note.into());
    put.await.unwrap();
    let all = client.referrers(&at(&fake), &subject, None).await;
    let all: Vec<_> = all.unwrap().into_iter().map(|one| one.digest).collect();
    assert_eq!(all, [there, ours]);
}

#[test]
fn bad_settings_are_refused() {
    let check = |change: &dyn Fn(&mut chalk_store::registry::Options), expect: &str| {
        let mut settings = options();
        change(&mut settings);
        let error = Client::new(settings).unwrap_err();
        assert!(error.to_string().contains(expect), "{error}");
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    check(
        &|o| o.ca_bundle = Some("/nowhere.pem".into()),
        "/nowhere.pem",
    );
    check(&|o| o.ca_bundle = Some(file.path().into()), "found none");
    check(&|o| o.parallel = 0, "at least 1");
    let mirror = |url: &str| vec![url.to_owned()];
    check(
        &|o| drop(o.mirrors.insert("docker.io".into(), mirror("ftp://x"))),
        "http or https",
    );
}
