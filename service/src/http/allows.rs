//! What the owner of a token may do.

use axum::http::Method;
use chalk_core::wire::problem;

use super::problem::ApiError;
use crate::access::{Principal, rules};

/// Where machines become nodes.
const REGISTER: &str = "/v1/agent/register";

/// What a token is good for.
pub(super) fn allows(who: &Principal, method: &Method, path: &str) -> Result<(), ApiError> {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let below = |prefix: &str| {
        path.strip_prefix(prefix)
            .is_some_and(|rest| !rest.is_empty())
    };
    match who {
        Principal::Admin => Ok(()),
        Principal::Client(grant) => {
            let role = rules::needed(method, path);
            if grant.has(role) {
                return Ok(());
            }
            let roles: Vec<&str> = grant.roles.iter().map(|role| role.word()).collect();
            Err(forbidden(
                format!(
                    "{method} {path} needs the role `{}`, and the token `{}` has {}",
                    role.word(),
                    grant.name,
                    roles.join(", "),
                ),
                "use a token with that role; `chalk token create --role ROLE` makes one",
            ))
        }
        Principal::Puller(repository) => {
            let rest = path.strip_prefix("/v2/").unwrap_or_default();
            let own = rest
                .strip_prefix(&**repository)
                .is_some_and(|rest| rest.starts_with("/manifests/") || rest.starts_with("/blobs/"));
            if reads && (own || path == "/v2" || path == "/v2/") {
                return Ok(());
            }
            Err(forbidden(
                format!("the password is good for pulling from `{repository}` only"),
                "use a token of your own; `chalk token create` makes one",
            ))
        }
        Principal::Join(_) if path == REGISTER => Ok(()),
        Principal::Join(_) => Err(forbidden(
            "a join token is good for `POST /v1/agent/register` only",
            "register, and use the token that it gives",
        )),
        Principal::Removed(name) => Err(ApiError::new(
            problem::NODE_REMOVED,
            401,
            "the node was removed",
            format!("node `{name}` was removed from the service, and its token counts no more"),
            "to have the machine back, make a join token by `chalk compute node token create` and join anew",
        )),
        Principal::Node { .. } => {
            let agent = path != REGISTER && below("/v1/agent/");
            let registry = reads && (path == "/v2" || path.starts_with("/v2/"));
            let blob = reads && below("/v1/blobs/");
            if agent || registry || blob {
                return Ok(());
            }
            Err(forbidden(
                format!("the token of a node does not allow {method} {path}"),
                "use the service's own token; it is in the file `token` of the service's state directory",
            ))
        }
    }
}

pub(super) fn forbidden(detail: impl Into<String>, hint: &str) -> ApiError {
    ApiError::new(problem::FORBIDDEN, 403, "not allowed", detail, hint)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chalk_core::wire::Role;

    use super::*;
    use crate::access::Grant;

    #[test]
    fn what_tokens_allow() {
        let node = Principal::Node {
            name: "n".into(),
            token: chalk_core::Digest::of(b"n"),
        };
        let join = Principal::Join("1".into());
        let check = |who: &Principal, call: &str, expect: bool| {
            let (method, path) = call.split_once(' ').unwrap();
            let allowed = allows(who, &method.parse().unwrap(), path);
            assert_eq!(allowed.is_ok(), expect, "{who:?} {call}");
        };
        let client = Principal::Client(Arc::new(Grant {
            id: "c".into(),
            name: "ci".into(),
            roles: vec![Role::Warm],
        }));
        let puller = Principal::Puller("a/b".into());
        check(&client, "GET /v1/nodes", true);
        check(&client, "POST /v1/warms", true);
        check(&client, "POST /v1/builds", false);
        check(&client, "DELETE /v1/nodes/n", false);
        check(&client, "POST /v1/agent/session", false);
        for call in [
            "GET /v2/",
            "HEAD /v2/a/b/manifests/x",
            "GET /v2/a/b/blobs/x",
        ] {
            check(&puller, call, true);
        }
        for call in [
            "GET /v2/a/bc/blobs/x",
            "GET /v2/a/b/c/blobs/x",
            "GET /v2/a/b/../c/blobs/x",
            "GET /v2/a/b/tags/list",
            "PUT /v2/a/b/manifests/x",
            "GET /v1/images",
        ] {
            check(&puller, call, false);
        }
        check(&Principal::Admin, "DELETE /v1/nodes/n", true);
        check(&Principal::Admin, "POST /v1/agent/register", true);
        check(&join, "POST /v1/agent/register", true);
        for call in [
            "POST /v1/agent/session",
            "GET /v1/nodes",
            "GET /v2/",
            "GET /v1/blobs/x",
        ] {
            check(&join, call, false);
        }
        for call in [
            "POST /v1/agent/session",
            "POST /v1/agent/streams/x",
            "GET /v2/",
            "GET /v2",
            "HEAD /v2/a/blobs/x",
            "GET /v1/blobs/x",
        ] {
            check(&node, call, true);
        }
        for call in [
            "POST /v1/agent/register",
            "POST /v2/a/blobs/uploads/",
            "PUT /v2/a/manifests/x",
            "DELETE /v2/a/manifests/x",
            "PUT /v1/blobs/x",
            "POST /v1/blobs",
            "GET /v1/blobs/",
            "POST /v1/blobs/missing",
            "GET /v1/nodes",
            "DELETE /v1/nodes/n",
            "POST /v1/join-tokens",
            "GET /v1/sandboxes",
            "GET /v2x",
        ] {
            check(&node, call, false);
        }
    }
}
