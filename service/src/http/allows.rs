//! What the owner of a token may do.

use axum::http::Method;
use chalk_core::wire::problem;

use super::problem::ApiError;
use super::registry_token;
use crate::access::rules::Sees;
use crate::access::view::pass_allows;
use crate::access::{Grant, Principal, rules};
use crate::projects::Scope;
use crate::registry::{self, Target};

/// Where machines become nodes.
const REGISTER: &str = "/v1/agent/register";

/// What a token is good for; `scope` is what its owner sees.
pub(super) fn allows(
    who: &Principal,
    scope: Option<&Scope>,
    method: &Method,
    path: &str,
) -> Result<(), ApiError> {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let below = |prefix: &str| {
        path.strip_prefix(prefix)
            .is_some_and(|rest| !rest.is_empty())
    };
    match who {
        Principal::Admin => Ok(()),
        Principal::Client(grant) => {
            has_role(grant, method, path)?;
            runs_machines(scope, method, path)
        }
        Principal::Registry { grant, .. } => {
            let path = registry::decode(path).unwrap_or_default();
            let place = path.strip_prefix("/v2/").and_then(registry::target);
            let allowed = match place {
                Some((_, Target::Catalog)) => pass_allows(who, "_catalog", true, false),
                Some((repository, target)) => {
                    let upload = matches!(target, Target::NewUpload | Target::Upload(_));
                    let deletes = *method == Method::DELETE && !upload;
                    pass_allows(who, repository, reads && !upload, deletes)
                }
                None => path == "/v2" || path == "/v2/",
            };
            if let Some(grant) = grant {
                has_role(grant, method, &path)?;
            }
            if allowed {
                return Ok(());
            }
            let detail = format!("this token of the registry does not allow {method} {path}");
            Err(forbidden(detail, "ask for a token with that scope").narrow())
        }
        Principal::Puller { repository, .. } => {
            let path = &*registry::decode(path).unwrap_or_default();
            let place = path.strip_prefix("/v2/").and_then(registry::target);
            let own = place.is_some_and(|(name, target)| {
                name == &**repository && matches!(target, Target::Manifest(_) | Target::Blob(_))
            });
            let ping = matches!(path, "/v2" | "/v2/" | registry_token::PATH);
            if reads && (own || ping) {
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
            let registry = reads
                && (path == "/v2" || path.starts_with("/v2/") || path == registry_token::PATH);
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

fn has_role(grant: &Grant, method: &Method, path: &str) -> Result<(), ApiError> {
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

/// The machines are common to all projects, and not every project's to run.
fn runs_machines(scope: Option<&Scope>, method: &Method, path: &str) -> Result<(), ApiError> {
    let machines = rules::rule(method, path).is_some_and(|rule| rule.sees == Sees::Machines);
    if !machines || scope.is_none_or(Scope::runs_machines) {
        return Ok(());
    }
    Err(forbidden(
        format!(
            "{method} {path} is for all projects alike, which only administrators and the default project answer for"
        ),
        "ask an administrator to do it",
    ))
}

pub(super) fn forbidden(detail: impl Into<String>, hint: &str) -> ApiError {
    ApiError::new(problem::FORBIDDEN, 403, "not allowed", detail, hint)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chalk_core::wire::Role;

    use super::*;
    use crate::access::passes::Repository;

    #[test]
    fn what_tokens_allow() {
        let node = Principal::Node {
            name: "n".into(),
            token: chalk_core::Digest::of(b"n"),
        };
        let join = Principal::Join("1".into());
        let check = |who: &Principal, call: &str, expect: bool| {
            let (method, path) = call.split_once(' ').unwrap();
            let allowed = allows(who, None, &method.parse().unwrap(), path);
            assert_eq!(allowed.is_ok(), expect, "{who:?} {call}");
        };
        let client = Principal::Client(Arc::new(Grant {
            id: "c".into(),
            name: "ci".into(),
            roles: vec![Role::Warm],
            project: "p".into(),
        }));
        let puller = Principal::Puller {
            repository: "a/b".into(),
            grant: None,
        };
        let one = |name: &str, push: bool| Repository {
            name: name.to_owned(),
            pull: true,
            push,
            delete: false,
        };
        let registry = Principal::Registry {
            grant: None,
            repositories: [one("a/b", true), one("c", false)].into(),
        };
        for call in [
            "GET /v2/",
            "HEAD /v2/a/b/manifests/x",
            "PUT /v2/a/b/manifests/x",
            "POST /v2/a/b/blobs/uploads/",
            "GET /v2/a/b/blobs/uploads/1",
            "DELETE /v2/a/b/blobs/uploads/1",
            "GET /v2/c/tags/list",
        ] {
            check(&registry, call, true);
        }
        for call in [
            "GET /v2/_catalog",
            "GET /v2/a/b/c/manifests/x",
            "GET /v2/a/manifests/x",
            "GET /v2/a%2fb/../d/manifests/x",
            "DELETE /v2/a/b/manifests/x",
            "POST /v2/c/blobs/uploads/",
            "GET /v1/images",
            "POST /v1/builds",
        ] {
            check(&registry, call, false);
        }
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
            "GET /v2/a/b/blobs/uploads/1",
            "GET /v2/a/b/blobs/c%2Fblobs%2Fx",
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
