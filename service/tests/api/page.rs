//! The page at `/`, asked for over a bare socket, since clients tidy up paths.

use std::fs;
use std::path::Path;

use chalk_service::{Service, StartError};
use reqwest::{Method, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::service::{Api, settings};

const SCRIPT: &str = "/assets/index-Dk3f_9aZ.js";

fn write_page(folder: &Path) {
    fs::create_dir_all(folder.join("assets")).unwrap();
    fs::write(folder.join("index.html"), "<p>the page</p>").unwrap();
    fs::write(folder.join("sandbox.html"), "<p>the sandbox</p>").unwrap();
    fs::write(folder.join(&SCRIPT[1..]), "1;\n".repeat(1000)).unwrap();
    fs::write(folder.join("assets/engine-Dk3f_9aZ.wasm"), "\0asm").unwrap();
}

/// Status, head and body of the answer to a request that is sent as it stands.
async fn raw(api: &Api, line: &str, headers: &str) -> (u16, String, String) {
    let mut socket = TcpStream::connect(api.running.addr).await.unwrap();
    let request = format!("{line} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_lowercase(), body.to_owned())
}

#[tokio::test]
async fn the_page_needs_no_token_and_leads_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("page");
    write_page(&folder);
    fs::write(dir.path().join("secret"), "secret").unwrap();
    let mut settings = settings(&dir.path().join("state"));
    settings.web.dir = Some(folder.clone());
    let api = Api::start(settings).await;
    let host = format!("Host: {}\r\n", api.running.addr);

    let (status, head, body) = raw(&api, "GET /", &host).await;
    assert_eq!((status, body.as_str()), (200, "<p>the page</p>"));
    assert!(head.contains("content-type: text/html; charset=utf-8"));
    assert!(head.contains("frame-ancestors 'none'"), "{head}");
    assert!(!head.contains("unsafe-inline"), "{head}");
    let (status, head, _) = raw(&api, "GET /sandbox.html", &host).await;
    assert_eq!(status, 200);
    assert!(head.contains("sandbox allow-scripts"), "{head}");
    let (status, head, _) = raw(&api, "GET /assets/engine-Dk3f_9aZ.wasm", &host).await;
    assert_eq!(status, 200);
    assert!(head.contains("content-type: application/wasm\r\n"));
    let gzip = format!("{host}Accept-Encoding: gzip\r\n");
    let (status, head, _) = raw(&api, &format!("GET {SCRIPT}?x"), &gzip).await;
    assert_eq!(status, 200);
    assert!(head.contains("content-encoding: gzip") && head.contains("immutable"));
    let (status, head, body) = raw(&api, &format!("HEAD {SCRIPT}"), &host).await;
    assert_eq!((status, body.as_str()), (200, ""));
    assert!(head.contains("content-length: 3000"), "{head}");

    // The frame's scripts come without an origin, links from elsewhere with a foreign one.
    for header in ["Origin: null", "Sec-Fetch-Site: cross-site"] {
        let (status, ..) = raw(&api, "GET /", &format!("{host}{header}\r\n")).await;
        assert_eq!(status, 200, "{header}");
    }
    let (status, ..) = raw(&api, "GET /", "Host: evil.example\r\n").await;
    assert_eq!(status, 421);
    let (status, ..) = raw(&api, "GET /", "").await;
    assert!(status == 400 || status == 421, "{status}");

    for path in [
        "/../secret",
        "/assets/../../secret",
        "/../etc/passwd",
        "//etc/passwd",
        "/..%2fsecret",
        "/%2e%2e/secret",
        "/%2e%2e%2fsecret",
        "/%252e%252e/secret",
        "/assets/%2e%2e/index.html",
        "/..%5csecret",
        "/%00",
        "/index.html%00",
        "/page/index.html",
        "/assets",
        "/assets/",
    ] {
        let (status, _, body) = raw(&api, &format!("GET {path}"), &host).await;
        assert_eq!(status, 401, "{path}");
        assert!(!body.contains("secret\n"), "{path}");
        let token = format!("{host}Authorization: Bearer {}\r\n", api.running.token);
        let (status, ..) = raw(&api, &format!("GET {path}"), &token).await;
        assert_eq!(status, 404, "{path}");
    }
    // Only to be read.
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let (status, ..) = raw(&api, &format!("{method} /"), &host).await;
        assert_eq!(status, 401, "{method}");
    }
    // What comes into the folder later is not part of the page.
    fs::write(folder.join("later.html"), "later").unwrap();
    let (status, ..) = raw(&api, "GET /later.html", &host).await;
    assert_eq!(status, 401);
    api.running.shutdown().await;
}

#[tokio::test]
async fn the_page_of_the_program_is_what_was_built() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::start(settings(dir.path())).await;
    let answer = api.bare(Method::GET, "/").send().await.unwrap();
    let (status, kind) = (answer.status(), answer.headers()["content-type"].clone());
    assert_eq!(kind, "text/html; charset=utf-8");
    let text = answer.text().await.unwrap();
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../web/dist/index.html");
    match fs::read_to_string(built) {
        Ok(expect) => assert_eq!((status, text), (StatusCode::OK, expect)),
        Err(_) => {
            assert_eq!(status, StatusCode::NOT_FOUND);
            assert!(text.contains("cargo xtask web"), "{text}");
        }
    }
    api.running.shutdown().await;
}

#[tokio::test]
async fn a_folder_without_a_page_keeps_the_service_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(&dir.path().join("state"));
    settings.web.dir = Some(dir.path().to_owned());
    let error = Service::start(settings).await.unwrap_err();
    assert!(matches!(error, StartError::Page(_)));
    let words = error.to_string();
    assert!(words.contains("holds no index.html") && words.contains("web.dir"));
}
