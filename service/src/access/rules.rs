//! What each call needs, what of projects it touches, and what it is called in the audit log.
//!
//! A call that no rule names needs the administrator, so that a new one is closed until somebody
//! says otherwise; tests go through the tables of calls and fail where one has no rule.

use axum::http::Method;
use chalk_core::wire::Role;

/// What of projects a call touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sees {
    /// Nothing: it is the same for all.
    Nothing,
    /// What belongs to the project of the token.
    Own,
    /// What belongs to the machines as a whole, which only administrators and the default project
    /// run.
    Machines,
}

/// What one call below `/v1` needs.
#[derive(Debug)]
pub(crate) struct Rule {
    method: &'static str,
    /// The path; `*` is one part of it.
    path: &'static str,
    /// The role.
    pub(crate) role: Role,
    /// What of projects it touches.
    pub(crate) sees: Sees,
    /// What it changes, in two words; nothing where it changes nothing that the audit log tells of.
    pub(crate) action: Option<&'static str>,
}

const fn looks(path: &'static str, sees: Sees) -> Rule {
    Rule {
        method: "GET",
        path,
        role: Role::Read,
        sees,
        action: None,
    }
}

const fn needs(method: &'static str, path: &'static str, role: Role, sees: Sees) -> Rule {
    Rule {
        method,
        path,
        role,
        sees,
        action: None,
    }
}

impl Rule {
    const fn tells(mut self, action: &'static str) -> Self {
        self.action = Some(action);
        self
    }
}

/// Every call below `/v1`, and the metrics. Uploads of blobs, and what goes in and out of processes, are not in the
/// audit log: nothing of it is seen under a name before another call says so.
const RULES: &[Rule] = {
    use Role::{Admin, Build, Warm};
    use Sees::{Machines, Nothing, Own};
    &[
        looks("/metrics", Machines),
        looks("/v1/openapi.json", Nothing),
        looks("/v1/info", Nothing),
        // Tell what would be, and change nothing.
        needs("POST", "/v1/resolve", Role::Read, Own),
        needs("POST", "/v1/plan", Role::Read, Own),
        needs("POST", "/v1/blobs/missing", Build, Own),
        needs("POST", "/v1/blobs", Build, Own),
        needs("PUT", "/v1/blobs/*", Build, Own),
        looks("/v1/blobs/*", Own),
        needs("POST", "/v1/builds", Build, Own).tells("build.start"),
        looks("/v1/builds", Own),
        looks("/v1/builds/*", Own),
        needs("DELETE", "/v1/builds/*", Build, Own).tells("build.cancel"),
        looks("/v1/builds/*/events", Own),
        looks("/v1/builds/*/logs", Own),
        looks("/v1/images", Own),
        looks("/v1/storage", Own),
        looks("/v1/images/*", Own),
        looks("/v1/images/*/manifest", Own),
        needs("DELETE", "/v1/images/*", Admin, Own).tells("image.delete"),
        needs("PUT", "/v1/images/*/names/*", Build, Own).tells("image.name"),
        needs("POST", "/v1/images/*/verify", Build, Own).tells("image.verify"),
        needs("POST", "/v1/imports", Build, Machines).tells("image.import"),
        needs("POST", "/v1/sandboxes", Build, Own).tells("sandbox.start"),
        looks("/v1/sandboxes", Own),
        looks("/v1/sandboxes/*", Own),
        needs("POST", "/v1/sandboxes/*/stop", Build, Own).tells("sandbox.stop"),
        needs("DELETE", "/v1/sandboxes/*", Build, Own).tells("sandbox.remove"),
        needs("POST", "/v1/sandboxes/*/exec", Build, Own).tells("sandbox.exec"),
        looks("/v1/sandboxes/*/processes", Own),
        needs("GET", "/v1/sandboxes/*/processes/*/output", Build, Own),
        needs("POST", "/v1/sandboxes/*/processes/*/input", Build, Own),
        needs("POST", "/v1/sandboxes/*/processes/*/resize", Build, Own),
        needs("POST", "/v1/sandboxes/*/processes/*/signal", Build, Own).tells("sandbox.signal"),
        // The files of a sandbox may hold anything.
        needs("GET", "/v1/sandboxes/*/files", Build, Own),
        needs("PUT", "/v1/sandboxes/*/files", Build, Own).tells("sandbox.write"),
        needs("POST", "/v1/warms", Warm, Own).tells("warm.start"),
        looks("/v1/warms", Own),
        looks("/v1/warms/*", Own),
        needs("POST", "/v1/warms/*/retry", Warm, Own).tells("warm.retry"),
        needs("DELETE", "/v1/warms/*", Warm, Own).tells("warm.cancel"),
        looks("/v1/warms/*/events", Own),
        looks("/v1/prewarm", Machines),
        needs("PUT", "/v1/prewarm", Warm, Machines).tells("prewarm.set"),
        looks("/v1/regions", Nothing),
        looks("/v1/caches", Own),
        looks("/v1/nodes", Nothing),
        looks("/v1/nodes/*", Nothing),
        needs("DELETE", "/v1/nodes/*", Admin, Nothing).tells("node.remove"),
        needs("POST", "/v1/nodes/*/drain", Admin, Nothing).tells("node.drain"),
        needs("POST", "/v1/nodes/*/undrain", Admin, Nothing).tells("node.undrain"),
        looks("/v1/nodes/*/cache", Own),
        needs("DELETE", "/v1/nodes/*/cache/*", Warm, Own).tells("cache.remove"),
        needs("POST", "/v1/nodes/*/cache/*/unpin", Warm, Own).tells("cache.unpin"),
        needs("POST", "/v1/nodes/*/cache/gc", Warm, Machines).tells("cache.collect"),
        // Who may come in is nobody else's business.
        needs("POST", "/v1/gc", Admin, Nothing).tells("gc.run"),
        needs("POST", "/v1/join-tokens", Admin, Nothing).tells("join-token.create"),
        needs("GET", "/v1/join-tokens", Admin, Nothing),
        needs("DELETE", "/v1/join-tokens/*", Admin, Nothing).tells("join-token.revoke"),
        needs("GET", "/v1/tokens", Admin, Nothing),
        needs("POST", "/v1/tokens", Admin, Nothing).tells("token.create"),
        needs("DELETE", "/v1/tokens/*", Admin, Nothing).tells("token.revoke"),
        looks("/v1/registry/token", Nothing),
        needs("POST", "/v1/registry/token", Role::Read, Nothing),
        looks("/v1/projects", Own),
        looks("/v1/projects/*", Own),
        needs("POST", "/v1/projects", Admin, Nothing).tells("project.create"),
        needs("PUT", "/v1/projects/*", Admin, Nothing).tells("project.set"),
        needs("DELETE", "/v1/projects/*", Admin, Nothing).tells("project.remove"),
        needs("GET", "/v1/audit", Admin, Nothing),
        needs("POST", "/v1/agent/register", Admin, Nothing).tells("node.join"),
        needs("POST", "/v1/agent/session", Admin, Nothing),
        needs("GET", "/v1/agent/registry-token", Admin, Nothing),
        needs("POST", "/v1/agent/streams/*", Admin, Nothing),
        needs("POST", "/v1/agent/files/*", Admin, Nothing),
        needs("GET", "/v1/agent/files/*", Admin, Nothing),
        // Without a signature they are of no use.
        needs("PUT", "/v1/volume-objects/*", Admin, Nothing),
        looks("/v1/volume-objects/*", Nothing),
    ]
};

/// Every member of the gRPC services that are ours; `true` where it changes something.
const MEMBERS: &[(&str, Role, bool)] = {
    use Role::{Build, Read};
    &[
        (
            "chalk.sandbox.v1.CustomImageService/GetOrBuildCustomImage",
            Build,
            true,
        ),
        (
            "chalk.sandbox.v1.CustomImageService/BuildCustomImage",
            Build,
            true,
        ),
        (
            "chalk.sandbox.v1.CustomImageService/GetCustomImage",
            Read,
            false,
        ),
        (
            "chalk.sandbox.v1.CustomImageService/StreamCustomImageBuildUpdates",
            Read,
            false,
        ),
        (
            "chalk.sandbox.v1.CustomImageService/ListCustomImageBuilds",
            Read,
            false,
        ),
        (
            "chalk.sandbox.v1.CustomImageService/GetCustomImageBuild",
            Read,
            false,
        ),
        (
            "chalk.sandbox.v1.CustomImageService/GetCustomImageBuildLogs",
            Read,
            false,
        ),
        (
            "chalk.sandbox.v1.CustomImageService/GetCustomImageBuildWorkflow",
            Read,
            false,
        ),
        (
            "chalk.sandbox.v1.CustomImageService/GetCustomImageBuildUsage",
            Read,
            false,
        ),
        // Credentials are given away.
        (
            "chalk.sandbox.v1.CustomImageService/GetImagePullCredentials",
            Build,
            true,
        ),
        (
            "chalk.sandbox.v2.SandboxFilesystemService/UploadFile",
            Build,
            true,
        ),
        (
            "chalk.sandbox.v2.SandboxFilesystemService/DownloadFile",
            Build,
            false,
        ),
        (
            "chalk.sandbox.v2.SandboxProcessService/ExecCommand",
            Build,
            true,
        ),
        (
            "chalk.sandbox.v2.SandboxProcessService/OpenSession",
            Build,
            true,
        ),
        (
            "chalk.sandbox.v2.SandboxProcessService/GetSession",
            Read,
            false,
        ),
        (
            "chalk.sandbox.v2.SandboxProcessService/ListSessions",
            Read,
            false,
        ),
        ("chalk.sandbox.v2.SandboxService/CreateSandbox", Build, true),
        ("chalk.sandbox.v2.SandboxService/GetSandbox", Read, false),
        ("chalk.sandbox.v2.SandboxService/ListSandboxes", Read, false),
        (
            "chalk.sandbox.v2.SandboxService/SuspendSandbox",
            Build,
            false,
        ),
        (
            "chalk.sandbox.v2.SandboxService/ResumeSandbox",
            Build,
            false,
        ),
        (
            "chalk.sandbox.v2.SandboxService/TerminateSandbox",
            Build,
            true,
        ),
        ("chalk.volume.v2.VolumeService/CreateVolume", Build, true),
        ("chalk.volume.v2.VolumeService/GetVolume", Read, false),
        ("chalk.volume.v2.VolumeService/GetVolumeStats", Read, false),
        ("chalk.volume.v2.VolumeService/ListVolumes", Read, false),
        ("chalk.volume.v2.VolumeService/DeleteVolume", Build, true),
        (
            "chalk.volume.v2.VolumeService/ListVolumeVersions",
            Read,
            false,
        ),
        ("chalk.volume.v2.VolumeService/CreateRef", Build, true),
        ("chalk.volume.v2.VolumeService/ListRefs", Read, false),
        ("chalk.volume.v2.VolumeService/DeleteRef", Build, true),
        ("chalk.volume.v2.VolumeService/CommitVersion", Build, true),
        ("chalk.volume.v2.VolumeService/GetCommitStatus", Read, false),
        (
            "chalk.volume.v2.VolumeService/RequestUploadURLs",
            Build,
            false,
        ),
        ("chalk.volume.v2.VolumeService/ListFiles", Read, false),
        ("chalk.volume.v2.VolumeService/GetFile", Read, false),
        (
            "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            Read,
            false,
        ),
        (
            "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            Read,
            false,
        ),
    ]
};

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

/// The rule of a call below `/v1`. What answers `GET` answers `HEAD`, too.
pub(crate) fn rule(method: &Method, path: &str) -> Option<&'static Rule> {
    let method = match method.as_str() {
        "HEAD" => "GET",
        other => other,
    };
    // `/v1/nodes/n/cache/gc` is no image.
    let fitting = RULES
        .iter()
        .filter(|rule| rule.method == method && fits(rule.path, path));
    fitting.min_by_key(|rule| rule.path.matches('*').count())
}

fn member(path: &str) -> Option<&'static (&'static str, Role, bool)> {
    let call = path.strip_prefix('/')?;
    MEMBERS.iter().find(|(name, ..)| *name == call)
}

/// Whether a rule names the member of a gRPC service.
#[cfg(test)]
pub(crate) fn names_member(path: &str) -> bool {
    member(path).is_some()
}

fn is_registry(path: &str) -> bool {
    path == "/v2" || path.starts_with("/v2/")
}

/// The role that a call needs, whose path may be that of a gRPC call.
pub(crate) fn needed(method: &Method, path: &str) -> Role {
    if is_registry(path) {
        return match *method {
            Method::GET | Method::HEAD => Role::Read,
            Method::POST | Method::PUT | Method::PATCH => Role::Build,
            // Uploads that are given up; what is there stays.
            Method::DELETE if path.contains("/blobs/uploads/") => Role::Build,
            _ => Role::Admin,
        };
    }
    if path.starts_with("/v1/") || path == "/metrics" {
        return rule(method, path).map_or(Role::Admin, |rule| rule.role);
    }
    member(path).map_or(Role::Admin, |(_, role, _)| *role)
}

/// What a call changes, in the words of the audit log; nothing if it changes nothing.
pub(crate) fn action(method: &Method, path: &str) -> Option<String> {
    if is_registry(path) {
        let manifest = path.contains("/manifests/");
        let upload = path.contains("/blobs/uploads/");
        return match *method {
            Method::PUT if manifest => Some("registry.push".to_owned()),
            Method::DELETE if !upload => Some("registry.delete".to_owned()),
            _ => None,
        };
    }
    if path.starts_with("/v1/") {
        return rule(method, path)?.action.map(str::to_owned);
    }
    let (name, _, changes) = member(path)?;
    let word = name.rsplit('/').next().unwrap_or_default();
    changes.then(|| format!("sdk.{word}"))
}

/// What a call is about: the parts of its path that its rule leaves open.
pub(crate) fn target(method: &Method, path: &str) -> String {
    let Some(rule) = rule(method, path) else {
        return path
            .trim_start_matches("/v2/")
            .trim_start_matches('/')
            .to_owned();
    };
    let parts = rule.path.split('/').zip(path.split('/'));
    let open = parts.filter(|(pattern, _)| *pattern == "*");
    let open: Vec<&str> = open.map(|(_, part)| part).collect();
    open.join(" ")
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
        check("HEAD /v1/builds", Role::Read);
        check("GET /v1/builds/1/events", Role::Read);
        check("POST /v1/builds", Role::Build);
        check("POST /v1/builds/1", Role::Admin);
        check("DELETE /v1/builds/1", Role::Build);
        check("DELETE /v1/images/x", Role::Admin);
        check("POST /v1/gc", Role::Admin);
        check("PUT /v1/images/x/names/y", Role::Build);
        check("POST /v1/images/x/verify", Role::Build);
        check("PUT /v1/images/x/names/", Role::Admin);
        check("GET /v1/tokens", Role::Admin);
        check("HEAD /v1/tokens", Role::Admin);
        check("POST /v1/tokens", Role::Admin);
        check("GET /v1/agent/anything", Role::Admin);
        check("POST /v1/agent/session", Role::Admin);
        check("POST /v1/warms", Role::Warm);
        check("DELETE /v1/nodes/n", Role::Admin);
        check("GET /v1/new", Role::Admin);
        check("GET /metrics", Role::Read);
        check("POST /metrics", Role::Admin);
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

    #[test]
    fn what_the_audit_log_calls_it() {
        let check = |call: &str, expect: Option<(&str, &str)>| {
            let (method, path) = call.split_once(' ').unwrap();
            let method = method.parse().unwrap();
            let told = action(&method, path).map(|action| (action, target(&method, path)));
            let told = told.as_ref().map(|(action, target)| (&**action, &**target));
            assert_eq!(told, expect, "{call}");
        };
        check("GET /v1/builds", None);
        check("POST /v1/builds", Some(("build.start", "")));
        check("PUT /v1/images/x/names/y", Some(("image.name", "x y")));
        check("POST /v1/nodes/n/cache/gc", Some(("cache.collect", "n")));
        check("POST /v1/blobs", None);
        check(
            "PUT /v2/a/b/manifests/v1",
            Some(("registry.push", "a/b/manifests/v1")),
        );
        check("PATCH /v2/a/blobs/uploads/1", None);
        check("DELETE /v2/a/blobs/uploads/1", None);
        check(
            "DELETE /v2/a/blobs/x",
            Some(("registry.delete", "a/blobs/x")),
        );
        let volumes = "chalk.volume.v2.VolumeService";
        check(
            &format!("POST /{volumes}/DeleteVolume"),
            Some(("sdk.DeleteVolume", &format!("{volumes}/DeleteVolume"))),
        );
        check(&format!("POST /{volumes}/GetFile"), None);
    }
}
