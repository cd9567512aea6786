//! Nodes, regions and join tokens.

use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use chalk_core::Digest;
use chalk_core::wire::agent::Ask;
use chalk_core::wire::{
    CacheListing, CacheMap, GcReport, GcRequest, JoinToken, JoinTokenRequest, Node, Prewarm,
    Region, problem,
};
use serde::de::DeserializeOwned;

use super::Api;
use super::body::{Json, Path};
use super::problem::{ApiError, ApiResult};
use crate::projects::Scope;
use crate::service::Service;

/// How long a node may take to list its cache.
const LIST: Duration = Duration::from_secs(30);
/// How long a node may take to free room in its cache.
const COLLECT: Duration = Duration::from_secs(600);
/// Label of the pin of a warm that asked for one.
pub(crate) const WARM_PIN: &str = "warm";

pub(super) async fn regions(State(service): Api) -> axum::Json<Vec<Region>> {
    let fleet = service.fleet();
    axum::Json(fleet.regions().list(&fleet.nodes().by_region()))
}

pub(super) async fn caches(
    State(service): Api,
    Extension(scope): Extension<Scope>,
) -> axum::Json<CacheMap> {
    let map = service.fleet().nodes().cache_map();
    if scope.is_all() {
        return axum::Json(map);
    }
    // Places in the list, of the images that are seen.
    let seen: Vec<bool> = map
        .images
        .iter()
        .map(|image| scope.has_blob(image))
        .collect();
    let mut at = 0;
    let places: Vec<Option<u32>> = seen
        .iter()
        .map(|seen| {
            let place = seen.then_some(at);
            at += u32::from(*seen);
            place
        })
        .collect();
    let images = map.images.into_iter().zip(&seen).filter(|(_, seen)| **seen);
    let nodes = map.nodes.into_iter().map(|(node, has)| {
        let has = has
            .into_iter()
            .filter_map(|image| *places.get(usize::try_from(image).ok()?)?);
        (node, has.collect())
    });
    axum::Json(CacheMap {
        images: images.map(|(image, _)| image).collect(),
        nodes: nodes.collect(),
    })
}

pub(super) async fn list(State(service): Api) -> axum::Json<Vec<Node>> {
    axum::Json(service.fleet().nodes().list())
}

pub(super) async fn get(
    State(service): Api,
    Path(name): Path<String>,
) -> ApiResult<axum::Json<Node>> {
    Ok(axum::Json(service.fleet().nodes().get(&name)?))
}

pub(super) async fn remove(State(service): Api, Path(name): Path<String>) -> ApiResult<StatusCode> {
    service.fleet().remove(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn drain(
    State(service): Api,
    Path(name): Path<String>,
) -> ApiResult<axum::Json<Node>> {
    Ok(axum::Json(
        service.fleet().nodes().drain(&name, true).await?,
    ))
}

pub(super) async fn undrain(
    State(service): Api,
    Path(name): Path<String>,
) -> ApiResult<axum::Json<Node>> {
    Ok(axum::Json(
        service.fleet().nodes().drain(&name, false).await?,
    ))
}

pub(super) async fn cache(
    State(service): Api,
    Extension(scope): Extension<Scope>,
    Path(name): Path<String>,
) -> ApiResult<axum::Json<CacheListing>> {
    Ok(axum::Json(listing(&service, &scope, &name).await?))
}

/// What of a node's cache is seen.
async fn listing(service: &Service, scope: &Scope, name: &str) -> ApiResult<CacheListing> {
    let mut listing: CacheListing = ask(service, name, Ask::CacheList, LIST).await?;
    if !scope.is_all() {
        listing.images.retain(|image| scope.has_blob(&image.digest));
        listing.items.retain(|item| scope.has_blob(&item.digest));
        listing.left_out = 0;
    }
    Ok(listing)
}

pub(super) async fn cache_remove(
    State(service): Api,
    Extension(scope): Extension<Scope>,
    Path((name, image)): Path<(String, String)>,
) -> ApiResult<axum::Json<GcReport>> {
    service.fleet().nodes().get(&name)?;
    let digest = cached(&service, &scope, &name, &image).await?;
    // Who removes an image by name has thought of its pin.
    let remove = Ask::CacheRemove {
        digest,
        unpin: true,
    };
    let mut report: GcReport = ask(&service, &name, remove, COLLECT).await?;
    if !scope.is_all() {
        report.freed.retain(|item| scope.has_blob(&item.digest));
        report.kept.retain(|item| scope.has_blob(&item.digest));
    }
    Ok(axum::Json(report))
}

/// The manifest that a text means in the cache of a node: its digest, or what else an image is
/// called by.
async fn cached(service: &Service, scope: &Scope, name: &str, image: &str) -> ApiResult<Digest> {
    if let Ok(digest) = image.parse::<Digest>()
        && scope.has_blob(&digest)
        && service.fleet().nodes().has(name, &digest)
    {
        return Ok(digest);
    }
    match service.catalog().resolve(scope, image).await {
        Ok(id) => {
            let known = service.catalog().find(&id.hash()).await?;
            if let Some(known) = known {
                return Ok(known.digest);
            }
        }
        Err(crate::catalog::CatalogError::NotFound(_)) => {}
        Err(error) => return Err(error.into()),
    }
    // Images that are known to the node only: those of the pre-warm list, or deleted ones.
    let listing = listing(service, scope, name).await?;
    let hex = image.strip_prefix("sha256:").unwrap_or(image);
    let named = |item: &chalk_core::wire::CachedImage| {
        let begins = |digest: &Digest| hex.len() >= 8 && digest.hex().starts_with(hex);
        item.image == image || begins(&item.digest) || item.image_hash.as_ref().is_some_and(begins)
    };
    let mut fitting = listing.images.iter().filter(|item| named(item));
    match (fitting.next(), fitting.next()) {
        (Some(item), None) => Ok(item.digest),
        (Some(_), Some(_)) => Err(ApiError::new(
            problem::AMBIGUOUS,
            409,
            "several images fit",
            format!("`{image}` fits several images in the cache of node `{name}`"),
            "give more digits",
        )),
        (None, _) => Err(ApiError::not_found(
            "no such image",
            format!("node `{name}` has no image `{image}`"),
        )),
    }
}

pub(super) async fn unpin(
    State(service): Api,
    Extension(scope): Extension<Scope>,
    Path((name, image)): Path<(String, String)>,
) -> ApiResult<StatusCode> {
    service.fleet().nodes().get(&name)?;
    let digest = cached(&service, &scope, &name, &image).await?;
    let unpin = Ask::Unpin {
        digest,
        label: WARM_PIN.to_owned(),
    };
    service.fleet().nodes().ask(&name, unpin, LIST).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn collect(
    State(service): Api,
    Path(name): Path<String>,
    Json(gc): Json<GcRequest>,
) -> ApiResult<axum::Json<GcReport>> {
    let collect = Ask::CacheCollect { gc };
    Ok(axum::Json(ask(&service, &name, collect, COLLECT).await?))
}

/// Asks a node for a document.
async fn ask<T: DeserializeOwned>(
    service: &Service,
    name: &str,
    ask: Ask,
    limit: Duration,
) -> ApiResult<T> {
    let value = service.fleet().nodes().ask(name, ask, limit).await?;
    serde_json::from_value(value)
        .map_err(|error| ApiError::internal(format!("node `{name}` answered wrongly"), &error))
}

pub(super) async fn invite(
    State(service): Api,
    Json(request): Json<JoinTokenRequest>,
) -> ApiResult<axum::Json<JoinToken>> {
    Ok(axum::Json(service.fleet().nodes().invite(request).await?))
}

pub(super) async fn invitations(State(service): Api) -> axum::Json<Vec<JoinToken>> {
    axum::Json(service.fleet().nodes().invitations())
}

pub(super) async fn uninvite(State(service): Api, Path(id): Path<String>) -> ApiResult<StatusCode> {
    service.fleet().nodes().uninvite(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn prewarm(State(service): Api) -> axum::Json<Prewarm> {
    axum::Json(service.fleet().prewarms().get())
}

pub(super) async fn set_prewarm(
    State(service): Api,
    Json(list): Json<Prewarm>,
) -> ApiResult<axum::Json<Prewarm>> {
    let prewarms = service.fleet().prewarms();
    Ok(axum::Json(prewarms.set(list.images).await?))
}
