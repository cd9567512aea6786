//! What each call needs.
//!
//! A call that no rule names needs the administrator, so that a new one is closed until somebody
//! says otherwise.

use axum::http::Method;
use chalk_core::wire::Role;

/// Calls below `/v1` that change something and need less than the administrator; `*` is one part of
/// the path.
const RULES: [(&str, &str, Role); 34] = [
    // Tell what would be, and change nothing.
    ("GET", "/metrics", Role::Read),
    ("HEAD", "/metrics", Role::Read),
    ("POST", "/v1/resolve", Role::Read),
    ("POST", "/v1/plan", Role::Read),
    ("POST", "/v1/blobs/missing", Role::Build),
    ("POST", "/v1/blobs", Role::Build),
    ("PUT", "/v1/blobs/*", Role::Build),
    ("POST", "/v1/builds", Role::Build),
    ("DELETE", "/v1/builds/*", Role::Build),
    ("PUT", "/v1/images/*/names/*", Role::Build),
    ("POST", "/v1/images/*/verify", Role::Build),
    ("POST", "/v1/imports", Role::Build),
    ("POST", "/v1/sandboxes", Role::Build),
    ("POST", "/v1/sandboxes/*/stop", Role::Build),
    ("DELETE", "/v1/sandboxes/*", Role::Build),
    ("POST", "/v1/sandboxes/*/exec", Role::Build),
    ("GET", "/v1/sandboxes/*/processes/*/output", Role::Build),
    ("POST", "/v1/sandboxes/*/processes/*/input", Role::Build),
    ("POST", "/v1/sandboxes/*/processes/*/resize", Role::Build),
    ("POST", "/v1/sandboxes/*/processes/*/signal", Role::Build),
    ("GET", "/v1/sandboxes/*/files", Role::Build),
    ("HEAD", "/v1/sandboxes/*/files", Role::Build),
    ("PUT", "/v1/sandboxes/*/files", Role::Build),
    ("POST", "/v1/warms", Role::Warm),
    ("POST", "/v1/warms/*/retry", Role::Warm),
    ("DELETE", "/v1/warms/*", Role::Warm),
    ("PUT", "/v1/prewarm", Role::Warm),
    ("DELETE", "/v1/nodes/*/cache/*", Role::Warm),
    ("POST", "/v1/nodes/*/cache/*/unpin", Role::Warm),
    ("POST", "/v1/nodes/*/cache/gc", Role::Warm),
    // Who may come in is nobody else's business.
    ("GET", "/v1/tokens", Role::Admin),
    ("HEAD", "/v1/tokens", Role::Admin),
    ("GET", "/v1/join-tokens", Role::Admin),
    ("HEAD", "/v1/join-tokens", Role::Admin),
];

/// Members of gRPC services that only look.
const LOOKS: [&str; 3] = ["Get", "List", "Stream"];
/// gRPC services whose members need nothing but a token.
const OPEN_SERVICES: [&str; 2] = ["grpc.reflection.v1", "grpc.reflection.v1alpha"];

fn fits(pattern: &str, path: &str) -> bool {
    let (mut pattern, mut path) = (pattern.split('/'), path.split('/'));
    loop {
        match (pattern.next(), path.next()) {
            (None, None) => return true,
            (Some("*"), Some(part)) if !part.is_empty() => {}
            (Some(rule), Some(part)) if rule == part => {}
            _ => return false,
        }
    }
}

/// The role that a call needs, whose path may be that of a gRPC call.
pub(crate) fn needed(method: &Method, path: &str) -> Role {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    if path == "/v2" || path.starts_with("/v2/") {
        return match *method {
            _ if reads => Role::Read,
            Method::POST | Method::PUT | Method::PATCH => Role::Build,
            // Uploads that are given up; what is there stays.
            Method::DELETE if path.contains("/blobs/uploads/") => Role::Build,
            _ => Role::Admin,
        };
    }
    if let Some((_, _, role)) = RULES
        .iter()
        .find(|(verb, pattern, _)| method.as_str() == *verb && fits(pattern, path))
    {
        return *role;
    }
    if path.starts_with("/v1/agent/") {
        return Role::Admin;
    }
    if path.starts_with("/v1/") {
        return if reads { Role::Read } else { Role::Admin };
    }
    grpc(path)
}

/// The role that a gRPC call needs.
fn grpc(path: &str) -> Role {
    let Some((service, member)) = path.trim_start_matches('/').split_once('/') else {
        return Role::Admin;
    };
    let package = service.rsplit_once('.').map_or("", |(package, _)| package);
    if OPEN_SERVICES.contains(&package) {
        return Role::Read;
    }
    match package {
        "chalk.sandbox.v1" | "chalk.sandbox.v2" | "chalk.volume.v2" => {
            // Credentials are given away, and the files of a sandbox may hold anything.
            let looks = LOOKS.iter().any(|verb| member.starts_with(verb))
                && !member.starts_with("GetOrBuild");
            if looks && !member.contains("Credentials") {
                Role::Read
            } else {
                Role::Build
            }
        }
        _ => Role::Admin,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_calls_need() {
        let check = |call: &str, role: Role| {
            let (method, path) = call.split_once(' ').unwrap();
            assert_eq!(needed(&method.parse().unwrap(), path), role, "{call}");
        };
        check("GET /v1/builds", Role::Read);
        check("GET /v1/builds/1/events", Role::Read);
        check("POST /v1/builds", Role::Build);
        check("POST /v1/builds/1", Role::Admin);
        check("DELETE /v1/builds/1", Role::Build);
        check("DELETE /v1/images/x", Role::Admin);
        check("PUT /v1/images/x/names/y", Role::Build);
        check("POST /v1/images/x/verify", Role::Build);
        check("PUT /v1/images/x/names/", Role::Admin);
        check("GET /v1/tokens", Role::Admin);
        check("POST /v1/tokens", Role::Admin);
        check("GET /v1/agent/anything", Role::Admin);
        check("POST /v1/agent/session", Role::Admin);
        check("POST /v1/warms", Role::Warm);
        check("DELETE /v1/nodes/n", Role::Admin);
        check("GET /v2/", Role::Read);
        check("GET /v2", Role::Read);
        check("HEAD /v2/a/blobs/x", Role::Read);
        check("PUT /v2/a/manifests/x", Role::Build);
        check("DELETE /v2/a/manifests/x", Role::Admin);
        check("DELETE /v2/a/blobs/uploads/1", Role::Build);
        check("GET /v2x", Role::Admin);
        let images = "chalk.sandbox.v1.CustomImageService";
        check(&format!("POST /{images}/GetCustomImage"), Role::Read);
        check(
            &format!("POST /{images}/GetOrBuildCustomImage"),
            Role::Build,
        );
        check(
            &format!("POST /{images}/GetImagePullCredentials"),
            Role::Build,
        );
        check("POST /chalk.server.v1.AuthService/CreateUser", Role::Admin);
        check("POST /chalk.other.v1.Service/GetIt", Role::Admin);
        check("POST /nothing", Role::Admin);
    }
}
