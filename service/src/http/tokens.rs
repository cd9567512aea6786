//! Tokens of people and programs.

use axum::Extension;
use axum::extract::State;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use chalk_core::wire::{ClientToken, ClientTokenRequest};

use super::audit::Made;
use super::body::{Json, Path};
use super::openapi::Call;
use super::problem::ApiResult;
use super::{Api, Route};

/// Calls about tokens.
pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::new(
            Method::GET,
            "/v1/tokens",
            get(list),
            Call::new("List tokens of people and programs, without what they log in by")
                .gives::<Vec<ClientToken>>(),
        ),
        Route::new(
            Method::POST,
            "/v1/tokens",
            post(make),
            Call::new("Make a token; what it logs in by is told only this once")
                .takes::<ClientTokenRequest>()
                .gives::<ClientToken>(),
        ),
        Route::new(
            Method::DELETE,
            "/v1/tokens/{id}",
            delete(revoke),
            Call::new("Revoke a token, and what was handed out for it").answers(204),
        ),
    ]
}

async fn list(State(service): Api) -> axum::Json<Vec<ClientToken>> {
    axum::Json(service.access().clients().list())
}

async fn make(State(service): Api, Json(request): Json<ClientTokenRequest>) -> ApiResult<Response> {
    let access = service.access();
    let token = access.clients().make(request, access.projects()).await?;
    let made = Extension(Made::New(token.client_id.clone()));
    Ok((made, axum::Json(token)).into_response())
}

async fn revoke(State(service): Api, Path(id): Path<String>) -> ApiResult<StatusCode> {
    service.access().clients().revoke(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}
