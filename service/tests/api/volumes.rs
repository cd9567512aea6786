//! Volumes as the compiled part of Chalk's own SDK calls them: Connect, and signed addresses.

use chalk_core::wire::{ClientToken, ClientTokenRequest, Role};
use prost::Message;
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::service::{Api, ok, settings};

/// `VolumeRef`
#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "2")]
    name: String,
}

/// `CreateVolumeRequest`
#[derive(Clone, PartialEq, Message)]
struct Create {
    #[prost(string, tag = "1")]
    name: String,
}

/// Requests whose first field is a `VolumeRef`, with what some of them have besides.
#[derive(Clone, PartialEq, Message)]
struct About {
    #[prost(message, optional, tag = "1")]
    volume: Option<Named>,
    /// `RequestUploadURLsRequest.objects`
    #[prost(message, repeated, tag = "2")]
    objects: Vec<Object>,
}

/// `UploadedObjectReference`
#[derive(Clone, PartialEq, Message)]
struct Object {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    hash: String,
    #[prost(uint64, tag = "3")]
    size: u64,
}

/// `RequestUploadURLsResponse`
#[derive(Clone, PartialEq, Message)]
struct Addresses {
    #[prost(message, repeated, tag = "1")]
    urls: Vec<Address>,
}

/// `UploadURLItem`
#[derive(Clone, PartialEq, Message)]
struct Address {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(bool, tag = "2")]
    exists: bool,
    #[prost(string, tag = "3")]
    url: String,
}

/// BLAKE3 of `hello`.
const HELLO: &str = "ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f";

async fn call(
    api: &Api,
    token: &str,
    member: &str,
    message: &impl Message,
) -> Result<Vec<u8>, (u16, String)> {
    let path = format!("/chalk.volume.v2.VolumeService/{member}");
    let request = api
        .bare(Method::POST, &path)
        .bearer_auth(token)
        .header("content-type", "application/proto")
        .header("connect-protocol-version", "1")
        .body(message.encode_to_vec());
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let kind = response.headers()["content-type"]
        .to_str()
        .unwrap()
        .to_owned();
    let body = response.bytes().await.unwrap();
    if status == 200 {
        assert_eq!(kind, "application/proto");
        return Ok(body.to_vec());
    }
    assert_eq!(kind, "application/json");
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert!(!body["message"].as_str().unwrap().is_empty());
    Err((status, body["code"].as_str().unwrap().to_owned()))
}

fn about(name: &str) -> About {
    About {
        volume: Some(Named { name: name.into() }),
        objects: Vec::new(),
    }
}

#[tokio::test]
async fn volumes_live_on_and_are_made_by_those_who_may() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::start(settings(dir.path())).await;
    let token = |role| {
        let wanted = ClientTokenRequest {
            name: "test".into(),
            roles: vec![role],
            project: None,
            ttl_seconds: None,
        };
        let made = api.request(Method::POST, "/v1/tokens").json(&wanted);
        async { ok::<ClientToken>(made).await.token.unwrap() }
    };
    let (reader, builder) = (token(Role::Read).await, token(Role::Build).await);
    let create = Create {
        name: "data".into(),
    };
    let expect = |status: u16, code: &str| Err((status, code.to_owned()));
    let refused = call(&api, "wrong", "CreateVolume", &create).await;
    assert_eq!(refused, expect(401, "unauthenticated"));
    let refused = call(&api, &reader, "CreateVolume", &create).await;
    assert_eq!(refused, expect(403, "permission_denied"));
    call(&api, &builder, "CreateVolume", &create).await.unwrap();
    let again = call(&api, &builder, "CreateVolume", &create).await;
    assert_eq!(again, expect(409, "already_exists"));
    let strange = call(&api, &builder, "AllocateInodeRange", &about("data")).await;
    assert_eq!(strange, expect(501, "unimplemented"));
    let before = call(&api, &reader, "GetVolume", &about("data"))
        .await
        .unwrap();
    let none = call(&api, &reader, "GetVolume", &about("none")).await;
    assert_eq!(none, expect(404, "not_found"));
    api.running.shutdown().await;

    let api = Api::start(settings(dir.path())).await;
    let after = call(&api, &reader, "GetVolume", &about("data"))
        .await
        .unwrap();
    assert_eq!(before, after);
    call(&api, &builder, "DeleteVolume", &about("data"))
        .await
        .unwrap();
    let gone = call(&api, &reader, "GetVolume", &about("data")).await;
    assert_eq!(gone, expect(404, "not_found"));
    api.running.shutdown().await;
}

#[tokio::test]
async fn an_address_takes_what_it_was_signed_for_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::start(settings(dir.path())).await;
    let token = api.running.token.clone();
    let create = Create {
        name: "data".into(),
    };
    call(&api, &token, "CreateVolume", &create).await.unwrap();
    let ask = || {
        let object = Object {
            key: "mine".into(),
            hash: HELLO.into(),
            size: 5,
        };
        let mut wanted = about("data");
        wanted.objects = vec![object];
        let (api, token) = (&api, &token);
        async move {
            let answer = call(api, token, "RequestUploadURLs", &wanted).await;
            Addresses::decode(&*answer.unwrap()).unwrap().urls.remove(0)
        }
    };
    let address = ask().await;
    assert_eq!((&*address.key, address.exists), ("mine", false));
    let base = format!("http://{}/v1/volume-objects/{HELLO}?", api.running.addr);
    assert!(address.url.starts_with(&base), "{}", address.url);
    let put = |url: &str, body: &'static [u8]| {
        let sent = api.http.put(url).body(body).send();
        async { sent.await.unwrap().status() }
    };
    for body in [b"hellx".as_slice(), b"hell", b""] {
        assert_eq!(put(&address.url, body).await, StatusCode::BAD_REQUEST);
    }
    let long = put(&address.url, b"hello!").await;
    assert_eq!(long, StatusCode::PAYLOAD_TOO_LARGE);
    let other = address.url.replace("size=5", "size=6");
    assert_eq!(put(&other, b"hello!").await, StatusCode::FORBIDDEN);
    let other = address.url.replace(HELLO, &"0".repeat(64));
    assert_eq!(put(&other, b"hello").await, StatusCode::FORBIDDEN);
    let (unsigned, _) = address.url.split_once("&signature=").unwrap();
    assert_eq!(put(unsigned, b"hello").await, StatusCode::UNAUTHORIZED);
    assert!(!ask().await.exists);
    assert_eq!(put(&address.url, b"hello").await, StatusCode::OK);
    assert!(ask().await.exists);
    api.running.shutdown().await;

    // The key of the signatures stays, and so does the object.
    let api = Api::start(settings(dir.path())).await;
    let again = address.url.replace(
        &base,
        &format!("http://{}/v1/volume-objects/{HELLO}?", api.running.addr),
    );
    let status = api
        .http
        .put(again)
        .body("hello")
        .send()
        .await
        .unwrap()
        .status();
    assert_eq!(status, StatusCode::OK);
    api.running.shutdown().await;
}
