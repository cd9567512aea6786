//! Images: list, describe, name, delete, import.

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::IntoResponse;
use chalk_core::wire::{Image, ImageDetail, Imported};
use chalk_core::{Platform, Reference};
use chalk_store::archive::{self, ImportOptions};
use chalk_store::registry::{MANIFEST_LIMIT, Progress};
use chalk_store::sink::ChunkSink;
use serde::Deserialize;

use super::Api;
use super::body::{Path, Query, Stream, data};
use super::builds::parse_name;
use super::problem::{ApiError, ApiResult};
use crate::catalog::Id;
use crate::places;
use crate::projects::Scope;
use crate::service::Service;

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    name: Option<String>,
}

pub(super) async fn list(
    State(service): Api,
    Extension(scope): Extension<Scope>,
    Query(query): Query<ListQuery>,
) -> ApiResult<axum::Json<Vec<Image>>> {
    Ok(axum::Json(
        service.catalog().list(&scope, query.name.as_deref()),
    ))
}

pub(super) async fn get(
    State(service): Api,
    Extension(scope): Extension<Scope>,
    Path(id): Path<String>,
) -> ApiResult<axum::Json<ImageDetail>> {
    let catalog = service.catalog();
    let id = catalog.resolve(&scope, &id).await?;
    Ok(axum::Json(catalog.detail(&scope, &id.hash()).await?))
}

/// The manifest as the registry has it, wherever that is.
pub(super) async fn manifest(
    State(service): Api,
    Extension(scope): Extension<Scope>,
    Path(id): Path<String>,
) -> ApiResult<impl IntoResponse> {
    let catalog = service.catalog();
    let hash = catalog.resolve(&scope, &id).await?.hash();
    let found = catalog.manifest_of(&hash).await?;
    Ok(([(CONTENT_TYPE, found.media_type)], found.bytes))
}

pub(super) async fn name(
    State(service): Api,
    Extension(scope): Extension<Scope>,
    Path((id, name)): Path<(String, String)>,
) -> ApiResult<axum::Json<Image>> {
    let name = parse_name(&scope, &name)?;
    let catalog = service.catalog();
    let id = catalog.resolve(&scope, &id).await?;
    catalog.name(&id.hash(), &name).await?;
    Ok(axum::Json(catalog.show(&scope, &id.hash()).await?))
}

pub(super) async fn delete(
    State(service): Api,
    Extension(scope): Extension<Scope>,
    Path(id): Path<String>,
) -> ApiResult<StatusCode> {
    let catalog = service.catalog();
    match catalog.resolve(&scope, &id).await? {
        Id::Hash(hash) => {
            catalog.delete(&hash).await?;
            scope.projects().forget_image(&hash);
        }
        Id::Name(name, _) => catalog.remove_name(&name).await?,
    }
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ImportQuery {
    #[serde(rename = "ref")]
    reference: String,
    platform: Option<String>,
    /// Which image of an archive that holds several.
    image: Option<String>,
}

/// Takes an image in as a file: keeps the body in the state directory, reads it into the store,
/// and publishes it in the regional registry under the reference that specs may then use.
pub(super) async fn import(
    State(service): Api,
    Extension(scope): Extension<Scope>,
    Query(query): Query<ImportQuery>,
    request: Request,
) -> ApiResult<axum::Json<Imported>> {
    let wrong = |detail: String| ApiError::bad_request("the parameters are wrong", detail, "");
    let reference: Reference = query
        .reference
        .parse()
        .map_err(|e| wrong(format!("ref: {e}")))?;
    if reference.digest().is_some() {
        let detail = "ref: an import is filed under a tag; leave the digest away";
        return Err(wrong(detail.to_owned()));
    }
    let platform: Platform = match &query.platform {
        Some(text) => text.parse().map_err(|e| wrong(format!("platform: {e}")))?,
        None => Platform::default(),
    };
    let compression = service.settings().build.compression.word().parse();
    let options = ImportOptions {
        platform: platform.clone(),
        name: query.image,
        origin: Some("archive".to_owned()),
        compression: compression.unwrap_or_default(),
        ..ImportOptions::default()
    };
    let projects = scope.projects();
    let length = request.headers().get(CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    projects.room(scope.project(), length.unwrap_or(0))?;
    let file = receive(&service, request).await?;
    let blobs = service.blobs();
    // Its blobs are needed until its manifest names them, however long that takes.
    let _lease = blobs.lease();
    let imported = blobs
        .run(move |store| archive::import(store, file.path(), &options))
        .await?;
    let (repository, tag) = places::import(&reference);
    let regional = service.catalog().regional();
    let progress = Progress::none();
    let layers = imported.layers.iter().map(|layer| layer.blob);
    for blob in layers.chain([imported.config]) {
        regional
            .push_blob(&repository, &blob, blobs, &progress)
            .await?;
    }
    let manifest = imported.manifest.digest;
    let bytes = blobs
        .run(move |store| store.read_small(manifest, MANIFEST_LIMIT))
        .await?;
    regional
        .put_manifest(&repository, &tag, MANIFEST_TYPE, bytes.into())
        .await?;
    let layers = imported.layers.iter().map(|layer| layer.blob);
    let parts = layers.chain([imported.config, imported.manifest]);
    projects.keep_blobs(scope.project(), parts.map(|blob| (blob.digest, blob.size)));
    tracing::info!(%reference, digest = %manifest, "image is imported");
    Ok(axum::Json(Imported {
        reference,
        digest: manifest,
        platform: imported.platform,
        size: imported.layers.iter().map(|layer| layer.blob.size).sum(),
    }))
}

/// Writes a body to a temporary file in the state directory, which may be larger than memory.
async fn receive(service: &Service, request: Request) -> ApiResult<tempfile::NamedTempFile> {
    let limit = service.settings().limits.import.as_u64();
    let mut stream = Stream::new(request.headers(), limit, "limits.import")?;
    let fault = |error: std::io::Error| ApiError::internal("the state directory failed", &error);
    let dir = service.imports_dir();
    let made = tokio::task::spawn_blocking(move || tempfile::NamedTempFile::new_in(dir)).await;
    let file = made.map_err(std::io::Error::other).flatten();
    let sink = ChunkSink::new(file.map_err(fault)?);
    let mut body = data(request.into_body());
    while let Some(chunk) = stream.next(&mut body).await? {
        if !sink.send(chunk).await {
            break;
        }
    }
    let (file, written) = sink.finish().await.map_err(fault)?;
    written.map_err(fault)?;
    Ok(file)
}
