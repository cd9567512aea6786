//! Listings that come in pages, and what registries list that is not ours.

use chalk_core::Reference;
use chalk_store::registry::RegistryError;
use serde_json::json;

use crate::fixture::{Fake, OCI_INDEX, OCI_MANIFEST, answer, client, digest};

fn at(fake: &Fake) -> Reference {
    format!("{}/app:v1", fake.addr).parse().unwrap()
}

#[tokio::test]
async fn pages_are_read_to_the_end() {
    let fake = Fake::start(|parts, _, _| {
        let query = parts.uri.query().unwrap_or_default();
        let last = query
            .split("last=")
            .nth(1)
            .and_then(|last| last.parse().ok());
        let number = last.unwrap_or(0) + 1;
        let link = format!("</v2/app/tags/list?last={number}>; rel=\"next\"");
        let link = [("link", link.as_str())];
        let headers: &[(&str, &str)] = if number < 3 { &link } else { &[] };
        answer(200, headers, format!(r#"{{"tags":["v{number}"]}}"#))
    })
    .await;
    let tags = client().tags(&at(&fake)).await.unwrap();
    assert_eq!(tags, ["v1", "v2", "v3"]);
}

/// Whoever took the first page for all would take what is on the others for gone.
#[tokio::test]
async fn a_page_elsewhere_is_an_error() {
    let check = async |link: &'static str| {
        let fake = Fake::start(move |_, _, _| {
            answer(200, &[("link", link)], r#"{"tags":["v1"],"manifests":[]}"#)
        })
        .await;
        let error = client().tags(&at(&fake)).await.unwrap_err();
        assert!(matches!(error, RegistryError::Protocol { .. }), "{error:?}");
        assert!(!error.to_string().contains("key"), "{error}");
        let subject = digest(b"subject");
        let found = client().referrers(&at(&fake), &subject, None).await;
        assert!(found.is_err(), "{found:?}");
    };
    check("<http://other.example/v2/app/tags/list?last=v1&key=1>; rel=next").await;
    check("<http://127.0.0.1:1/v2/app/tags/list?last=v1>; rel=next").await;
    check("<https://127.0.0.1/v2/app/tags/list?last=v1>; rel=next").await;
    check("<http://[>; rel=next").await;
}

#[tokio::test]
async fn endless_listings_are_an_error() {
    let fake = Fake::start(|parts, _, _| {
        let query = parts.uri.query().unwrap_or_default();
        let next = query.len() + 1;
        let link = format!(
            "</v2/app/tags/list?{}>; rel=\"next\"",
            "x".repeat(next % 4000)
        );
        answer(200, &[("link", &link)], r#"{"tags":["v"]}"#)
    })
    .await;
    let error = client().tags(&at(&fake)).await.unwrap_err();
    assert!(error.to_string().contains("1000 pages"), "{error}");
    assert_eq!(fake.log().len(), 1000);
}

#[tokio::test]
async fn odd_referrers_are_passed_over() {
    let subject = digest(b"subject");
    let entry = |digest: &str, more: &str| {
        format!(r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{digest}","size":7{more}}}"#)
    };
    let ours = digest(b"ours");
    let sha512 = format!("sha512:{}", "0".repeat(128));
    let listed = [
        entry(&sha512, ""),
        entry(
            &ours.to_string(),
            r#","artifactType":null,"annotations":null"#,
        ),
        entry("nonsense", ""),
        entry(&digest(b"numbers").to_string(), r#","annotations":{"a":1}"#),
        "7".to_owned(),
        "null".to_owned(),
        "{}".to_owned(),
    ];
    let index = |manifests: &str| {
        format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":{manifests}}}"#)
    };
    let check = async |body: String, api: bool, expect: &[chalk_core::Digest]| {
        let served = body.clone();
        let fake =
            Fake::start(
                move |parts, _, _| match parts.uri.path().contains("/referrers/") == api {
                    true => answer(200, &[("content-type", OCI_INDEX)], served.clone()),
                    false => answer(404, &[], ""),
                },
            )
            .await;
        let found = client().referrers(&at(&fake), &subject, None).await;
        let found: Vec<_> = found.unwrap().into_iter().map(|one| one.digest).collect();
        assert_eq!(found, expect, "{body}");
    };
    for api in [true, false] {
        check(index(&format!("[{}]", listed.join(","))), api, &[ours]).await;
        check(index("null"), api, &[]).await;
        let bare = json!({"schemaVersion": 2, "mediaType": OCI_INDEX});
        check(bare.to_string(), api, &[]).await;
    }
}
