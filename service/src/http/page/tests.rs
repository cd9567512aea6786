use std::fs;
use std::io::Read as _;

use axum::http::HeaderMap;

use super::*;

/// A folder with a page in it.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("assets")).unwrap();
    let write = |path: &str, text: &str| fs::write(dir.path().join(path), text).unwrap();
    write("index.html", &format!("<p>{}</p>", "page ".repeat(200)));
    write("sandbox.html", "<p>sandbox</p>");
    write("with blank.txt", "é");
    write(".hidden", "no");
    write(
        "assets/index-Dk3f_9aZ.js",
        &"console.log('page');\n".repeat(100),
    );
    write("assets/engine-AAAAAAAA.wasm", "\0asm");
    write("assets/style-abcdefgh.css", "p{}");
    dir
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

async fn body(response: Response) -> Vec<u8> {
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await;
    bytes.unwrap().to_vec()
}

#[test]
fn only_files_of_the_page_are_found() {
    let dir = folder();
    let page = Page::read(dir.path()).unwrap();
    let check = |path: &str, expect: bool| {
        assert_eq!(page.has(&Method::GET, path), expect, "{path}");
        assert_eq!(page.has(&Method::HEAD, path), expect, "{path}");
        assert!(!page.has(&Method::POST, path), "{path}");
    };
    check("/", true);
    check("/index.html", true);
    check("/sandbox.html", true);
    check("/assets/index-Dk3f_9aZ.js", true);
    check("/with%20blank.txt", true);
    check("/%69ndex.html", true);
    for path in [
        "",
        "*",
        "//",
        "//index.html",
        "/./index.html",
        "/assets",
        "/assets/",
        "/.hidden",
        "/../etc/passwd",
        "/assets/../index.html",
        "/assets/..%2findex.html",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%5c..%5cetc%5cpasswd",
        "/%00",
        "/%ff",
        "/%",
        "/INDEX.HTML",
        "/index.html/",
        "/index.html%00.js",
    ] {
        check(path, false);
    }
}

#[tokio::test]
async fn answers() {
    let dir = folder();
    let page = Page::read(dir.path()).unwrap();
    let ask = |method: Method, path: &str, sent: &[(&'static str, &str)]| {
        page.answer(&method, path, &headers(sent)).unwrap()
    };
    let check = |path: &str, media_type: &str, caching: &str| {
        let answer = ask(Method::GET, path, &[]);
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], media_type, "{path}");
        assert_eq!(answer.headers()["cache-control"], caching, "{path}");
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
        assert_eq!(answer.headers()["referrer-policy"], "no-referrer");
    };
    let forever = "public, max-age=31536000, immutable";
    check("/", "text/html; charset=utf-8", "no-cache");
    let script = "/assets/index-Dk3f_9aZ.js";
    check(script, "text/javascript; charset=utf-8", forever);
    check("/assets/engine-AAAAAAAA.wasm", "application/wasm", forever);
    // The end of that name could be a word.
    let style = "/assets/style-abcdefgh.css";
    check(style, "text/css; charset=utf-8", "no-cache");

    let plain = ask(Method::GET, script, &[]);
    let tag = plain.headers()["etag"].to_str().unwrap().to_owned();
    let contents = body(plain).await;
    let compressed = ask(Method::GET, script, &[("accept-encoding", "br, gzip")]);
    assert_eq!(compressed.headers()["content-encoding"], "gzip");
    assert_eq!(compressed.headers()["vary"], "accept-encoding");
    assert_ne!(compressed.headers()["etag"], tag);
    let length = compressed.headers()["content-length"].clone();
    let bytes = body(compressed).await;
    assert_eq!(length, bytes.len().to_string().as_str());
    let mut unpacked = Vec::new();
    let mut decoder = flate2::read::GzDecoder::new(bytes.as_slice());
    decoder.read_to_end(&mut unpacked).unwrap();
    assert_eq!(unpacked, contents);

    let head = ask(Method::HEAD, script, &[("accept-encoding", "gzip")]);
    assert_eq!(head.headers()["content-length"], length);
    assert_eq!(body(head).await, b"");

    for sent in [
        tag.as_str(),
        "*",
        &format!("W/{tag}"),
        &format!("\"x\", {tag}"),
    ] {
        let known = ask(Method::GET, script, &[("if-none-match", sent)]);
        assert_eq!(known.status(), StatusCode::NOT_MODIFIED, "{sent}");
        assert_eq!(known.headers()["etag"], tag);
        assert_eq!(body(known).await, b"");
    }
    let other = ask(Method::GET, script, &[("if-none-match", "\"x\"")]);
    assert_eq!(other.status(), 200);

    let sandbox = ask(Method::GET, "/sandbox.html", &[]);
    assert_eq!(sandbox.headers()["content-security-policy"], SANDBOX_POLICY);
    let page = ask(Method::GET, "/", &[]);
    assert_eq!(page.headers()["content-security-policy"], PAGE_POLICY);
}

#[test]
fn accepted_codings() {
    let check = |value: &str, expect: bool| {
        let headers = headers(&[("accept-encoding", value)]);
        assert_eq!(takes_gzip(&headers), expect, "{value}");
    };
    check("gzip", true);
    check("deflate, gzip;q=0.5", true);
    check("GZIP", true);
    check("*", true);
    check("*;q=0, gzip", true);
    check("gzip;q=0, *", false);
    check("gzip; q=0.0", false);
    check("br", false);
    check("gzipped", false);
    check("", false);
    assert!(!takes_gzip(&HeaderMap::new()));
}

#[tokio::test]
async fn a_program_without_the_page_says_how_to_get_it() {
    let page = Page::absent();
    let answer = page.answer(&Method::GET, "/", &HeaderMap::new()).unwrap();
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    assert_eq!(answer.headers()["cache-control"], "no-store");
    let text = String::from_utf8(body(answer).await).unwrap();
    assert!(text.contains("cargo xtask web"), "{text}");
    assert!(!page.has(&Method::GET, "/sandbox.html"));
}

#[test]
fn folders_that_are_not_served() {
    let dir = folder();
    let root = dir.path();
    let check = |expect: &str| {
        let error = Page::read(root).unwrap_err().to_string();
        assert!(error.ends_with(expect), "{error}");
    };
    // A link that stays inside is as good as a file.
    std::os::unix::fs::symlink("index.html", root.join("again.html")).unwrap();
    assert!(Page::read(root).unwrap().has(&Method::GET, "/again.html"));
    std::os::unix::fs::symlink("/etc/passwd", root.join("passwd")).unwrap();
    check("passwd leads out of the folder");
    fs::remove_file(root.join("passwd")).unwrap();
    std::os::unix::fs::symlink(".", root.join("circle")).unwrap();
    check("it must hold the built page and nothing else");
    fs::remove_file(root.join("circle")).unwrap();
    fs::remove_file(root.join("again.html")).unwrap();
    fs::remove_file(root.join("index.html")).unwrap();
    check("holds no index.html");
    let absent = Page::read(&root.join("absent")).unwrap_err().to_string();
    assert!(absent.contains("absent: No such file"), "{absent}");
}
