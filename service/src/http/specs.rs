//! Pinning and planning of specs, and the blobs that they need.

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use chalk_core::Digest;
use chalk_core::wire::blob_batch::{self, MAX_BODY};
use chalk_core::wire::{BlobList, Plan, ResolveRequest, Resolved, Storage};
use chalk_store::sink::ChunkSink;
use chalk_store::{BlobError, BlobStore};

use super::Api;
use super::body::{Json, Path, Stream, data, limited_by};
use super::problem::{ApiError, ApiResult};
use crate::projects::Scope;
use crate::resolve;

pub(super) async fn resolve(
    State(service): Api,
    Extension(scope): Extension<Scope>,
    Json(request): Json<ResolveRequest>,
) -> ApiResult<axum::Json<Resolved>> {
    let (bases, blobs) = (service.bases(), service.blobs());
    let ours = (&**service.catalog(), &**service.fleet().regions());
    let spec = resolve::pin_seen(bases, &scope, ours, blobs, request.spec).await?;
    let image_hash = hash_of(&spec)?;
    Ok(axum::Json(Resolved { spec, image_hash }))
}

/// The image hash of a spec whose bases were all pinned.
pub(super) fn hash_of(spec: &chalk_core::Spec) -> ApiResult<Digest> {
    spec.image_hash().ok_or_else(|| {
        ApiError::bad_request(
            "the spec has no image hash",
            "a base is not pinned and cannot be",
            "",
        )
    })
}

pub(super) async fn plan(
    State(service): Api,
    Extension(scope): Extension<Scope>,
    Json(request): Json<ResolveRequest>,
) -> ApiResult<axum::Json<Plan>> {
    let plan = resolve::plan(
        service.bases(),
        service.engine(),
        (&**service.catalog(), &**service.fleet().regions()),
        service.blobs(),
        &scope,
        request,
    );
    let mut plan = plan.await?;
    if let Some(hash) = plan.image_hash.filter(|_| plan.exists)
        && let Some(known) = service.catalog().find(&hash).await?
    {
        let warm = service.fleet().nodes().warm(&known.digest);
        plan.nodes_warm = warm.iter().map(|node| node.name.to_string()).collect();
    }
    Ok(axum::Json(plan))
}

pub(super) async fn storage(
    State(service): Api,
    Extension(scope): Extension<Scope>,
) -> ApiResult<axum::Json<Storage>> {
    // What all take grows with what others bring, and would give that away.
    if let Some(project) = scope.only() {
        return Ok(axum::Json(scope.projects().storage(project)));
    }
    let sum = |store: &BlobStore| -> Result<Storage, BlobError> {
        let mut sum = Storage { blobs: 0, bytes: 0 };
        for found in store.list()? {
            let (blob, _) = found?;
            sum.blobs += 1;
            sum.bytes += blob.size;
        }
        Ok(sum)
    };
    Ok(axum::Json(service.blobs().run(sum).await?))
}

pub(super) async fn missing(
    State(service): Api,
    Extension(scope): Extension<Scope>,
    Json(list): Json<BlobList>,
) -> ApiResult<axum::Json<BlobList>> {
    let digests = resolve::missing(service.blobs(), &scope, list.digests).await?;
    Ok(axum::Json(BlobList { digests }))
}

pub(super) async fn upload(
    State(service): Api,
    Extension(scope): Extension<Scope>,
    Path(digest): Path<String>,
    request: Request,
) -> ApiResult<StatusCode> {
    let digest: Digest = digest
        .parse()
        .map_err(|e| ApiError::bad_request("the path is wrong", format!("{e}"), ""))?;
    let limit = service.settings().limits.blob.as_u64();
    let mut stream = Stream::new(request.headers(), limit, "limits.blob")?;
    let projects = scope.projects();
    projects.room(scope.project(), stream.announced())?;
    let blobs = service.blobs();
    let writer = blobs.run(BlobStore::writer).await?;
    let sink = ChunkSink::new(writer);
    let mut body = data(request.into_body());
    while let Some(chunk) = stream.next(&mut body).await? {
        if !sink.send(chunk).await {
            break;
        }
    }
    let fault = |source: std::io::Error| BlobError::Io {
        action: "write",
        path: blobs.root().to_owned(),
        source,
    };
    let (writer, written) = sink.finish().await.map_err(fault)?;
    written.map_err(fault)?;
    let blob = blobs.run(move |_| writer.commit(Some(digest))).await?;
    projects.keep_blobs(scope.project(), [(blob.digest, blob.size)]);
    Ok(StatusCode::CREATED)
}

/// Many small blobs at once, which share what makes them durable.
pub(super) async fn upload_batch(
    State(service): Api,
    Extension(scope): Extension<Scope>,
    request: Request,
) -> ApiResult<StatusCode> {
    let hint = "send it in several batches, and files that do not fit into one alone";
    let mut stream = Stream::with_hint(request.headers(), MAX_BODY as u64, hint)?;
    let mut body = data(request.into_body());
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next(&mut body).await? {
        bytes.extend_from_slice(&chunk);
    }
    scope.projects().room(scope.project(), bytes.len() as u64)?;
    let limit = service.settings().limits.blob.as_u64();
    let put = move |store: &BlobStore| -> ApiResult<()> {
        let blobs = blob_batch::decode(&bytes)?;
        if let Some((digest, _)) = blobs.iter().find(|(_, blob)| blob.len() as u64 > limit) {
            let what = format!("blob {digest}");
            return Err(ApiError::too_large(&what, limit, limited_by("limits.blob")));
        }
        let mut batch = store.batch()?;
        let mut sizes = Vec::new();
        for (digest, blob) in blobs {
            batch.add(digest, blob)?;
            sizes.push((digest, blob.len() as u64));
        }
        batch.commit()?;
        scope.projects().keep_blobs(scope.project(), sizes);
        Ok(())
    };
    service.blobs().run(put).await?;
    Ok(StatusCode::CREATED)
}
