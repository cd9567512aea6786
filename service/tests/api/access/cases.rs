//! What each call is asked with, and who may ask it.

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::world::{Things, World, call, field, on_image};
use crate::service::{commands, request};

/// Who may make a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    /// Everybody, without a token, too.
    Nothing,
    Read,
    Build,
    Warm,
    Admin,
    /// Nodes, and nobody else.
    Node,
    /// A login in the request itself.
    Login,
}

/// What of projects a call touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    /// Nothing, or a list of what is one's own.
    All,
    /// A thing of a project.
    One,
    /// What only administrators and the default project run.
    Machines,
}

/// A call.
pub(super) struct Case {
    /// As the table of calls has it: `GET /v1/builds/{id}`.
    pub(super) call: String,
    pub(super) needs: Needs,
    pub(super) of: Of,
    /// Whether a node, and what pulls from one repository, may make it for what is theirs.
    pub(super) node: bool,
    pub(super) puller: bool,
    /// It names something that is not there, so that nothing is lost: 404 is the answer to whoever
    /// may ask.
    pub(super) absent: bool,
    /// It names something that is not in the thing that it is about.
    pub(super) inside: bool,
    /// What is another project's may not be changed, and whoever tries is told so.
    pub(super) told: bool,
    ask: fn(&World, &Things) -> RequestBuilder,
}

impl Case {
    fn new(call: &str, needs: Needs, of: Of, ask: fn(&World, &Things) -> RequestBuilder) -> Self {
        Self {
            call: call.to_owned(),
            needs,
            of,
            node: false,
            puller: false,
            absent: false,
            inside: false,
            told: false,
            ask,
        }
    }

    fn absent(mut self) -> Self {
        self.absent = true;
        self
    }

    fn inside(mut self) -> Self {
        self.inside = true;
        self
    }

    fn told(mut self) -> Self {
        self.told = true;
        self
    }

    fn node(mut self) -> Self {
        self.node = true;
        self
    }

    fn pulls(mut self) -> Self {
        self.puller = true;
        self
    }

    pub(super) fn request(&self, world: &World, things: &Things) -> RequestBuilder {
        (self.ask)(world, things)
    }
}

fn get(world: &World, path: &str) -> RequestBuilder {
    world.api.bare(Method::GET, path)
}

fn send(world: &World, method: Method, path: &str, body: &Value) -> RequestBuilder {
    world.api.bare(method, path).json(body)
}

/// Every call of the HTTP API.
pub(super) fn api() -> Vec<Case> {
    use Method as M;
    use Needs::{Admin, Build, Login, Node, Nothing, Read, Warm};
    use Of::{All, Machines, One};
    let c = Case::new;
    vec![
        c("GET /healthz", Nothing, All, |w, _| get(w, "/healthz")),
        c("GET /readyz", Nothing, All, |w, _| get(w, "/readyz")),
        c("GET /metrics", Read, Machines, |w, _| get(w, "/metrics")),
        c("GET /v1/openapi.json", Read, All, |w, _| {
            get(w, "/v1/openapi.json")
        }),
        c("GET /v1/info", Read, All, |w, _| get(w, "/v1/info")),
        c("POST /v1/resolve", Read, One, |w, t| {
            send(w, M::POST, "/v1/resolve", &on_image(t))
        }),
        c("POST /v1/plan", Read, One, |w, t| {
            send(w, M::POST, "/v1/plan", &on_image(t))
        }),
        c("POST /v1/blobs/missing", Build, All, |w, t| {
            send(
                w,
                M::POST,
                "/v1/blobs/missing",
                &json!({ "digests": [t.hash] }),
            )
        }),
        c("POST /v1/blobs", Build, All, |w, _| {
            w.api.bare(M::POST, "/v1/blobs").body("x")
        }),
        c("PUT /v1/blobs/{digest}", Build, All, |w, _| {
            let digest = chalk_core::Digest::of(b"x");
            w.api.bare(M::PUT, &format!("/v1/blobs/{digest}")).body("x")
        }),
        c("GET /v1/blobs/{digest}", Read, One, |w, t| {
            get(w, &format!("/v1/blobs/{}", t.layer))
        }),
        c("POST /v1/builds", Build, All, |w, t| {
            let wanted = request(commands(&[&format!("echo {}", t.project)]));
            w.api.bare(M::POST, "/v1/builds").json(&wanted)
        }),
        c("GET /v1/builds", Read, All, |w, _| get(w, "/v1/builds")),
        c("GET /v1/builds/{id}", Read, One, |w, t| {
            get(w, &format!("/v1/builds/{}", t.build))
        }),
        c("DELETE /v1/builds/{id}", Build, One, |w, t| {
            w.api.bare(M::DELETE, &format!("/v1/builds/{}", t.build))
        }),
        c("GET /v1/builds/{id}/events", Read, One, |w, t| {
            get(w, &format!("/v1/builds/{}/events", t.build))
        }),
        c("GET /v1/builds/{id}/logs", Read, One, |w, t| {
            get(w, &format!("/v1/builds/{}/logs", t.build))
        }),
        c("GET /v1/images", Read, All, |w, _| get(w, "/v1/images")),
        c("GET /v1/storage", Read, All, |w, _| get(w, "/v1/storage")),
        c("GET /v1/images/{id}", Read, One, |w, t| {
            get(w, &format!("/v1/images/{}", &t.hash.hex()[..12]))
        }),
        c("GET /v1/images/{id}/manifest", Read, One, |w, t| {
            get(w, &format!("/v1/images/{}/manifest", t.hash.hex()))
        }),
        c("DELETE /v1/images/{id}", Admin, One, |w, t| {
            w.api
                .bare(M::DELETE, &format!("/v1/images/{}%2Fnone", t.project))
        })
        .absent(),
        c("PUT /v1/images/{id}/names/{name}", Build, One, |w, t| {
            w.api
                .bare(M::PUT, &format!("/v1/images/{}/names/more", t.hash.hex()))
        }),
        c("POST /v1/images/{id}/verify", Build, One, |w, t| {
            send(
                w,
                M::POST,
                &format!("/v1/images/{}/verify", t.hash.hex()),
                &json!({}),
            )
        }),
        c("POST /v1/imports", Build, Machines, |w, _| {
            w.api.bare(M::POST, "/v1/imports")
        }),
        c("POST /v1/sandboxes", Build, One, |w, t| {
            send(
                w,
                M::POST,
                "/v1/sandboxes",
                &json!({ "image": t.hash.hex(), "node": t.node }),
            )
        }),
        c("GET /v1/sandboxes", Read, All, |w, _| {
            get(w, "/v1/sandboxes?all=true")
        }),
        c("GET /v1/sandboxes/{id}", Read, One, |w, t| {
            get(w, &format!("/v1/sandboxes/{}", t.sandbox))
        }),
        c("DELETE /v1/sandboxes/{id}", Build, One, |w, t| {
            w.api
                .bare(M::DELETE, &format!("/v1/sandboxes/{}", t.sandbox))
        }),
        c("POST /v1/sandboxes/{id}/stop", Build, One, |w, t| {
            send(
                w,
                M::POST,
                &format!("/v1/sandboxes/{}/stop", t.sandbox),
                &json!({}),
            )
        }),
        c("POST /v1/sandboxes/{id}/exec", Build, One, |w, t| {
            send(
                w,
                M::POST,
                &format!("/v1/sandboxes/{}/exec", t.sandbox),
                &json!({ "args": ["true"] }),
            )
        }),
        c("GET /v1/sandboxes/{id}/processes", Read, One, |w, t| {
            get(w, &format!("/v1/sandboxes/{}/processes", t.sandbox))
        }),
        c("GET /v1/sandboxes/{id}/files", Build, One, |w, t| {
            get(w, &format!("/v1/sandboxes/{}/files?path=/x", t.sandbox))
        }),
        c("PUT /v1/sandboxes/{id}/files", Build, One, |w, t| {
            w.api.bare(
                M::PUT,
                &format!("/v1/sandboxes/{}/files?path=/x", t.sandbox),
            )
        }),
        c(
            "GET /v1/sandboxes/{id}/processes/{process}/output",
            Build,
            One,
            |w, t| {
                get(
                    w,
                    &format!(
                        "/v1/sandboxes/{}/processes/main/output?follow=false",
                        t.sandbox
                    ),
                )
            },
        ),
        c(
            "POST /v1/sandboxes/{id}/processes/{process}/input",
            Build,
            One,
            |w, t| {
                w.api.bare(
                    M::POST,
                    &format!("/v1/sandboxes/{}/processes/main/input", t.sandbox),
                )
            },
        ),
        c(
            "POST /v1/sandboxes/{id}/processes/{process}/resize",
            Build,
            One,
            |w, t| {
                let path = format!("/v1/sandboxes/{}/processes/main/resize", t.sandbox);
                send(w, M::POST, &path, &json!({ "rows": 1, "cols": 1 }))
            },
        ),
        c(
            "POST /v1/sandboxes/{id}/processes/{process}/signal",
            Build,
            One,
            |w, t| {
                let path = format!("/v1/sandboxes/{}/processes/main/signal", t.sandbox);
                send(w, M::POST, &path, &json!({ "signal": "TERM" }))
            },
        ),
        c("POST /v1/warms", Warm, One, |w, t| {
            send(
                w,
                M::POST,
                "/v1/warms",
                &json!({ "images": [t.hash], "nodes": [t.node] }),
            )
        }),
        c("GET /v1/warms", Read, All, |w, _| get(w, "/v1/warms")),
        c("GET /v1/warms/{id}", Read, One, |w, t| {
            get(w, &format!("/v1/warms/{}", t.warm))
        }),
        c("POST /v1/warms/{id}/retry", Warm, One, |w, t| {
            w.api.bare(M::POST, &format!("/v1/warms/{}/retry", t.warm))
        }),
        c("DELETE /v1/warms/{id}", Warm, One, |w, t| {
            w.api.bare(M::DELETE, &format!("/v1/warms/{}", t.warm))
        }),
        c("GET /v1/warms/{id}/events", Read, One, |w, t| {
            get(w, &format!("/v1/warms/{}/events", t.warm))
        }),
        c("GET /v1/prewarm", Read, Machines, |w, _| {
            get(w, "/v1/prewarm")
        }),
        c("PUT /v1/prewarm", Warm, Machines, |w, _| {
            send(w, M::PUT, "/v1/prewarm", &json!({ "images": [] }))
        }),
        c("GET /v1/regions", Read, All, |w, _| get(w, "/v1/regions")),
        c("GET /v1/caches", Read, All, |w, _| get(w, "/v1/caches")),
        c("GET /v1/nodes", Read, All, |w, _| get(w, "/v1/nodes")),
        c("GET /v1/nodes/{name}", Read, All, |w, _| {
            get(w, "/v1/nodes/node-a")
        }),
        c("DELETE /v1/nodes/{name}", Admin, All, |w, _| {
            w.api.bare(M::DELETE, "/v1/nodes/none")
        })
        .absent(),
        c("POST /v1/nodes/{name}/drain", Admin, All, |w, _| {
            w.api.bare(M::POST, "/v1/nodes/none/drain")
        })
        .absent(),
        c("POST /v1/nodes/{name}/undrain", Admin, All, |w, _| {
            w.api.bare(M::POST, "/v1/nodes/none/undrain")
        })
        .absent(),
        c("GET /v1/nodes/{name}/cache", Read, All, |w, _| {
            get(w, "/v1/nodes/node-b/cache")
        }),
        c(
            "DELETE /v1/nodes/{name}/cache/{image}",
            Warm,
            One,
            |w, t| {
                w.api.bare(
                    M::DELETE,
                    &format!("/v1/nodes/{}/cache/{}", t.node, t.manifest),
                )
            },
        ),
        c(
            "POST /v1/nodes/{name}/cache/{image}/unpin",
            Warm,
            One,
            |w, t| {
                w.api.bare(
                    M::POST,
                    &format!("/v1/nodes/{}/cache/{}/unpin", t.node, t.manifest),
                )
            },
        ),
        c("POST /v1/nodes/{name}/cache/gc", Warm, Machines, |w, _| {
            send(w, M::POST, "/v1/nodes/node-a/cache/gc", &json!({}))
        }),
        c("POST /v1/gc", Admin, All, |w, _| {
            send(w, M::POST, "/v1/gc", &json!({"dry_run": true}))
        }),
        c("POST /v1/join-tokens", Admin, All, |w, _| {
            send(w, M::POST, "/v1/join-tokens", &json!({}))
        }),
        c("GET /v1/join-tokens", Admin, All, |w, _| {
            get(w, "/v1/join-tokens")
        }),
        c("DELETE /v1/join-tokens/{id}", Admin, All, |w, _| {
            w.api.bare(M::DELETE, "/v1/join-tokens/none")
        })
        .absent(),
        c("GET /v1/tokens", Admin, All, |w, _| get(w, "/v1/tokens")),
        c("POST /v1/tokens", Admin, All, |w, _| {
            send(w, M::POST, "/v1/tokens", &json!({ "name": "x" }))
        }),
        c("DELETE /v1/tokens/{id}", Admin, All, |w, _| {
            w.api.bare(M::DELETE, "/v1/tokens/none")
        })
        .absent(),
        c("GET /v1/projects", Read, All, |w, _| get(w, "/v1/projects")),
        c("GET /v1/projects/{name}", Read, One, |w, t| {
            get(w, &format!("/v1/projects/{}", t.project))
        }),
        c("POST /v1/projects", Admin, All, |w, _| {
            send(w, M::POST, "/v1/projects", &json!({ "name": "-" }))
        }),
        c("PUT /v1/projects/{name}", Admin, One, |w, t| {
            send(
                w,
                M::PUT,
                &format!("/v1/projects/{}", t.project),
                &json!({}),
            )
        }),
        c("DELETE /v1/projects/{name}", Admin, All, |w, _| {
            w.api.bare(M::DELETE, "/v1/projects/none")
        })
        .absent(),
        c("GET /v1/audit", Admin, All, |w, _| get(w, "/v1/audit")),
        c("GET /v1/registry/token", Read, All, |w, _| {
            get(w, "/v1/registry/token")
        })
        .node()
        .pulls(),
        c("POST /v1/registry/token", Login, All, |w, _| {
            w.api
                .bare(M::POST, "/v1/registry/token")
                .body("grant_type=password&password=wrong")
        }),
        c("POST /v1/agent/register", Admin, All, |w, _| {
            send(w, M::POST, "/v1/agent/register", &json!({}))
        }),
        c("POST /v1/agent/session", Node, All, |w, _| {
            w.api.bare(M::POST, "/v1/agent/session")
        }),
        c("GET /v1/agent/registry-token", Node, All, |w, _| {
            let query = "registry=127.0.0.1:1&scope=repository:chalk/images:pull";
            get(w, &format!("/v1/agent/registry-token?{query}"))
        })
        .absent(),
        c("POST /v1/agent/streams/{ticket}", Node, All, |w, _| {
            w.api.bare(M::POST, "/v1/agent/streams/none")
        })
        .absent(),
        c("POST /v1/agent/files/{ticket}", Node, All, |w, _| {
            w.api.bare(M::POST, "/v1/agent/files/none")
        })
        .absent(),
        c("GET /v1/agent/files/{ticket}", Node, All, |w, _| {
            get(w, "/v1/agent/files/none")
        })
        .absent(),
        c("PUT /v1/volume-objects/{object}", Admin, All, |w, _| {
            w.api.bare(M::PUT, "/v1/volume-objects/x")
        }),
        c("GET /v1/volume-objects/{object}", Read, All, |w, _| {
            get(w, "/v1/volume-objects/x")
        }),
    ]
}

/// Every call of the registry: by name, and by image hash, which all projects share underneath.
pub(super) fn registry() -> Vec<Case> {
    use Method as M;
    use Needs::{Admin, Build, Read};
    use Of::{All, One};
    let c = Case::new;
    vec![
        c("GET /v2/", Read, All, |w, _| get(w, "/v2/"))
            .node()
            .pulls(),
        c("GET /v2/_catalog", Read, All, |w, _| get(w, "/v2/_catalog")).node(),
        c("GET /v2/{name}/tags/list", Read, One, |w, t| {
            get(w, &format!("/v2/{}/app/tags/list", t.project))
        }),
        c("GET /v2/{name}/manifests/{reference}", Read, One, |w, t| {
            get(w, &format!("/v2/{}/app/manifests/latest", t.project))
        })
        .pulls(),
        c(
            "GET /v2/chalk/images/manifests/{reference}",
            Read,
            One,
            |w, t| get(w, &format!("/v2/chalk/images/manifests/{}", t.hash.hex())),
        ),
        c(
            "GET /v2/chalk/images/manifests/{digest}",
            Read,
            One,
            |w, t| get(w, &format!("/v2/chalk/images/manifests/{}", t.manifest)),
        )
        .node(),
        c(
            "PUT /v2/{name}/manifests/{reference}",
            Build,
            One,
            |w, t| {
                let path = format!("/v2/{}/app/manifests/wrong", t.project);
                w.api.bare(M::PUT, &path).body("{}")
            },
        )
        .told(),
        c(
            "DELETE /v2/{name}/manifests/{reference}",
            Admin,
            One,
            |w, t| {
                w.api
                    .bare(M::DELETE, &format!("/v2/{}/app/manifests/none", t.project))
            },
        )
        .absent(),
        c("GET /v2/{name}/referrers/{digest}", Read, One, |w, t| {
            get(w, &format!("/v2/chalk/images/referrers/{}", t.manifest))
        }),
        c("GET /v2/{name}/blobs/{digest}", Read, One, |w, t| {
            get(w, &format!("/v2/{}/app/blobs/{}", t.project, t.layer))
        })
        .pulls(),
        c("GET /v2/chalk/images/blobs/{digest}", Read, One, |w, t| {
            get(w, &format!("/v2/chalk/images/blobs/{}", t.layer))
        })
        .node(),
        c("DELETE /v2/{name}/blobs/{digest}", Admin, One, |w, t| {
            let none = chalk_core::Digest::of(b"none");
            w.api
                .bare(M::DELETE, &format!("/v2/{}/app/blobs/{none}", t.project))
        })
        .absent(),
        c("POST /v2/{name}/blobs/uploads/", Build, One, |w, t| {
            w.api
                .bare(M::POST, &format!("/v2/{}/app/blobs/uploads/", t.project))
        })
        .told(),
        c("GET /v2/{name}/blobs/uploads/{id}", Read, One, |w, t| {
            get(
                w,
                &format!("/v2/{}/app/blobs/uploads/{}", t.project, t.upload),
            )
        }),
        c("PATCH /v2/{name}/blobs/uploads/{id}", Build, One, |w, t| {
            let path = format!("/v2/{}/app/blobs/uploads/{}", t.project, t.upload);
            w.api.bare(M::PATCH, &path).body("x")
        })
        .told(),
        c("PUT /v2/{name}/blobs/uploads/{id}", Build, One, |w, t| {
            let path = format!("/v2/{}/app/blobs/uploads/{}", t.project, t.upload);
            w.api.bare(M::PUT, &path).body("x")
        })
        .told(),
        c(
            "DELETE /v2/{name}/blobs/uploads/{id}",
            Build,
            One,
            |w, t| {
                w.api.bare(
                    M::DELETE,
                    &format!("/v2/{}/app/blobs/uploads/{}", t.project, t.upload),
                )
            },
        )
        .told(),
    ]
}

/// Every member of the gRPC services.
pub(super) fn grpc() -> Vec<Case> {
    use Needs::{Build, Nothing, Read};
    use Of::{All, One};
    fn case(
        member: &str,
        needs: Needs,
        of: Of,
        ask: fn(&World, &Things) -> RequestBuilder,
    ) -> Case {
        Case::new(&format!("rpc {member}"), needs, of, ask)
    }
    macro_rules! rpc {
        ($member:literal, $needs:expr, $of:expr, $message:expr) => {
            case($member, $needs, $of, |world, things| {
                let message: fn(&Things) -> Vec<u8> = $message;
                call(&world.api, $member, message(things))
            })
        };
    }
    vec![
        rpc!("chalk.server.v1.AuthService/GetToken", Nothing, All, |_| {
            Vec::new()
        }),
        rpc!(
            "chalk.sandbox.v1.CustomImageService/GetOrBuildCustomImage",
            Build,
            All,
            |_| field(1, &field(1, b"python:3"))
        ),
        rpc!(
            "chalk.sandbox.v1.CustomImageService/BuildCustomImage",
            Build,
            All,
            |_| field(1, &field(1, b"python:3"))
        ),
        rpc!(
            "chalk.sandbox.v1.CustomImageService/GetCustomImage",
            Read,
            One,
            |t| field(1, t.build.as_bytes())
        ),
        rpc!(
            "chalk.sandbox.v1.CustomImageService/StreamCustomImageBuildUpdates",
            Read,
            One,
            |t| field(1, t.build.as_bytes())
        ),
        rpc!(
            "chalk.sandbox.v1.CustomImageService/ListCustomImageBuilds",
            Read,
            All,
            |_| Vec::new()
        ),
        rpc!(
            "chalk.sandbox.v1.CustomImageService/GetCustomImageBuild",
            Read,
            One,
            |t| field(1, t.hash.hex().as_bytes())
        ),
        rpc!(
            "chalk.sandbox.v1.CustomImageService/GetCustomImageBuildLogs",
            Read,
            One,
            |t| field(2, t.build.as_bytes())
        ),
        rpc!(
            "chalk.sandbox.v1.CustomImageService/GetCustomImageBuildWorkflow",
            Read,
            One,
            |t| field(2, t.build.as_bytes())
        ),
        rpc!(
            "chalk.sandbox.v1.CustomImageService/GetCustomImageBuildUsage",
            Read,
            One,
            |t| field(1, t.hash.hex().as_bytes())
        ),
        rpc!(
            "chalk.sandbox.v1.CustomImageService/GetImagePullCredentials",
            Build,
            One,
            |t| { field(1, format!("{}/{}/app:latest", t.host, t.project).as_bytes()) }
        ),
        rpc!(
            "chalk.sandbox.v2.SandboxFilesystemService/UploadFile",
            Build,
            One,
            |t| {
                let metadata = [field(1, t.sandbox.as_bytes()), field(2, b"/x")].concat();
                field(1, &metadata)
            }
        ),
        rpc!(
            "chalk.sandbox.v2.SandboxFilesystemService/DownloadFile",
            Build,
            One,
            |t| { [field(1, t.sandbox.as_bytes()), field(2, b"/x")].concat() }
        ),
        rpc!(
            "chalk.sandbox.v2.SandboxProcessService/ExecCommand",
            Build,
            One,
            |t| { [field(1, t.sandbox.as_bytes()), field(2, b"true")].concat() }
        ),
        rpc!(
            "chalk.sandbox.v2.SandboxProcessService/OpenSession",
            Build,
            One,
            |t| {
                field(
                    1,
                    &[field(1, t.sandbox.as_bytes()), field(2, b"true")].concat(),
                )
            }
        ),
        rpc!(
            "chalk.sandbox.v2.SandboxProcessService/GetSession",
            Read,
            One,
            |t| { [field(1, t.sandbox.as_bytes()), field(2, b"main")].concat() }
        )
        .inside(),
        rpc!(
            "chalk.sandbox.v2.SandboxProcessService/ListSessions",
            Read,
            One,
            |t| field(1, t.sandbox.as_bytes())
        ),
        rpc!(
            "chalk.sandbox.v2.SandboxService/CreateSandbox",
            Build,
            One,
            |t| { field(1, &field(2, t.hash.hex().as_bytes())) }
        ),
        rpc!(
            "chalk.sandbox.v2.SandboxService/GetSandbox",
            Read,
            One,
            |t| field(1, t.sandbox.as_bytes())
        ),
        rpc!(
            "chalk.sandbox.v2.SandboxService/ListSandboxes",
            Read,
            All,
            |_| Vec::new()
        ),
        rpc!(
            "chalk.sandbox.v2.SandboxService/SuspendSandbox",
            Build,
            All,
            |t| field(1, t.sandbox.as_bytes())
        ),
        rpc!(
            "chalk.sandbox.v2.SandboxService/ResumeSandbox",
            Build,
            All,
            |t| field(1, t.sandbox.as_bytes())
        ),
        rpc!(
            "chalk.sandbox.v2.SandboxService/TerminateSandbox",
            Build,
            One,
            |t| field(1, t.sandbox.as_bytes())
        ),
        rpc!(
            "chalk.volume.v2.VolumeService/CreateVolume",
            Build,
            All,
            |_| field(1, b"data-alpha-team")
        ),
        rpc!("chalk.volume.v2.VolumeService/GetVolume", Read, One, volume),
        rpc!(
            "chalk.volume.v2.VolumeService/GetVolumeStats",
            Read,
            One,
            volume
        )
        .inside(),
        rpc!(
            "chalk.volume.v2.VolumeService/ListVolumes",
            Read,
            All,
            |_| Vec::new()
        ),
        rpc!(
            "chalk.volume.v2.VolumeService/DeleteVolume",
            Build,
            All,
            |_| field(1, &field(2, b"none"))
        )
        .absent(),
        rpc!(
            "chalk.volume.v2.VolumeService/ListVolumeVersions",
            Read,
            One,
            volume
        )
        .inside(),
        rpc!("chalk.volume.v2.VolumeService/CreateRef", Build, One, |t| {
            [volume(t), field(2, b"-wrong-")].concat()
        })
        .inside(),
        rpc!("chalk.volume.v2.VolumeService/ListRefs", Read, One, volume),
        rpc!("chalk.volume.v2.VolumeService/DeleteRef", Build, One, |t| [
            volume(t),
            field(2, b"main")
        ]
        .concat())
        .inside(),
        rpc!(
            "chalk.volume.v2.VolumeService/CommitVersion",
            Build,
            One,
            |t| field(1, &volume(t))
        ),
        rpc!(
            "chalk.volume.v2.VolumeService/GetCommitStatus",
            Read,
            One,
            volume
        )
        .inside(),
        rpc!(
            "chalk.volume.v2.VolumeService/RequestUploadURLs",
            Build,
            One,
            volume
        ),
        rpc!("chalk.volume.v2.VolumeService/ListFiles", Read, One, volume).inside(),
        rpc!("chalk.volume.v2.VolumeService/GetFile", Read, One, volume).inside(),
    ]
}

/// A message whose first field names the volume of a project.
fn volume(things: &Things) -> Vec<u8> {
    field(1, &field(1, things.volume.as_bytes()))
}
