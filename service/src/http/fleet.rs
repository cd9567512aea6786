//! The calls that have to do with nodes.

use axum::http::Method;
use axum::routing::{delete, get, post, put};
use chalk_core::wire::{self, agent as between};

use super::openapi::Call;
use super::openapi::Of::{Flag, Number, Text};
use super::{Route, agent, nodes, sandbox_files, sandboxes, warms};

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
            "/v1/agent/registry-token",
            get(agent::registry_token),
            Call::new("Get a node a token for reading a repository of its region's registry, as a token service does (404: it takes none)")
                .query(&[
                    ("registry", Text, "`host[:port]` of the registry"),
                    ("scope", Text, "`repository:NAME:pull`"),
                    ("service", Text, "not looked at"),
                ])
                .gives_other("application/json"),
        ),
        Route::new(
            Method::POST,
            "/v1/agent/streams/{ticket}",
            post(sandboxes::pass_on),
            Call::new("Events of a process for a client that follows it, one JSON document a line")
                .takes_other(LINES),
        ),
        Route::new(
            Method::POST,
            "/v1/agent/files/{ticket}",
            post(sandbox_files::pass_on),
            Call::new("Bytes of a file of a sandbox for a client that reads it").takes_bytes(),
        ),
        Route::new(
            Method::GET,
            "/v1/agent/files/{ticket}",
            get(sandbox_files::hand_over),
            Call::new("Bytes of a file of a sandbox from a client that writes it")
                .gives_other("application/octet-stream"),
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
            "/v1/caches",
            get(nodes::caches),
            Call::new("Say which connected node has which image").gives::<wire::CacheMap>(),
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
            "/v1/nodes/{name}/cache/{image}/unpin",
            post(nodes::unpin),
            Call::new("Let an image go that a warm pinned in a node's cache, once room is needed")
                .answers(204),
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
        Route::new(
            Method::GET,
            "/v1/prewarm",
            get(nodes::prewarm),
            Call::new("List the images that every node keeps ready").gives::<wire::Prewarm>(),
        ),
        Route::new(
            Method::PUT,
            "/v1/prewarm",
            put(nodes::set_prewarm),
            Call::new("Set the images that every node keeps ready")
                .takes::<wire::Prewarm>()
                .gives::<wire::Prewarm>(),
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
                    ("limit", Number, "most warms to list; 50 unless given"),
                    (
                        "image",
                        Text,
                        "only warms of this image, by hash prefix or name",
                    ),
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
                .query(&[(
                    "after",
                    Number,
                    "number of the last event that is not wanted",
                )])
                .gives_other("text/event-stream"),
        ),
    ]
}

/// Calls about sandboxes.
pub(super) fn sandbox_routes() -> Vec<Route> {
    vec![
        Route::new(
            Method::POST,
            "/v1/sandboxes",
            post(sandboxes::start),
            Call::new("Start a sandbox on a node that has its image, or on another")
                .takes::<wire::SandboxRequest>()
                .gives::<wire::SandboxReply>(),
        ),
        Route::new(
            Method::GET,
            "/v1/sandboxes",
            get(sandboxes::list),
            Call::new("List sandboxes, newest first")
                .query(&[
                    ("all", Flag, "true: those that have ended, too"),
                    ("node", Text, "only those on this node"),
                    ("image", Text, "only those of this image"),
                ])
                .gives::<Vec<wire::Sandbox>>(),
        ),
        Route::new(
            Method::GET,
            "/v1/sandboxes/{id}",
            get(sandboxes::get),
            Call::new("Describe a sandbox, by a unique prefix of its identifier")
                .gives::<wire::Sandbox>(),
        ),
        Route::new(
            Method::DELETE,
            "/v1/sandboxes/{id}",
            delete(sandboxes::remove),
            Call::new("Forget a sandbox and its output")
                .query(&[("force", Flag, "true: end it first, if it lives")])
                .answers(204),
        ),
        Route::new(
            Method::POST,
            "/v1/sandboxes/{id}/stop",
            post(sandboxes::stop),
            Call::new("End a sandbox, and wait for its end")
                .takes::<wire::StopRequest>()
                .gives::<wire::Sandbox>(),
        ),
        Route::new(
            Method::POST,
            "/v1/sandboxes/{id}/exec",
            post(sandboxes::exec),
            Call::new("Start a further command in a sandbox")
                .takes::<wire::ExecRequest>()
                .gives::<wire::SandboxProcess>(),
        ),
        Route::new(
            Method::GET,
            "/v1/sandboxes/{id}/processes",
            get(sandboxes::processes),
            Call::new("List the further processes of a sandbox: those that run, and those that ended last")
                .gives::<Vec<wire::ProcessStatus>>(),
        ),
        Route::new(
            Method::GET,
            "/v1/sandboxes/{id}/files",
            get(sandbox_files::read),
            Call::new("Read a file of a sandbox, as its user sees it")
                .query(&[("path", Text, "path inside; a relative one begins at the working directory")])
                .gives_other("application/octet-stream"),
        ),
        Route::new(
            Method::PUT,
            "/v1/sandboxes/{id}/files",
            put(sandbox_files::write),
            Call::new("Write a file of a sandbox, with the rights of its user")
                .query(&[
                    ("path", Text, "path inside; a relative one begins at the working directory"),
                    ("mode", Text, "permission bits in octal; those of the file that stands there, else 644, unless given"),
                ])
                .takes_bytes()
                .gives::<wire::FileWritten>(),
        ),
        Route::new(
            Method::GET,
            "/v1/sandboxes/{id}/processes/{process}/output",
            get(sandboxes::output),
            Call::new("Follow the output of a process; `Last-Event-ID` counts before `after`")
                .query(&[
                    (
                        "after",
                        Number,
                        "number of the last event that is not wanted",
                    ),
                    ("follow", Flag, "`false` to end with what there is by now"),
                ])
                .gives_other("text/event-stream"),
        ),
        Route::new(
            Method::POST,
            "/v1/sandboxes/{id}/processes/{process}/input",
            post(sandboxes::input),
            Call::new(
                "Write to the standard input of a process; answered when the bytes are taken",
            )
            .query(&[("close", Flag, "true: nothing follows")])
            .takes_bytes()
            .answers(204),
        ),
        Route::new(
            Method::POST,
            "/v1/sandboxes/{id}/processes/{process}/resize",
            post(sandboxes::resize),
            Call::new("Set the size of the terminal of a process")
                .takes::<wire::TerminalSize>()
                .answers(204),
        ),
        Route::new(
            Method::POST,
            "/v1/sandboxes/{id}/processes/{process}/signal",
            post(sandboxes::signal),
            Call::new("Send a signal to a process")
                .takes::<wire::SignalRequest>()
                .answers(204),
        ),
    ]
}
