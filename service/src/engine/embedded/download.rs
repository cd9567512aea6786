//! Files from the network (`ADD https://…`).

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chalk_core::Digest;
use chalk_core::lower::Download;
use futures_util::StreamExt as _;
use reqwest::header::LAST_MODIFIED;
use sha2::{Digest as _, Sha256};

use super::surroundings::Surroundings;

/// Largest file that is downloaded, in bytes.
const LIMIT: u64 = 16 << 30;
/// Time without a byte after which a transfer has failed.
const IDLE: Duration = Duration::from_secs(60);
/// Tries in all.
const ATTEMPTS: u32 = 3;

/// A file that was downloaded.
#[derive(Debug)]
pub(in crate::engine) struct Fetched {
    /// Where it is.
    pub(in crate::engine) path: PathBuf,
    /// When the server says that it was changed, in seconds since 1970.
    pub(in crate::engine) modified: Option<i64>,
}

/// Why a try failed, and whether another one may help.
struct Failure {
    why: String,
    may_pass: bool,
}

/// Downloads a file into the directory `into`.
///
/// # Errors
/// What went wrong, in words without the address, which may hold a password.
pub(in crate::engine) async fn fetch(
    download: &Download,
    into: &Path,
    around: &Surroundings,
) -> Result<Fetched, String> {
    let client = client(around)?;
    let path = into.join("file");
    let mut attempt = 1;
    loop {
        match fetch_once(&client, download, &path).await {
            Ok(modified) => return Ok(Fetched { path, modified }),
            Err(failure) if failure.may_pass && attempt < ATTEMPTS => {
                tokio::time::sleep(Duration::from_secs(1) * attempt).await;
                attempt += 1;
            }
            Err(failure) => return Err(failure.why),
        }
    }
}

fn client(around: &Surroundings) -> Result<reqwest::Client, String> {
    let words = |error: reqwest::Error| describe(error).why;
    let mut builder = reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(15))
        .read_timeout(IDLE)
        // The file is to be as the server has it.
        .redirect(reqwest::redirect::Policy::limited(10));
    if let Some(bundle) = &around.ca_bundle {
        let pem = std::fs::read(bundle).map_err(|e| format!("{}: {e}", bundle.display()))?;
        let authorities = reqwest::Certificate::from_pem_bundle(&pem).map_err(words)?;
        builder = builder.tls_certs_merge(authorities);
    }
    let proxy = |name: &str| {
        around
            .proxies
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v)
    };
    let no_proxy = proxy("no_proxy").and_then(|list| reqwest::NoProxy::from_string(list));
    if let Some(url) = proxy("http_proxy") {
        let proxy = reqwest::Proxy::http(url).map_err(words)?;
        builder = builder.proxy(proxy.no_proxy(no_proxy.clone()));
    }
    if let Some(url) = proxy("https_proxy") {
        let proxy = reqwest::Proxy::https(url).map_err(words)?;
        builder = builder.proxy(proxy.no_proxy(no_proxy));
    }
    builder.build().map_err(words)
}

async fn fetch_once(
    client: &reqwest::Client,
    download: &Download,
    path: &Path,
) -> Result<Option<i64>, Failure> {
    let disk = |error: std::io::Error| Failure {
        why: error.to_string(),
        may_pass: false,
    };
    let response = client.get(&download.url).send().await.map_err(describe)?;
    let response = response.error_for_status().map_err(describe)?;
    let modified = response
        .headers()
        .get(LAST_MODIFIED)
        .and_then(|value| value.to_str().ok())
        .and_then(seconds);
    let mut file = File::create(path).map_err(disk)?;
    let (mut hasher, mut size) = (Sha256::new(), 0_u64);
    let mut stream = response.bytes_stream();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(describe)?;
        size += chunk.len() as u64;
        if size > LIMIT {
            return Err(Failure {
                why: format!("it is larger than {LIMIT} bytes"),
                may_pass: false,
            });
        }
        hasher.update(&chunk);
        file.write_all(&chunk).map_err(disk)?;
    }
    let actual = Digest::from_bytes(hasher.finalize().into());
    match download.checksum {
        Some(expected) if expected != actual => Err(Failure {
            why: format!("its digest is {actual}, but `--checksum` expects {expected}"),
            may_pass: false,
        }),
        _ => Ok(modified),
    }
}

/// `Last-Modified` (RFC 9110, section 5.6.7) as seconds since 1970.
fn seconds(date: &str) -> Option<i64> {
    let date = jiff::fmt::rfc2822::parse(date).ok()?;
    Some(date.timestamp().as_second())
}

fn describe(error: reqwest::Error) -> Failure {
    let may_pass = match error.status() {
        Some(status) => status.is_server_error() || status.as_u16() == 429,
        None => !error.is_builder() && !error.is_redirect(),
    };
    let error = error.without_url();
    let mut why = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        why = format!("{why}: {inner}");
        cause = inner.source();
    }
    Failure { why, may_pass }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    /// Serves `answers`, one for each connection, and gives the address.
    fn serve(answers: Vec<&'static str>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/f", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 4096]).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        url
    }

    async fn check(
        answers: Vec<&'static str>,
        checksum: Option<Digest>,
        expect: Result<&str, &str>,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let download = Download {
            url: serve(answers),
            file_name: "f".into(),
            dest: "/f".into(),
            checksum,
            chown: None,
            chmod: None,
            unpack: false,
        };
        match (
            fetch(&download, dir.path(), &Surroundings::default()).await,
            expect,
        ) {
            (Ok(fetched), Ok(text)) => {
                assert_eq!(std::fs::read_to_string(fetched.path).unwrap(), text);
                assert_eq!(fetched.modified, Some(784_111_777));
            }
            (Err(why), Err(expect)) => assert!(why.contains(expect), "{why}"),
            (got, expect) => panic!("{got:?}, not {expect:?}"),
        }
    }

    const GOOD: &str = "HTTP/1.1 200 OK\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi";

    #[tokio::test]
    async fn downloads() {
        check(vec![GOOD], None, Ok("hi")).await;
        check(vec![GOOD], Some(Digest::of(b"hi")), Ok("hi")).await;
        check(vec![GOOD], Some(Digest::of(b"ho")), Err("--checksum")).await;
        let gone = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        check(vec![gone], None, Err("404")).await;
        let busy = "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        check(vec![busy, GOOD], None, Ok("hi")).await;
        let cut = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nhi";
        check(vec![cut, GOOD], None, Ok("hi")).await;
    }
}
