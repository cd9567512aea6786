//! `sandbox cp`: a file into or out of a sandbox.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chalk_core::wire::{FileWritten, exit};
use serde_json::json;

use crate::client::{file_body, segment};
use crate::connect::Server;
use crate::error::Failure;
use crate::output;

/// Standard input or output.
const STREAM: &str = "-";

/// One end of a copy.
#[derive(Debug, PartialEq, Eq)]
enum End<'a> {
    Stream,
    Local(&'a Path),
    Inside { sandbox: &'a str, path: &'a str },
}

impl<'a> End<'a> {
    /// As `docker cp` reads it: what has a slash before its first colon is a local path.
    fn parse(text: &'a str) -> End<'a> {
        match text.split_once(':') {
            _ if text == STREAM => End::Stream,
            Some((sandbox, path)) if !sandbox.is_empty() && !sandbox.contains(['/', '.']) => {
                End::Inside { sandbox, path }
            }
            _ => End::Local(Path::new(text)),
        }
    }
}

pub(super) async fn copy(
    server: &Server,
    from: &str,
    to: &str,
    as_json: bool,
) -> Result<(), Failure> {
    match (End::parse(from), End::parse(to)) {
        (End::Inside { sandbox, path }, End::Local(file)) => {
            let bytes = download(server, sandbox, path, file).await?;
            tell(bytes, as_json)
        }
        (End::Inside { sandbox, path }, End::Stream) => {
            let mut out = std::io::stdout();
            fetch(server, sandbox, path, &mut out).await.map(drop)
        }
        (End::Local(file), End::Inside { sandbox, path }) => {
            let bytes = upload(server, file, sandbox, path).await?;
            tell(bytes, as_json)
        }
        (End::Stream, End::Inside { sandbox, path }) => {
            let input = tokio_util::io::ReaderStream::new(tokio::io::stdin());
            let body = reqwest::Body::wrap_stream(input);
            tell(send(server, sandbox, path, None, body).await?, as_json)
        }
        _ => Err(
            Failure::usage("one of the two must be a file of a sandbox, the other one here")
                .hint("write SANDBOX:PATH for the one inside"),
        ),
    }
}

fn tell(bytes: u64, as_json: bool) -> Result<(), Failure> {
    if as_json {
        return output::json(&json!({ "bytes": bytes }));
    }
    Ok(())
}

fn address(sandbox: &str, path: &str) -> String {
    format!(
        "/v1/sandboxes/{}/files?path={}",
        segment(sandbox),
        segment(path)
    )
}

async fn upload(server: &Server, file: &Path, sandbox: &str, path: &str) -> Result<u64, Failure> {
    let unreadable = |error: std::io::Error| {
        Failure::usage(format!("cannot read {}", file.display())).why(error)
    };
    let mode = mode(&std::fs::metadata(file).map_err(unreadable)?);
    let (_, body) = file_body(file, Arc::default()).await.map_err(unreadable)?;
    let mut path = path.to_owned();
    if (path.is_empty() || path.ends_with('/'))
        && let Some(name) = file.file_name().and_then(|name| name.to_str())
    {
        path.push_str(name);
    }
    send(server, sandbox, &path, mode, body).await
}

async fn send(
    server: &Server,
    sandbox: &str,
    path: &str,
    mode: Option<u32>,
    body: reqwest::Body,
) -> Result<u64, Failure> {
    let mut address = address(sandbox, path);
    if let Some(mode) = mode {
        address.push_str(&format!("&mode={mode:o}"));
    }
    let written: FileWritten = server.client().put_stream(&address, body).await?;
    Ok(written.bytes)
}

#[cfg(unix)]
fn mode(metadata: &std::fs::Metadata) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt as _;
    Some(metadata.permissions().mode() & 0o777)
}

#[cfg(not(unix))]
fn mode(_: &std::fs::Metadata) -> Option<u32> {
    None
}

/// Writes a file here: it is there when it is whole.
async fn download(server: &Server, sandbox: &str, path: &str, file: &Path) -> Result<u64, Failure> {
    let mut target = PathBuf::from(file);
    if target.is_dir() {
        let name = path.rsplit('/').next().unwrap_or_default();
        target.push(name);
    }
    let unwritable = |error: std::io::Error| {
        let what = format!("cannot write {}", target.display());
        Failure::new(exit::FAILED, what).why(error)
    };
    let directory = target
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
    let mut draft = builder.tempfile_in(directory).map_err(unwritable)?;
    let bytes = fetch(server, sandbox, path, &mut draft).await?;
    let persisted = draft.persist(&target);
    persisted.map_err(|error| unwritable(error.error))?;
    Ok(bytes)
}

async fn fetch(
    server: &Server,
    sandbox: &str,
    path: &str,
    into: &mut impl std::io::Write,
) -> Result<u64, Failure> {
    let mut response = server.client().text(&address(sandbox, path)).await?;
    let mut bytes = 0;
    loop {
        let chunk = response.chunk().await.map_err(|error| {
            Failure::new(exit::FAILED, format!("{sandbox}:{path} broke off")).why(error)
        })?;
        let Some(chunk) = chunk else {
            break;
        };
        let written = into.write_all(&chunk);
        written.map_err(|error| Failure::new(exit::FAILED, "cannot write").why(error))?;
        bytes += chunk.len() as u64;
    }
    let flushed = into.flush();
    flushed.map_err(|error| Failure::new(exit::FAILED, "cannot write").why(error))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_apart() {
        let check = |text: &str, expect: End<'_>| assert_eq!(End::parse(text), expect, "{text}");
        let inside = |sandbox, path| End::Inside { sandbox, path };
        check("-", End::Stream);
        check("box:/a", inside("box", "/a"));
        check("box:a:b", inside("box", "a:b"));
        check("box:", inside("box", ""));
        check("a.txt", End::Local(Path::new("a.txt")));
        check("./a:b", End::Local(Path::new("./a:b")));
        check("/a:b", End::Local(Path::new("/a:b")));
        check(":b", End::Local(Path::new(":b")));
    }
}
