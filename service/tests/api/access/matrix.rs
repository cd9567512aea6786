//! The matrix: it is taken from the service's own tables of calls, so that a new call without a case
//! here fails, and printed into `docs/access-matrix.md`, which is held up to date.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use chalk_core::wire::{DEFAULT_PROJECT, Role};
use chalk_service::registry::CALLS;
use serde_json::Value;

use super::cases::{Case, Needs, Of, api, grpc, registry};
use super::world::{OURS, THEIRS, Things, World, puller, token};

/// Set to have the table written anew.
const UPDATE: &str = "CHALK_UPDATE_DOCS";

const HEAD: &str = "# Who may do what

Every call, by every kind of token. A test makes this table by asking a running service, and fails where
it differs from what is meant; `CHALK_UPDATE_DOCS=1 cargo test -p chalk-service --test api access` writes
it anew. What the words mean for whoever runs a service stands in [access.md](access.md).

- **yes**: the call is carried out, or refused for another reason than who asks.
- **no**: the token does not allow it (403). **401**: there is no token that counts.
- **hidden**: what is another project's is answered as what is not there (404, or an empty list).
- *own* and *other* are things of the token's own project and of another one; a dash stands where a call
  is about neither. Lists show what is one's own, which the test looks at, too.
- *none*: no token, one that has expired, or one that was revoked. *node*: the token of a node, for an
  image that it was told to have and one that it was not. *puller*: credentials for pulling from one
  repository of the own project.
";

/// Whoever asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Nobody,
    Client(Role),
    Node,
    Puller,
}

/// What they are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Yes,
    No,
    Hidden,
    Unauthorized,
}

impl Told {
    fn word(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::Hidden => "hidden",
            Self::Unauthorized => "401",
        }
    }
}

/// What is meant.
fn meant(case: &Case, who: Who, own: bool) -> Told {
    let has = |role: Role| match case.needs {
        Needs::Read => true,
        Needs::Build => matches!(role, Role::Build | Role::Admin),
        Needs::Warm => matches!(role, Role::Warm | Role::Admin),
        Needs::Admin => role == Role::Admin,
        Needs::Nothing | Needs::Node | Needs::Login => false,
    };
    match (case.needs, who) {
        (Needs::Nothing, _) | (Needs::Node, Who::Node) => return Told::Yes,
        (Needs::Login, _) | (_, Who::Nobody) => return Told::Unauthorized,
        _ => {}
    }
    match who {
        Who::Nobody => Told::Unauthorized,
        Who::Client(role) if !has(role) => Told::No,
        Who::Client(Role::Admin) => Told::Yes,
        Who::Client(_) => match (case.of, own) {
            (Of::All, _) | (Of::One, true) => Told::Yes,
            (Of::Machines, _) => Told::No,
            (Of::One, false) if case.told => Told::No,
            (Of::One, false) => Told::Hidden,
        },
        Who::Node => {
            let reads = ["GET /v2/", "GET /v1/blobs/"];
            let reads = reads.iter().any(|start| case.call.starts_with(start));
            match (case.node, reads) {
                (true, _) if own || case.of == Of::All => Told::Yes,
                (_, true) => Told::Hidden,
                _ => Told::No,
            }
        }
        Who::Puller if case.puller && (own || case.of == Of::All) => Told::Yes,
        Who::Puller => Told::No,
    }
}

struct Asked {
    told: Told,
    body: String,
}

async fn ask(world: &World, case: &Case, things: &Things, token: Option<&str>) -> Asked {
    let mut things = things.clone();
    if case.call.contains("/uploads/{id}") {
        things.upload = world.upload(things.project).await;
    }
    let request = case.request(world, &things);
    let request = match token {
        Some(token) => request.bearer_auth(token),
        None => request,
    };
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let body = response.bytes().await.unwrap_or_default();
    let body = String::from_utf8_lossy(&body).into_owned();
    let nothing_there = body.contains("there is no volume") || body.contains("there is no sandbox");
    let told = match status {
        401 => Told::Unauthorized,
        403 => Told::No,
        404 if case.absent => Told::Yes,
        404 if case.inside && !nothing_there => Told::Yes,
        404 => Told::Hidden,
        200 if case.call.contains("/referrers/") && body.contains("\"manifests\":[]") => {
            Told::Hidden
        }
        _ => Told::Yes,
    };
    Asked { told, body }
}

/// Calls that the service has, by its own account: its description, its registry's table, and the
/// definitions of its gRPC services.
async fn calls(world: &World) -> BTreeSet<String> {
    let document: Value = world.api.get("/v1/openapi.json").await;
    let mut calls = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            calls.insert(format!("{} {path}", method.to_uppercase()));
        }
    }
    for (path, methods) in CALLS {
        calls.extend(methods.iter().map(|method| format!("{method} {path}")));
    }
    let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("proto")];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let after = |line: &str, word: &str| {
            let rest = line.trim().strip_prefix(word)?;
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '.');
            Some(rest[..end.unwrap_or(rest.len())].to_owned())
        };
        let (mut package, mut service) = (String::new(), String::new());
        for line in text.lines() {
            package = after(line, "package ").unwrap_or(package);
            service = after(line, "service ").unwrap_or(service);
            if let Some(member) = after(line, "rpc ") {
                calls.insert(format!("rpc {package}.{service}/{member}"));
            }
        }
    }
    assert!(calls.len() > 100, "{calls:?}");
    calls
}

#[tokio::test]
async fn every_call_by_every_token_in_every_project() {
    let world = World::new().await;
    let groups = [("HTTP", api()), ("Registry", registry()), ("gRPC", grpc())];
    let calls = calls(&world).await;
    let cases: BTreeSet<String> = groups
        .iter()
        .flat_map(|(_, cases)| cases.iter().map(|case| case.call.clone()))
        // The same call, once more for images by their hashes.
        .filter(|call| !call.contains("chalk/images"))
        .collect();
    let missing: Vec<&String> = calls.difference(&cases).collect();
    assert!(
        missing.is_empty(),
        "calls without a case here: {missing:#?}"
    );
    let gone: Vec<&String> = cases.difference(&calls).collect();
    assert!(gone.is_empty(), "cases of no call: {gone:#?}");

    let mut tokens = Vec::new();
    for role in [Role::Read, Role::Build, Role::Warm, Role::Admin] {
        // What administrators make of others' things is in a project that nobody else looks into.
        let project = match role {
            Role::Admin => DEFAULT_PROJECT,
            _ => OURS,
        };
        let token = token(&world.api, project, role, None).await;
        let token = token.token.unwrap();
        tokens.push((Who::Client(role), token));
    }
    let image = format!("{}/{OURS}/app:latest", world.ours.host);
    let pull = puller(&world.api, &tokens[1].1, &image).await;
    tokens.push((Who::Node, world.node.clone()));
    tokens.push((Who::Puller, pull));
    let ended = [world.expired().await, world.revoked().await];

    let mut wrong = Vec::new();
    let mut table = String::from(HEAD);
    for (title, cases) in &groups {
        write!(
            table,
            "\n## {title}\n\n| call | none | read own | other | build own | other | warm own | other | admin own | other | node own | other | puller own | other |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n"
        )
        .unwrap();
        for case in cases {
            let call = case.call.trim_start_matches("rpc ");
            write!(table, "| `{call}` |").unwrap();
            let mut check = |who: Who, own: bool, asked: Asked, token: &str| {
                let expect = meant(case, who, own);
                if asked.told != expect {
                    wrong.push(format!(
                        "{} by {token} ({}): {} in place of {}: {}",
                        case.call,
                        if own { "own" } else { "other" },
                        asked.told.word(),
                        expect.word(),
                        asked.body,
                    ));
                }
                // Whoever asks for what is their own, or for nothing in particular, learns nothing
                // of others.
                if own && who != Who::Client(Role::Admin) {
                    for secret in world.theirs.secrets() {
                        if asked.body.contains(&secret) {
                            let case = &case.call;
                            wrong.push(format!(
                                "{case} by {token} tells of {secret}: {}",
                                asked.body
                            ));
                        }
                    }
                }
                expect.word()
            };
            let nobody = ask(&world, case, &world.ours, None).await;
            let word = check(Who::Nobody, true, nobody, "nobody");
            for token in &ended {
                let asked = ask(&world, case, &world.ours, Some(token)).await;
                check(Who::Nobody, true, asked, "a token that ended");
            }
            write!(table, " {word} |").unwrap();
            for (who, token) in &tokens {
                let name = format!("{who:?}");
                let asked = ask(&world, case, &world.ours, Some(token)).await;
                let word = check(*who, true, asked, &name);
                write!(table, " {word} |").unwrap();
                if case.of != Of::One {
                    table.push_str(" – |");
                    continue;
                }
                let asked = ask(&world, case, &world.theirs, Some(token)).await;
                let word = check(*who, false, asked, &name);
                write!(table, " {word} |").unwrap();
            }
            table.push('\n');
        }
    }
    println!("{table}");
    assert!(
        wrong.is_empty(),
        "{} cells are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(!table.contains(THEIRS));

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/access-matrix.md");
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(&path, &table).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == table,
        "docs/access-matrix.md is not what the service does: write it anew with {UPDATE}=1"
    );
    world.api.running.shutdown().await;
}
