//! `import`: a base image from a file.

use std::path::Path;

use chalk_core::wire::{Imported, exit};
use chalk_core::{Platform, Reference};

use crate::client::{file_body, segment};
use crate::connect::Server;
use crate::error::Failure;
use crate::output;
use crate::progress::bytes;

pub(crate) async fn import(
    server: &Server,
    path: &Path,
    reference: &str,
    platform: Option<&str>,
    json: bool,
) -> Result<(), Failure> {
    let reference: Reference = reference
        .parse()
        .map_err(|e| Failure::usage("bad --as").why(e))?;
    let platform: Platform = match platform {
        Some(text) => text
            .parse()
            .map_err(|e| Failure::usage("bad --platform").why(e))?,
        None => Platform::default(),
    };
    let body = body(path).await?;
    let query = format!(
        "?ref={}&platform={}",
        segment(&reference.to_string()),
        segment(&platform.to_string())
    );
    let imported: Imported = server
        .client()
        .stream(&format!("/v1/imports{query}"), body)
        .await
        .map_err(|failure| match failure.code {
            exit::USAGE => Failure {
                what: format!("cannot import {}", path.display()),
                ..failure
            },
            _ => failure,
        })?;
    if json {
        return output::json(&imported);
    }
    output::line(&format!(
        "{} {} {} {}",
        imported.reference,
        imported.digest,
        imported.platform,
        bytes(imported.size)
    ))
}

async fn body(path: &Path) -> Result<reqwest::Body, Failure> {
    let cannot =
        |e: std::io::Error| Failure::usage(format!("cannot read {}", path.display())).why(e);
    if path == Path::new("-") {
        let stream = tokio_util::io::ReaderStream::with_capacity(tokio::io::stdin(), 1 << 18);
        return Ok(reqwest::Body::wrap_stream(stream));
    }
    if tokio::fs::metadata(path).await.map_err(cannot)?.is_dir() {
        return layout_body(path).await;
    }
    file_body(path, std::sync::Arc::default())
        .await
        .map(|(_, body)| body)
        .map_err(cannot)
}

/// An OCI layout directory goes over the wire as the OCI archive that it is equal to.
async fn layout_body(path: &Path) -> Result<reqwest::Body, Failure> {
    if !path.join("oci-layout").is_file() || !path.join("index.json").is_file() {
        return Err(
            Failure::usage(format!("{} is no OCI layout", path.display()))
                .why("it has no `oci-layout` and `index.json`")
                .hint("give an OCI layout directory, or a tar of a root filesystem"),
        );
    }
    let path = path.to_owned();
    let (reader, writer) = tokio::io::duplex(1 << 20);
    tokio::task::spawn_blocking(move || -> std::io::Result<()> {
        let writer = tokio_util::io::SyncIoBridge::new(writer);
        let mut archive = tar::Builder::new(std::io::BufWriter::with_capacity(1 << 18, writer));
        archive.follow_symlinks(false);
        for name in ["oci-layout", "index.json"] {
            archive.append_path_with_name(path.join(name), name)?;
        }
        archive.append_dir_all("blobs", path.join("blobs"))?;
        let writer = archive.into_inner()?;
        writer
            .into_inner()
            .map_err(std::io::IntoInnerError::into_error)?
            .shutdown()
    });
    // A reader error inside ends the archive early, which the service refuses as truncated.
    let stream = tokio_util::io::ReaderStream::with_capacity(reader, 1 << 18);
    Ok(reqwest::Body::wrap_stream(stream))
}
