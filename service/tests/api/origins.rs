//! Web pages of other origins.

use chalk_core::wire::problem;
use chalk_service::settings::AllowedOrigin;
use reqwest::{Method, RequestBuilder, Response, StatusCode};

use crate::service::{Api, settings};

const PAGE: &str = "https://page.example";

async fn start(dir: &std::path::Path, origins: &[&str]) -> Api {
    let mut settings = settings(dir);
    let allowed = origins.iter().map(|text| (*text).to_owned().try_into());
    settings.serve.cors_origins = allowed.collect::<Result<Vec<AllowedOrigin>, _>>().unwrap();
    Api::start(settings).await
}

async fn send(request: RequestBuilder) -> Response {
    request.send().await.unwrap()
}

fn preflight(api: &Api, origin: &str) -> RequestBuilder {
    api.bare(Method::OPTIONS, "/v1/builds")
        .header("origin", origin)
        .header("access-control-request-method", "POST")
        .header(
            "access-control-request-headers",
            "authorization,content-type",
        )
}

/// Names of the headers that let a page read an answer.
fn cors_headers(response: &Response) -> Vec<&str> {
    let names = response
        .headers()
        .keys()
        .map(reqwest::header::HeaderName::as_str);
    names
        .filter(|name| name.starts_with("access-control"))
        .collect()
}

#[tokio::test]
async fn pages_of_others_are_refused_even_with_the_token() {
    let dir = tempfile::tempdir().unwrap();
    let api = start(dir.path(), &[]).await;
    let own = format!("http://{}", api.running.addr);
    let check = async |header: &str, value: &str, passes: bool| {
        for path in ["/v1/info", "/v2/", "/healthz", "/v1/none"] {
            let asked = api.request(Method::GET, path).header(header, value);
            let response = send(asked).await;
            let refused = response.status() == StatusCode::FORBIDDEN;
            assert_eq!(refused, !passes, "{header}: {value} {path}");
            assert_eq!(cors_headers(&response), [""; 0]);
        }
    };
    check("origin", &own, true).await;
    check("sec-fetch-site", "same-origin", true).await;
    check("sec-fetch-site", "none", true).await;
    check("sec-fetch-site", "cross-site", false).await;
    check("sec-fetch-site", "same-site", false).await;
    check("origin", "null", false).await;
    check("origin", "http://evil.example", false).await;
    check("origin", "http://127.0.0.1:1", false).await;
    check("origin", &format!("{own}.evil.example"), false).await;
    check("origin", PAGE, false).await;

    let asked = api.request(Method::GET, "/v1/info").header("origin", PAGE);
    let refusal = api.problem(asked).await;
    assert_eq!(refusal.kind, problem::FOREIGN_ORIGIN);
    assert!(refusal.detail.contains(PAGE), "{refusal:?}");
    assert!(refusal.hint.contains("serve.cors_origins"), "{refusal:?}");
    let asked = send(preflight(&api, PAGE)).await;
    assert_eq!(asked.status(), StatusCode::FORBIDDEN);
    assert_eq!(cors_headers(&asked), [""; 0]);
    // A page that does not ask first: plain text needs no preflight.
    let sent = api
        .request(Method::POST, "/v1/builds")
        .header("origin", PAGE);
    let sent = send(sent.header("content-type", "text/plain").body("{}")).await;
    assert_eq!(sent.status(), StatusCode::FORBIDDEN);
    api.running.shutdown().await;
}

#[tokio::test]
async fn ipv6_addresses_are_origins_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.serve.listen = "[::1]:0".parse().unwrap();
    let api = Api::start(settings).await;
    assert!(api.running.url.starts_with("http://[::1]:"));
    let check = async |origin: &str, expect: u16| {
        let asked = api
            .request(Method::GET, "/v1/info")
            .header("origin", origin);
        assert_eq!(send(asked).await.status(), expect, "{origin}");
    };
    check(&api.running.url, 200).await;
    check("http://[::1]:1", 403).await;
    let port = api.running.addr.port();
    check(&format!("http://[::2]:{port}"), 403).await;
    check(&format!("http://localhost:{port}"), 403).await;
    api.running.shutdown().await;
}

#[tokio::test]
async fn pages_that_are_let_in() {
    let dir = tempfile::tempdir().unwrap();
    let api = start(dir.path(), &[PAGE, "http://localhost:5173"]).await;
    for origin in [PAGE, "http://localhost:5173"] {
        let asked = send(preflight(&api, origin)).await;
        assert!(asked.status().is_success(), "{origin}");
        let header = |name: &str| asked.headers()[name].to_str().unwrap().to_lowercase();
        assert_eq!(header("access-control-allow-origin"), origin);
        assert!(header("vary").contains("origin"));
        for method in ["get", "post", "put", "delete"] {
            assert!(header("access-control-allow-methods").contains(method));
        }
        for name in ["authorization", "content-type", "last-event-id"] {
            assert!(header("access-control-allow-headers").contains(name));
        }
        assert_eq!(header("access-control-max-age"), "600");

        let answer = api
            .request(Method::GET, "/v1/info")
            .header("origin", origin);
        let answer = send(answer.header("sec-fetch-site", "cross-site")).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["access-control-allow-origin"], origin);
        let exposed = answer.headers()["access-control-expose-headers"].to_str();
        assert!(exposed.unwrap().contains("retry-after"));
        // The page must be able to read why it was refused.
        let refused = api.bare(Method::GET, "/v1/info").header("origin", origin);
        let refused = send(refused).await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(refused.headers()["access-control-allow-origin"], origin);
    }
    let private = preflight(&api, PAGE).header("access-control-request-private-network", "true");
    let private = send(private).await;
    assert_eq!(
        private.headers()["access-control-allow-private-network"],
        "true"
    );

    for other in [
        "null",
        "http://page.example",
        "https://page.example.evil.example",
    ] {
        let asked = send(preflight(&api, other)).await;
        assert_eq!(asked.status(), StatusCode::FORBIDDEN, "{other}");
        assert_eq!(cors_headers(&asked), [""; 0]);
        let asked = api.request(Method::GET, "/v1/info").header("origin", other);
        assert_eq!(send(asked).await.status(), StatusCode::FORBIDDEN, "{other}");
    }
    // A browser asks before a page of a rebound name, too.
    let rebound = preflight(&api, PAGE).header("host", "evil.example");
    assert_eq!(
        send(rebound).await.status(),
        StatusCode::MISDIRECTED_REQUEST
    );
    // Clients without an origin go on as before.
    let answer = send(api.request(Method::GET, "/v1/info")).await;
    assert_eq!(answer.status(), StatusCode::OK);
    api.running.shutdown().await;
}

#[tokio::test]
async fn pages_from_anywhere_still_need_the_token() {
    let dir = tempfile::tempdir().unwrap();
    let api = start(dir.path(), &["*"]).await;
    for origin in ["null", "http://any.example"] {
        let asked = api
            .request(Method::GET, "/v1/info")
            .header("origin", origin);
        let asked = send(asked).await;
        assert_eq!(asked.status(), StatusCode::OK);
        assert_eq!(asked.headers()["access-control-allow-origin"], origin);
        let bare = send(api.bare(Method::GET, "/v1/info").header("origin", origin)).await;
        assert_eq!(bare.status(), StatusCode::UNAUTHORIZED);
    }
    api.running.shutdown().await;
}
