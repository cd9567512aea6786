//! Who is let in.

use chalk_core::wire::problem;
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::service::{Api, settings};

#[tokio::test]
async fn every_route_but_health_needs_the_token() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.limits.failed_logins = 0;
    let api = Api::start(settings).await;
    let document: Value = api.get("/v1/openapi.json").await;
    let mut routes: Vec<(Method, String)> = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        let path = path
            .replace("{digest}", &format!("sha256:{}", "0".repeat(64)))
            .replace("{id}", "00000000")
            .replace("{name}", "x");
        for method in operations.as_object().unwrap().keys() {
            let method = method.to_uppercase().parse().unwrap();
            routes.push((method, path.clone()));
        }
    }
    assert!(routes.len() >= 19);
    for path in [
        "/v2/",
        "/v2",
        "/v2/app/manifests/latest",
        "/v1/none",
        "/none.html",
        "/metrics",
    ] {
        routes.push((Method::GET, path.to_owned()));
    }
    routes.push((Method::POST, "/v2/app/blobs/uploads/".to_owned()));
    // The login is in the form, and has a test of its own.
    routes.retain(|(method, path)| *method != Method::POST || path != "/v1/registry/token");
    for (method, path) in routes {
        let ask = || api.bare(method.clone(), &path);
        let status =
            |request: reqwest::RequestBuilder| async { request.send().await.unwrap().status() };
        if path == "/healthz" || path == "/readyz" {
            assert_eq!(status(ask()).await, StatusCode::OK, "{path}");
            continue;
        }
        let token = &api.running.token;
        for refused in [
            ask(),
            ask().bearer_auth(""),
            ask().bearer_auth("wrong"),
            ask().bearer_auth(&token[..token.len() - 1]),
            ask().bearer_auth(format!("{token}x")),
            ask().basic_auth("any", Some("wrong")),
        ] {
            let got = status(refused).await;
            assert_eq!(got, StatusCode::UNAUTHORIZED, "{method} {path}");
        }
        let bearer = status(ask().bearer_auth(token)).await;
        assert_ne!(bearer, StatusCode::UNAUTHORIZED, "{method} {path}");
        let basic = status(ask().basic_auth("any", Some(token))).await;
        let registry = path.starts_with("/v2") || path == "/v1/registry/token";
        assert_eq!(
            basic == StatusCode::UNAUTHORIZED,
            !registry,
            "{method} {path}"
        );
    }
    let refusal = api.problem(api.bare(Method::GET, "/v1/info")).await;
    assert_eq!(refusal.kind, problem::UNAUTHORIZED);
    let response = api.bare(Method::GET, "/v2/").send().await.unwrap();
    let challenges = response.headers().get_all("www-authenticate").iter();
    let challenges: Vec<&str> = challenges.map(|value| value.to_str().unwrap()).collect();
    assert!(challenges[0].starts_with("Bearer realm=\"http://"));
    assert_eq!(challenges[1..], ["Basic realm=\"chalk\""]);
    api.running.shutdown().await;
}

#[tokio::test]
async fn unknown_hosts_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.serve.hosts = vec!["chalk.example".into()];
    settings.serve.advertise = Some("builds.example:8080".into());
    let api = Api::start(settings).await;
    let check = async |host: &str, known: bool| {
        for path in ["/v1/info", "/healthz", "/v2/"] {
            let request = api.request(Method::GET, path).header("host", host);
            let status = request.send().await.unwrap().status();
            let refused = status == StatusCode::MISDIRECTED_REQUEST;
            assert_eq!(refused, !known, "{host} {path} {status}");
        }
    };
    check("127.0.0.1", true).await;
    check("localhost:1", true).await;
    check("chalk.example", true).await;
    check("builds.example:8080", true).await;
    check("evil.example", false).await;
    check("127.0.0.1.evil.example:7474", false).await;
    api.running.shutdown().await;
}
