//! Projects: list, make, set, remove.

use axum::Extension;
use axum::extract::State;
use axum::http::{Method, StatusCode};
use axum::routing::{delete, get, post, put};
use chalk_core::wire::{Problem, Project, ProjectRequest, Quotas};

use super::body::{Json, Path};
use super::openapi::Call;
use super::problem::{ApiError, ApiResult};
use super::{Api, Route};
use crate::projects::{Scope, no_such};
use crate::service::Service;

/// Calls about projects.
pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::new(
            Method::GET,
            "/v1/projects",
            get(list),
            Call::new("List projects by name, with what they take and may take")
                .gives::<Vec<Project>>(),
        ),
        Route::new(
            Method::GET,
            "/v1/projects/{name}",
            get(one),
            Call::new("Describe a project").gives::<Project>(),
        ),
        Route::new(
            Method::POST,
            "/v1/projects",
            post(create),
            Call::new("Make a project")
                .takes::<ProjectRequest>()
                .gives::<Project>(),
        ),
        Route::new(
            Method::PUT,
            "/v1/projects/{name}",
            put(set),
            Call::new("Set what a project may take")
                .takes::<Quotas>()
                .gives::<Project>(),
        ),
        Route::new(
            Method::DELETE,
            "/v1/projects/{name}",
            delete(remove),
            Call::new("Remove a project: its tokens end, its name is not given again, and what it has is left to administrators")
                .answers(204),
        ),
    ]
}

/// With the builds that it has on the way.
fn with_builds(service: &Service, mut project: Project) -> Project {
    project.usage.builds = service.builds().live_of(&project.name) as u64;
    project
}

async fn list(State(service): Api, Extension(scope): Extension<Scope>) -> axum::Json<Vec<Project>> {
    let projects = scope.projects();
    let names = projects.names().into_iter();
    let seen = names.filter(|name| scope.sees(name));
    let shown = seen.filter_map(|name| projects.shown(&name));
    axum::Json(
        shown
            .map(|project| with_builds(&service, project))
            .collect(),
    )
}

async fn one(
    State(service): Api,
    Extension(scope): Extension<Scope>,
    Path(name): Path<String>,
) -> ApiResult<axum::Json<Project>> {
    let project = scope.projects().shown(&name).filter(|_| scope.sees(&name));
    let project = project.ok_or_else(|| no_such(&name))?;
    Ok(axum::Json(with_builds(&service, project)))
}

async fn create(
    State(service): Api,
    Extension(scope): Extension<Scope>,
    Json(request): Json<ProjectRequest>,
) -> ApiResult<axum::Json<Project>> {
    let word = request.name.clone();
    let in_use = async {
        let found = service.catalog().has_below(&word).await;
        found.map_err(|error| Problem::from(ApiError::from(error)))
    };
    let project = scope.projects().create(request, in_use).await?;
    Ok(axum::Json(project))
}

async fn set(
    State(service): Api,
    Extension(scope): Extension<Scope>,
    Path(name): Path<String>,
    Json(quotas): Json<Quotas>,
) -> ApiResult<axum::Json<Project>> {
    let project = scope.projects().set(&name, quotas).await?;
    Ok(axum::Json(with_builds(&service, project)))
}

async fn remove(
    State(service): Api,
    Extension(scope): Extension<Scope>,
    Path(name): Path<String>,
) -> ApiResult<StatusCode> {
    scope.projects().remove(&name).await?;
    // They count no more already.
    service.access().clients().revoke_all(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}
