//! The calls that have to do with nodes.

use axum::http::Method;
use axum::routing::{delete, get, post};
use chalk_core::wire::{self, agent as between};

use super::openapi::Call;
use super::{Route, agent, nodes, warms};

const LINES: &str = "application/x-ndjson";

/// Calls of nodes themselves.
pub(super) fn agent_routes() -> Vec<Route> {
    vec![
        Route::new(
            Method::POST,
            "/v1/agent/register",
            post(agent::register),
            Call::new("Join as a node, with a join token")
                .takes::<between::Register>()
                .gives::<between::Registered>(),
        ),
        Route::new(
            Method::POST,
            "/v1/agent/session",
            post(agent::session),
            Call::new("Reports of a node go up and orders come down, one JSON document a line, over HTTP/2")
                .takes_other(LINES)
                .gives_other(LINES),
        ),
        Route::new(
            Method::GET,
            "/v1/blobs/{digest}",
            get(agent::blob),
            Call::new("Read a blob of the store").gives_other("application/octet-stream"),
        ),
    ]
}

/// Calls about nodes.
pub(super) fn node_routes() -> Vec<Route> {
    vec![
        Route::new(
            Method::GET,
            "/v1/regions",
            get(nodes::regions),
            Call::new("List regions with their registries").gives::<Vec<wire::Region>>(),
        ),
        Route::new(
            Method::GET,
            "/v1/nodes",
            get(nodes::list),
            Call::new("List nodes by name").gives::<Vec<wire::Node>>(),
        ),
        Route::new(
            Method::GET,
            "/v1/nodes/{name}",
            get(nodes::get),
            Call::new("Describe a node").gives::<wire::Node>(),
        ),
        Route::new(
            Method::DELETE,
            "/v1/nodes/{name}",
            delete(nodes::remove),
            Call::new("Remove a node for good; it ends its sandboxes").answers(204),
        ),
        Route::new(
            Method::POST,
            "/v1/nodes/{name}/drain",
            post(nodes::drain),
            Call::new("Give a node no new work").gives::<wire::Node>(),
        ),
        Route::new(
            Method::POST,
            "/v1/nodes/{name}/undrain",
            post(nodes::undrain),
            Call::new("Give a drained node work again").gives::<wire::Node>(),
        ),
        Route::new(
            Method::GET,
            "/v1/nodes/{name}/cache",
            get(nodes::cache),
            Call::new("List what a node's cache holds, and why").gives::<wire::CacheListing>(),
        ),
        Route::new(
            Method::DELETE,
            "/v1/nodes/{name}/cache/{image}",
            delete(nodes::cache_remove),
            Call::new("Remove an image from a node's cache, by hash prefix, name, or digest of its manifest")
                .gives::<wire::GcReport>(),
        ),
        Route::new(
            Method::POST,
            "/v1/nodes/{name}/cache/gc",
            post(nodes::collect),
            Call::new("Free room in a node's cache")
                .takes::<wire::GcRequest>()
                .gives::<wire::GcReport>(),
        ),
        Route::new(
            Method::POST,
            "/v1/join-tokens",
            post(nodes::invite),
            Call::new("Make a token that nodes join with")
                .takes::<wire::JoinTokenRequest>()
                .gives::<wire::JoinToken>(),
        ),
        Route::new(
            Method::GET,
            "/v1/join-tokens",
            get(nodes::invitations),
            Call::new("List the join tokens that count").gives::<Vec<wire::JoinToken>>(),
        ),
        Route::new(
            Method::DELETE,
            "/v1/join-tokens/{id}",
            delete(nodes::uninvite),
            Call::new("Let nobody join with a token any more").answers(204),
        ),
    ]
}

/// Calls about warms.
pub(super) fn warm_routes() -> Vec<Route> {
    vec![
        Route::new(
            Method::POST,
            "/v1/warms",
            post(warms::start),
            Call::new("Bring images to nodes")
                .takes::<wire::WarmRequest>()
                .gives::<wire::Warm>(),
        ),
        Route::new(
            Method::GET,
            "/v1/warms",
            get(warms::list),
            Call::new("List warms, newest first")
                .query(&[
                    ("limit", "most warms to list; 50 unless given"),
                    ("image", "only warms of this image, by hash prefix or name"),
                ])
                .gives::<Vec<wire::Warm>>(),
        ),
        Route::new(
            Method::GET,
            "/v1/warms/{id}",
            get(warms::get),
            Call::new("Describe a warm").gives::<wire::Warm>(),
        ),
        Route::new(
            Method::POST,
            "/v1/warms/{id}/retry",
            post(warms::retry),
            Call::new("Let what failed begin again").gives::<wire::Warm>(),
        ),
        Route::new(
            Method::DELETE,
            "/v1/warms/{id}",
            delete(warms::cancel),
            Call::new("Cancel what is not ready").gives::<wire::Warm>(),
        ),
        Route::new(
            Method::GET,
            "/v1/warms/{id}/events",
            get(warms::events),
            Call::new("Follow the events of a warm; `Last-Event-ID` counts before `after`")
                .query(&[("after", "number of the last event that is not wanted")])
                .gives_other("text/event-stream"),
        ),
    ]
}
