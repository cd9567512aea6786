//! The registry's tokens (Docker registry token authentication, "Token Authentication Specification"
//! and "OAuth2 Token Authentication"): a client that the registry told to come here shows a token of
//! the service, and gets a short-lived one for the repositories that it names.

use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use chalk_core::reference::is_repository;
use chalk_core::wire::Role;
use jiff::{SignedDuration, Timestamp};
use percent_encoding::percent_decode_str;
use serde_json::json;

use super::audit::Peer;
use super::guard::presented;
use super::openapi::Call;
use super::openapi::Of::Text;
use super::refusals;
use super::{Api, Route};
use crate::access::passes::{Good, Pass, Repository};
use crate::access::{Access, Grant, Principal};
use crate::projects::Owner;

/// Where the registry sends its clients.
pub(crate) const PATH: &str = "/v1/registry/token";
/// How long a token lasts; clients come again by themselves.
const TTL: SignedDuration = SignedDuration::from_mins(15);
/// Most repositories of one token.
const REPOSITORIES: usize = 16;

/// The calls.
pub(super) fn routes() -> Vec<Route> {
    const FORM: &str = "application/x-www-form-urlencoded";
    vec![
        Route::new(
            Method::GET,
            PATH,
            get(by_login),
            Call::new("Get a token of the registry with any user name and a token of the service as password, as container engines do")
                .query(&[
                    ("service", Text, "name of the registry"),
                    ("scope", Text, "`repository:NAME:pull,push`; may be repeated"),
                ])
                .gives_other("application/json"),
        ),
        Route::new(
            Method::POST,
            PATH,
            post(by_form),
            Call::new("The same with the login in a form, as OAuth2 has it")
                .takes_other(FORM)
                .gives_other("application/json"),
        ),
    ]
}

/// Pairs of a query or form.
fn pairs(text: &str) -> Vec<(String, String)> {
    let decode = |part: &str| {
        let spaced = part.replace('+', " ");
        percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
    };
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(key, value)| (decode(key), decode(value)))
        .collect()
}

/// What is asked for: `repository:NAME:ACTIONS`, several of them apart by blanks.
fn scopes(pairs: &[(String, String)]) -> Vec<Repository> {
    let given = pairs.iter().filter(|(key, _)| key == "scope");
    let words = given.flat_map(|(_, value)| value.split_whitespace());
    let parsed = words.filter_map(|word| {
        let (kind, rest) = word.split_once(':')?;
        let (name, actions) = rest.rsplit_once(':')?;
        let has = |action: &str| actions.split(',').any(|one| one == action || one == "*");
        match kind {
            "registry" if name == "catalog" => Some(Repository {
                name: "_catalog".to_owned(),
                pull: true,
                push: false,
                delete: false,
            }),
            "repository" if is_repository(name) => Some(Repository {
                name: name.to_owned(),
                pull: has("pull"),
                push: has("push"),
                delete: has("delete"),
            }),
            _ => None,
        }
    });
    parsed.take(REPOSITORIES).collect()
}

/// What of it somebody gets.
fn granted(access: &Access, who: &Principal, asked: Vec<Repository>) -> Vec<Repository> {
    let has = |role: Role| match who {
        Principal::Client(grant) => grant.has(role),
        _ => true,
    };
    let Some(scope) = access.scope(who) else {
        return Vec::new();
    };
    let projects = access.projects();
    let lessened = asked.into_iter().map(|asked| {
        let owner = projects.owner(&asked.name);
        let own = scope.is_all()
            || matches!(&owner, Owner::Project(project) if project == scope.project());
        let reads = own || matches!(owner, Owner::Images | Owner::Imports);
        Repository {
            pull: asked.pull && (reads || asked.name == "_catalog"),
            push: asked.push && own && has(Role::Build),
            delete: asked.delete && own && has(Role::Admin),
            name: asked.name,
        }
    });
    lessened
        .filter(|one| one.pull || one.push || one.delete)
        .collect()
}

/// The answer: a token for what is asked, as far as `who` may do it. What only pulls gets back what it
/// came with.
fn answer(access: &Access, who: &Principal, with: &str, asked: Vec<Repository>) -> Response {
    let now = Timestamp::now();
    let (token, seconds) = match who {
        Principal::Admin | Principal::Client(_) => {
            let client: Option<&Arc<Grant>> = match who {
                Principal::Client(grant) => Some(grant),
                _ => None,
            };
            let end = now.checked_add(TTL).unwrap_or(Timestamp::MAX);
            let pass = Pass {
                client: client.map(|grant| grant.id.to_string()),
                expires: end.as_second(),
                good: Good::Registry {
                    repositories: granted(access, who, asked),
                },
            };
            (pass.seal(access.key()), TTL.as_secs())
        }
        _ => (with.to_owned(), TTL.as_secs()),
    };
    let body = json!({
        "token": token,
        "access_token": token,
        "expires_in": seconds,
        "issued_at": now.to_string(),
    });
    let headers = [(header::CACHE_CONTROL, "no-store")];
    (StatusCode::OK, headers, axum::Json(body)).into_response()
}

async fn by_login(
    State(service): Api,
    Extension(who): Extension<Principal>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let asked = scopes(&pairs(query.as_deref().unwrap_or_default()));
    let with = presented(&headers, true).unwrap_or_default();
    let with = String::from_utf8_lossy(&with);
    answer(service.access(), &who, &with, asked)
}

async fn by_form(State(service): Api, peer: Option<Extension<Peer>>, form: Bytes) -> Response {
    let pairs = pairs(&String::from_utf8_lossy(&form));
    let get = |wanted: &str| {
        let found = pairs.iter().find(|(key, _)| key == wanted);
        found.map(|(_, value)| value.as_str())
    };
    let with = match get("grant_type") {
        Some("password") => get("password"),
        Some("refresh_token") => get("refresh_token"),
        _ => None,
    };
    let access = service.access();
    let who = with.and_then(|with| access.who(with.as_bytes()));
    match (who, with) {
        (Some(who), Some(with)) if !matches!(who, Principal::Removed(_) | Principal::Join(_)) => {
            answer(access, &who, with, scopes(&pairs))
        }
        _ => refusals::registry_wrong_login(access, peer.map(|Extension(peer)| peer)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_as_engines_write_them() {
        let check = |query: &str, expect: &[(&str, bool, bool, bool)]| {
            let found = scopes(&pairs(query));
            let found: Vec<_> = found
                .iter()
                .map(|one| (&*one.name, one.pull, one.push, one.delete))
                .collect();
            assert_eq!(found, expect, "{query}");
        };
        check("service=h%3A1&account=x", &[]);
        check(
            "scope=repository%3Ateam%2Fapp%3Apull",
            &[("team/app", true, false, false)],
        );
        check(
            "scope=repository:a:pull,push&scope=repository:b:pull",
            &[("a", true, true, false), ("b", true, false, false)],
        );
        check(
            "scope=repository:a:pull+repository:b:*",
            &[("a", true, false, false), ("b", true, true, true)],
        );
        check(
            "scope=registry:catalog:*",
            &[("_catalog", true, false, false)],
        );
        check("scope=repository:../a:pull&scope=other:a:pull&scope=a", &[]);
        let many = "scope=repository:a:pull&".repeat(100);
        assert_eq!(scopes(&pairs(&many)).len(), REPOSITORIES);
    }
}
