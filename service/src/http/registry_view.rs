//! Shows each who asks their part of the embedded registry.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;

use crate::access::Principal;
use crate::access::view::{NodeView, ProjectView};
use crate::registry::{View, Viewed};
use crate::service::Service;

/// Puts the view of whoever asks among the extensions of a request. As long as nobody counts what
/// belongs to whom, clients see all of it without one.
pub(super) async fn show(
    State(service): State<Arc<Service>>,
    mut request: Request,
    next: Next,
) -> Response {
    let view = request
        .extensions()
        .get::<Principal>()
        .and_then(|who| view(&service, who));
    if let Some(view) = view {
        request.extensions_mut().insert(Viewed(view));
    }
    next.run(request).await
}

fn view(service: &Service, who: &Principal) -> Option<Arc<dyn View>> {
    if let Principal::Node { name, .. } = who {
        return Some(Arc::new(NodeView {
            node: name.clone(),
            grants: service.fleet().nodes().grants().clone(),
            registry: service.embedded()?.clone(),
        }));
    }
    let scope = service.access().scope(who)?;
    scope.projects().counts().then(|| {
        Arc::new(ProjectView {
            scope,
            catalog: service.catalog().clone(),
        }) as Arc<dyn View>
    })
}
