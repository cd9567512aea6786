//! Token services.

use axum::response::Response;
use chalk_core::Reference;
use chalk_store::Blob;
use chalk_store::registry::{Client, Credential, Progress, RegistryError};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::fixture::{Fake, answer, client, digest, options, store};

const MANIFEST: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

/// A registry on which each token is good for `uses` requests, with its token service at `/token`.
async fn registry(uses: usize, oauth_only: bool) -> Fake {
    let issued = Arc::new(AtomicUsize::new(0));
    let used = Arc::new(AtomicUsize::new(0));
    Fake::start(move |parts, body, _| {
        let authorization = parts
            .headers
            .get("authorization")
            .and_then(|v| v.to_str().ok());
        let authorization = authorization.unwrap_or_default();
        let host = parts.headers["host"].to_str().unwrap();
        if parts.uri.path() == "/token" {
            let form = String::from_utf8_lossy(body).into_owned();
            let sound = match parts.method.as_str() {
                "GET" if oauth_only => return answer(404, &[], ""),
                "GET" => authorization.is_empty() || authorization == "Basic bWU6cHc=",
                _ => {
                    form.contains("grant_type=password&username=me&password=pw")
                        || form.contains("grant_type=refresh_token&refresh_token=identity")
                }
            };
            if !sound {
                return answer(401, &[], r#"{"details":"bad login"}"#);
            }
            let number = issued.fetch_add(1, Ordering::SeqCst) + 1;
            used.store(0, Ordering::SeqCst);
            return answer(
                200,
                &[],
                format!(r#"{{"access_token":"t{number}","expires_in":300}}"#),
            );
        }
        let current = format!("Bearer t{}", issued.load(Ordering::SeqCst));
        if authorization != current || used.fetch_add(1, Ordering::SeqCst) >= uses {
            let challenge = format!(
                r#"Bearer realm="http://{host}/token",service="fake",scope="repository:app:pull""#
            );
            return answer(401, &[("www-authenticate", &challenge)], "");
        }
        content(parts.uri.path())
    })
    .await
}

fn content(path: &str) -> Response {
    match path.rsplit_once('/') {
        Some(("/v2/app/blobs", name)) => {
            let all: Vec<String> = (0..20).map(|i| format!("blob {i}")).collect();
            let found = all
                .iter()
                .find(|text| digest(text.as_bytes()).to_string() == name);
            found.map_or_else(
                || answer(404, &[], ""),
                |text| answer(200, &[], text.clone()),
            )
        }
        _ => answer(200, &[], MANIFEST),
    }
}

fn at(fake: &Fake) -> Reference {
    format!("{}/app:v1", fake.addr).parse().unwrap()
}

#[tokio::test]
async fn token_is_fetched_once_and_refreshed_when_refused() {
    let fake = registry(usize::MAX, false).await;
    let client = client();
    for _ in 0..3 {
        assert!(client.manifest(&at(&fake)).await.unwrap().is_some());
    }
    assert_eq!(fake.count("GET /token"), 1);
    assert_eq!(fake.count("GET /v2/"), 4, "one refusal, three answers");
    let query = "/token?service=fake&scope=repository%3Aapp%3Apull";
    assert!(
        fake.log().iter().any(|line| line.ends_with(query)),
        "{:?}",
        fake.log()
    );

    let fake = registry(2, false).await;
    for _ in 0..5 {
        assert!(client.manifest(&at(&fake)).await.unwrap().is_some());
    }
    assert_eq!(fake.count("GET /token"), 3);
}

#[tokio::test]
async fn parallel_blobs_share_a_token() {
    let fake = registry(usize::MAX, false).await;
    let (_dir, store) = store();
    let client = client();
    let pulls = (0..20).map(|i| {
        let (client, store, at) = (client.clone(), store.clone(), at(&fake));
        let text = format!("blob {i}");
        let blob = Blob {
            digest: digest(text.as_bytes()),
            size: text.len() as u64,
        };
        async move {
            client
                .pull_blob(&at, &blob, &store, &Progress::none())
                .await
        }
    });
    for done in futures_util::future::join_all(pulls).await {
        done.unwrap();
    }
    assert_eq!(fake.count("GET /token"), 1);
}

#[tokio::test]
async fn logins_reach_the_token_service() {
    let with = |fake: &Fake, credential: Credential| {
        let mut settings = options();
        settings.explicit.insert(fake.addr.to_string(), credential);
        Client::new(settings).unwrap()
    };
    let password = |password: &str| Credential::Password {
        user: "me".into(),
        password: password.into(),
    };
    let get = registry(usize::MAX, false).await;
    let post = registry(usize::MAX, true).await;
    for fake in [&get, &post] {
        let client = with(fake, password("pw"));
        assert!(client.manifest(&at(fake)).await.unwrap().is_some());
        let client = with(fake, Credential::IdentityToken("identity".into()));
        assert!(client.manifest(&at(fake)).await.unwrap().is_some());
        let error = with(fake, password("geheim"))
            .manifest(&at(fake))
            .await
            .unwrap_err();
        assert!(matches!(error, RegistryError::Denied { .. }), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("geheim"));
    }
    assert_eq!(
        get.count("POST /token"),
        1,
        "only the identity token needs it"
    );
    assert!(get.log().iter().any(|line| line.contains("account=me")));
}

#[tokio::test]
async fn login_stays_with_its_registry() {
    let storage = Fake::start(|parts, _, _| match parts.headers.get("authorization") {
        Some(_) => answer(400, &[], "leaked"),
        None => answer(200, &[], "content"),
    })
    .await;
    let target = format!("http://localhost:{}/x", storage.addr.port());
    let fake = Fake::start(
        move |parts, _, _| match parts.headers.get("authorization") {
            Some(_) => answer(307, &[("location", &target)], ""),
            None => answer(401, &[("www-authenticate", "Basic")], ""),
        },
    )
    .await;
    let mut settings = options();
    let credential = Credential::Password {
        user: "me".into(),
        password: "pw".into(),
    };
    settings.explicit.insert(fake.addr.to_string(), credential);
    let (_dir, store) = store();
    let blob = Blob {
        digest: digest(b"content"),
        size: 7,
    };
    let client = Client::new(settings).unwrap();
    client
        .pull_blob(&at(&fake), &blob, &store, &Progress::none())
        .await
        .unwrap();
    assert_eq!(storage.count("GET /x"), 1);
}
