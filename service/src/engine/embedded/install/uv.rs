//! The uv that the builder brings along: one pinned version from its wheel on PyPI, fetched once
//! into the state directory and mounted read-only into steps.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chalk_core::Digest;
use futures_util::StreamExt as _;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;

const VERSION: &str = "0.13.9";

/// Wheels of [`VERSION`] with a statically linked uv, which runs in every image: architecture
/// (`GOARCH`), file name, SHA-256.
const WHEELS: &[(&str, &str, &str)] = &[
    (
        "amd64",
        "uv-0.13.9-py3-none-musllinux_1_1_x86_64.whl",
        "2c45530751517d6c3bbc69a19473f6effe47cce047bede01ffd8af7ea7b36b25",
    ),
    (
        "arm64",
        "uv-0.13.9-py3-none-manylinux_2_17_aarch64.manylinux2014_aarch64.musllinux_1_1_aarch64.whl",
        "5435c5ce14a56431208ca0996416d310f1598e8c2c8ba707688985a16bb82dbe",
    ),
];

const MAX_WHEEL: u64 = 64 << 20;
const MAX_PROGRAM: u64 = 256 << 20;
const MAX_INDEX: usize = 64 << 20;
/// For how long a failed fetch is not tried again, so that builds do not wait for it each time.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// Gives the directory that holds the program `uv`.
#[derive(Debug)]
pub(in crate::engine) struct UvTool {
    dir: PathBuf,
    /// PEP 503 index, without a slash at the end.
    index: String,
    ca_bundle: Option<PathBuf>,
    failed: Mutex<Option<(Instant, String)>>,
}

impl UvTool {
    /// Keeps programs below `dir` and fetches them from `index` (pip's index, a "simple" URL).
    pub(in crate::engine) fn new(dir: PathBuf, index: &str, ca_bundle: Option<PathBuf>) -> Self {
        Self {
            dir,
            index: index.trim_end_matches('/').to_owned(),
            ca_bundle,
            failed: Mutex::new(None),
        }
    }

    /// Directory with the program `uv` for an architecture; fetched when it is not there yet.
    ///
    /// # Errors
    /// Why there is none; in words.
    pub(in crate::engine) async fn ensure(&self, architecture: &str) -> Result<PathBuf, String> {
        let Some((_, name, sha256)) = WHEELS.iter().find(|(arch, ..)| *arch == architecture) else {
            return Err(format!("there is none for {architecture}"));
        };
        let target = self.dir.join(format!("uv-{VERSION}-{architecture}"));
        // Holding the lock makes builds that need it at once share one fetch.
        let mut failed = self.failed.lock().await;
        if target.join("uv").is_file() {
            return Ok(target);
        }
        if let Some((when, why)) = failed.as_ref()
            && when.elapsed() < RETRY_AFTER
        {
            return Err(why.clone());
        }
        match self.fetch(name, sha256, &target).await {
            Ok(()) => {
                *failed = None;
                Ok(target)
            }
            Err(why) => {
                let why = format!("cannot fetch {name}: {why}");
                tracing::warn!(%why, "no uv, pip will be used");
                *failed = Some((Instant::now(), why.clone()));
                Err(why)
            }
        }
    }

    async fn fetch(&self, name: &str, sha256: &str, target: &Path) -> Result<(), String> {
        let client = self.client()?;
        let url = self.locate(&client, name).await?;
        let expected: Digest = format!("sha256:{sha256}")
            .parse()
            .map_err(|e| format!("{e}"))?;
        let blocking = |e: io::Error| e.to_string();
        fs::create_dir_all(&self.dir).map_err(blocking)?;
        let mut wheel = tempfile::tempfile_in(&self.dir).map_err(blocking)?;
        let response = client.get(url.clone()).send().await.map_err(reason)?;
        let response = response.error_for_status().map_err(reason)?;
        let mut stream = response.bytes_stream();
        let (mut hasher, mut size) = (Sha256::new(), 0);
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(reason)?;
            size += chunk.len() as u64;
            if size > MAX_WHEEL {
                return Err(format!("{url} is larger than {MAX_WHEEL} bytes"));
            }
            hasher.update(&chunk);
            wheel.write_all(&chunk).map_err(blocking)?;
        }
        let actual = Digest::from_bytes(hasher.finalize().into());
        if actual != expected {
            return Err(format!("{url} has digest {actual}, not {expected}"));
        }
        let (dir, target) = (self.dir.clone(), target.to_owned());
        tokio::task::spawn_blocking(move || unpack(wheel, &dir, &target))
            .await
            .map_err(|e| e.to_string())?
    }

    /// Finds the wheel's address in the index (PEP 503, PEP 691).
    async fn locate(&self, client: &reqwest::Client, name: &str) -> Result<reqwest::Url, String> {
        let page = format!("{}/uv/", self.index);
        let response = client
            .get(&page)
            .header(
                ACCEPT,
                "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1",
            )
            .send()
            .await
            .map_err(reason)?
            .error_for_status()
            .map_err(reason)?;
        let base = response.url().clone();
        let json = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|v| v.to_str().ok())
            .is_some_and(|kind| kind.contains("json"));
        let mut body = Vec::new();
        let mut stream = response.bytes_stream();
        while let Some(chunk) = stream.next().await {
            body.extend_from_slice(&chunk.map_err(reason)?);
            if body.len() > MAX_INDEX {
                return Err(format!("{page} is larger than {MAX_INDEX} bytes"));
            }
        }
        let found = if json {
            link_in_json(&body, name)
        } else {
            link_in_html(&String::from_utf8_lossy(&body), name)
        };
        let link = found.ok_or_else(|| format!("{page} does not list it"))?;
        base.join(&link).map_err(|e| format!("{page}: {e}"))
    }

    fn client(&self) -> Result<reqwest::Client, String> {
        let mut builder = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(Duration::from_secs(30))
            .timeout(Duration::from_secs(300));
        if let Some(bundle) = &self.ca_bundle {
            let pem = fs::read(bundle).map_err(|e| format!("{}: {e}", bundle.display()))?;
            let authorities = reqwest::Certificate::from_pem_bundle(&pem).map_err(reason)?;
            builder = builder.tls_certs_merge(authorities);
        }
        builder.build().map_err(reason)
    }
}

/// What went wrong, with its causes.
fn reason(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

fn link_in_json(body: &[u8], name: &str) -> Option<String> {
    let page: serde_json::Value = serde_json::from_slice(body).ok()?;
    let file = page["files"]
        .as_array()?
        .iter()
        .find(|f| f["filename"] == name)?;
    Some(file["url"].as_str()?.to_owned())
}

fn link_in_html(body: &str, name: &str) -> Option<String> {
    body.split("href=").skip(1).find_map(|rest| {
        let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        let link = rest[1..].split(quote).next()?.replace("&amp;", "&");
        let path = link.split(['#', '?']).next()?;
        (path.rsplit('/').next() == Some(name)).then_some(link)
    })
}

/// Takes `uv` out of its wheel; the directory `target` appears when the program in it is whole.
fn unpack(wheel: File, dir: &Path, target: &Path) -> Result<(), String> {
    let work = tempfile::tempdir_in(dir).map_err(|e| e.to_string())?;
    let path = work.path().join("uv");
    let mut archive = zip::ZipArchive::new(wheel).map_err(|e| e.to_string())?;
    let entry = archive
        .by_name(&format!("uv-{VERSION}.data/scripts/uv"))
        .map_err(|e| e.to_string())?;
    let write = || -> io::Result<u64> {
        let mut out = File::create_new(&path)?;
        let size = io::copy(&mut entry.take(MAX_PROGRAM + 1), &mut out)?;
        out.set_permissions(fs::Permissions::from_mode(0o755))?;
        out.sync_all()?;
        Ok(size)
    };
    if write().map_err(|e| e.to_string())? > MAX_PROGRAM {
        return Err(format!("its program is larger than {MAX_PROGRAM} bytes"));
    }
    // Steps run as any user; they must be able to walk in.
    fs::set_permissions(work.path(), fs::Permissions::from_mode(0o755))
        .map_err(|e| e.to_string())?;
    fs::rename(work.path(), target).map_err(|e| e.to_string())?;
    let _ = work.keep();
    File::open(dir)
        .and_then(|d| d.sync_all())
        .map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_links() {
        let name = "uv-1-py3.whl";
        let check = |html: &str, expect: Option<&str>| {
            assert_eq!(link_in_html(html, name).as_deref(), expect);
        };
        check(
            r#"<a href="../../f/uv-0-py3.whl#sha256=1">x</a><a href='../../f/uv-1-py3.whl#sha256=2'>"#,
            Some("../../f/uv-1-py3.whl#sha256=2"),
        );
        check(r#"<a href="https://h/xuv-1-py3.whl">"#, None);
        check("", None);
        let json = br#"{"files":[{"filename":"uv-1-py3.whl","url":"https://h/f"}]}"#;
        assert_eq!(link_in_json(json, name).as_deref(), Some("https://h/f"));
        assert_eq!(link_in_json(json, "other"), None);
    }

    #[tokio::test]
    async fn says_why_there_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let tool = UvTool::new(dir.path().into(), "http://127.0.0.1:1/simple/", None);
        assert!(
            tool.ensure("mips")
                .await
                .unwrap_err()
                .contains("none for mips")
        );
        let why = tool.ensure("amd64").await.unwrap_err();
        assert!(why.contains("cannot fetch uv-"), "{why}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
