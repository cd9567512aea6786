//! Logins: where they go, how long they are good for, and what of them others get.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use axum::http::request::Parts;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use chalk_core::Reference;
use chalk_store::Blob;
use chalk_store::registry::{
    Client, Credential, CredentialSource, Options, Progress, RegistryError, TokenBroker,
};
use serde_json::json;

use crate::fixture::{Fake, answer, digest, options, store};

const MANIFEST: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

fn at(fake: &Fake) -> Reference {
    format!("{}/app:v1", fake.addr).parse().unwrap()
}

fn authorization(parts: &Parts) -> String {
    let given = parts.headers.get("authorization");
    let given = given.and_then(|value| value.to_str().ok());
    given.unwrap_or_default().to_owned()
}

/// The password of a basic login.
fn password(parts: &Parts) -> String {
    let given = authorization(parts);
    let pair = STANDARD.decode(given.strip_prefix("Basic ").unwrap_or_default());
    let pair = String::from_utf8(pair.unwrap_or_default()).unwrap();
    pair.split_once(':').unwrap_or_default().1.to_owned()
}

fn logged_in(fake: &Fake, password: &str) -> Options {
    let mut settings = options();
    let credential = Credential::Password {
        user: "me".into(),
        password: password.into(),
    };
    settings.explicit.insert(fake.addr.to_string(), credential);
    settings
}

fn challenge(parts: &Parts, scope: &str) -> String {
    let host = parts.headers["host"].to_str().unwrap();
    format!(r#"Bearer realm="http://{host}/token",service="fake",scope="{scope}""#)
}

/// A storage service that a registry sends us to is no registry: it names no realm.
#[tokio::test]
async fn a_redirect_does_not_say_where_the_password_goes() {
    let thief = Fake::start(|parts, _, _| match parts.uri.path() {
        "/token" => answer(200, &[], r#"{"token":"t"}"#),
        _ => {
            let challenge = challenge(parts, "x");
            answer(401, &[("www-authenticate", &challenge)], "")
        }
    })
    .await;
    let target = format!("http://localhost:{}/x", thief.addr.port());
    let fake = Fake::start(move |_, _, _| answer(307, &[("location", &target)], "")).await;
    let (_dir, store) = store();
    let blob = Blob {
        digest: digest(b"content"),
        size: 7,
    };
    let client = Client::new(logged_in(&fake, "geheim-geheim")).unwrap();
    let (at, none) = (at(&fake), Progress::none());
    let pulled = client.pull_blob(&at, &blob, &store, &none);
    let error = pulled.await.unwrap_err();
    assert!(matches!(error, RegistryError::Denied { .. }), "{error:?}");
    assert!(thief.count("GET /x") > 0);
    assert_eq!(thief.count("GET /token"), 0, "{:?}", thief.log());
    // Nor does what it said count for the registry later.
    let _ = client.manifest(&at).await;
    assert_eq!(thief.count("GET /token"), 0, "{:?}", thief.log());
}

/// A [`moody`] registry whose password is `first`, and a client that has it from a file.
async fn with_password_file(
    bearer: bool,
) -> (
    Arc<Mutex<String>>,
    tempfile::TempDir,
    std::path::PathBuf,
    Fake,
    Client,
) {
    let current = Arc::new(Mutex::new("first".to_owned()));
    let fake = moody(bearer, current.clone()).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, "first\n").unwrap();
    let mut settings = options();
    settings.credentials = CredentialSource::PasswordFile {
        user: "me".into(),
        file: file.clone(),
    };
    let client = Client::new(settings).unwrap();
    (current, dir, file, fake, client)
}

/// A registry that takes one password, by tokens or as it is, and answers 403 to others.
async fn moody(bearer: bool, current: Arc<Mutex<String>>) -> Fake {
    Fake::start(move |parts, _, _| {
        let current = current.lock().unwrap().clone();
        if parts.uri.path() == "/token" {
            let token = format!("t-{}", password(parts));
            return answer(
                200,
                &[],
                json!({"token": token, "expires_in": 3600}).to_string(),
            );
        }
        let given = authorization(parts);
        if given.is_empty() {
            let challenge = match bearer {
                true => challenge(parts, "repository:app:pull"),
                false => "Basic realm=\"x\"".to_owned(),
            };
            return answer(401, &[("www-authenticate", &challenge)], "");
        }
        let sound = match bearer {
            true => given == format!("Bearer t-{current}"),
            false => password(parts) == current,
        };
        match sound {
            true => answer(200, &[], MANIFEST),
            false => answer(403, &[], "Your Authorization Token has expired"),
        }
    })
    .await
}

#[tokio::test]
async fn a_password_that_ran_out_is_looked_up_again() {
    for bearer in [false, true] {
        let (current, _dir, file, fake, client) = with_password_file(bearer).await;
        let read = async || client.manifest(&at(&fake)).await;
        assert!(read().await.unwrap().is_some());
        // The registry answers 403, not 401, to a login that ran out.
        for next in ["second", "third"] {
            *current.lock().unwrap() = next.to_owned();
            std::fs::write(&file, next).unwrap();
            assert!(read().await.unwrap().is_some(), "bearer: {bearer}");
        }
        // Who lacks the right is refused once, not asked for anew each time.
        *current.lock().unwrap() = "of another".to_owned();
        let before = fake.log().len();
        for _ in 0..3 {
            let error = read().await.unwrap_err();
            assert!(matches!(error, RegistryError::Denied { .. }), "{error:?}");
        }
        assert_eq!(fake.log().len(), before + 3, "{:?}", fake.log());
    }
}

#[tokio::test]
async fn a_look_up_that_fails_logs_nobody_out() {
    for bearer in [false, true] {
        let (current, _dir, file, fake, client) = with_password_file(bearer).await;
        let read = async || client.manifest(&at(&fake)).await;
        assert!(read().await.unwrap().is_some());
        std::fs::remove_file(&file).unwrap();
        *current.lock().unwrap() = "of another".to_owned();
        assert!(read().await.is_err());
        *current.lock().unwrap() = "first".to_owned();
        assert!(read().await.unwrap().is_some(), "bearer: {bearer}");
    }
}

/// A registry that wants a scope of its own besides (as ECR Public does), with a token service that
/// gives such a token.
async fn wordy(token: impl Fn(&Parts) -> String + Clone + Send + Sync + 'static) -> Fake {
    Fake::start(move |parts, _, _| {
        if parts.uri.path() == "/token" {
            let answered = json!({"token": token(parts), "expires_in": 300});
            return answer(200, &[], answered.to_string());
        }
        match authorization(parts).is_empty() {
            true => answer(401, &[("www-authenticate", &challenge(parts, "aws"))], ""),
            false => answer(200, &[], MANIFEST),
        }
    })
    .await
}

fn token_requests(fake: &Fake) -> Vec<String> {
    let log = fake.log().into_iter();
    log.filter(|line| line.starts_with("GET /token")).collect()
}

#[tokio::test]
async fn handed_tokens_are_asked_for_alone() {
    let fake = wordy(|parts| format!("for {}", parts.uri.query().unwrap()).replace(' ', "-")).await;
    let client = Client::new(logged_in(&fake, "geheim-geheim")).unwrap();
    assert!(client.manifest(&at(&fake)).await.unwrap().is_some());
    let asked = token_requests(&fake);
    assert!(asked[0].contains("scope=aws"), "{asked:?}");

    let handed = client.pull_token(&at(&fake)).await.unwrap().unwrap();
    let query = "service=fake&scope=repository%3Aapp%3Apull&account=me";
    assert_eq!(handed.token, format!("for-{query}"));
    // It is kept for the next who wants one, and apart from our own.
    let again = client.pull_token(&at(&fake)).await.unwrap().unwrap();
    assert_eq!(again.token, handed.token);
    assert!(client.manifest(&at(&fake)).await.unwrap().is_some());
    assert_eq!(token_requests(&fake).len(), 2, "{:?}", fake.log());

    // One who does not know yet how the registry wants it.
    let client = Client::new(logged_in(&fake, "geheim-geheim")).unwrap();
    let handed = client.pull_token(&at(&fake)).await.unwrap().unwrap();
    assert_eq!(handed.token, format!("for-{query}"));
}

#[tokio::test]
async fn tokens_that_hold_or_allow_more_are_not_handed_on() {
    let jwt = |actions: &'static [&'static str]| {
        move |_: &Parts| {
            let access = json!([{"type": "repository", "name": "app", "actions": actions}]);
            let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
            let (head, claims) = (
                part(json!({"alg": "none"})),
                part(json!({"access": access})),
            );
            format!("{head}.{claims}.c2lnbmVk")
        }
    };
    let check = async |fake: Fake, expect: bool| {
        let client = Client::new(logged_in(&fake, "geheim-geheim")).unwrap();
        for _ in 0..2 {
            let handed = client.pull_token(&at(&fake)).await.unwrap();
            assert_eq!(handed.is_some(), expect, "{:?}", fake.log());
        }
        // The service itself uses it all the same.
        assert!(client.manifest(&at(&fake)).await.unwrap().is_some());
    };
    check(wordy(|parts| STANDARD.encode(password(parts))).await, false).await;
    check(wordy(|_| "opaque".to_owned()).await, true).await;
    check(wordy(jwt(&["pull"])).await, true).await;
    check(wordy(jwt(&["pull", "push", "delete"])).await, false).await;
}

#[tokio::test]
async fn a_broker_is_asked_for_the_request_s_own_scope() {
    let registry = wordy(|_| "own".to_owned()).await;
    let knows = Arc::new(AtomicBool::new(true));
    let known = knows.clone();
    let broker = Fake::start(move |parts, _, _| {
        assert_eq!(authorization(parts), "Bearer node");
        match known.load(Ordering::SeqCst) {
            true => answer(200, &[], r#"{"token":"brokered","expires_in":300}"#),
            false => answer(404, &[], ""),
        }
    })
    .await;
    let client = || {
        let mut settings = options();
        let via = TokenBroker {
            url: format!("http://{}/broker?registry={}", broker.addr, registry.addr),
            credential: Credential::Bearer("node".into()),
        };
        settings.brokers.insert(registry.addr.to_string(), via);
        Client::new(settings).unwrap()
    };
    assert!(client().manifest(&at(&registry)).await.unwrap().is_some());
    let asked = broker.log().pop().unwrap();
    assert!(
        asked.ends_with("&service=fake&scope=repository%3Aapp%3Apull"),
        "{asked}"
    );
    assert_eq!(token_requests(&registry), [""; 0]);
    // Where there is none, the registry's own service hears all that the registry asks for.
    knows.store(false, Ordering::SeqCst);
    assert!(client().manifest(&at(&registry)).await.unwrap().is_some());
    let asked = token_requests(&registry).pop().unwrap();
    assert!(asked.contains("scope=aws&scope=repository"), "{asked}");
}
