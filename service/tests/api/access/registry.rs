//! The registry's tokens, what of its blobs is given away, quotas, rates, and the audit log.

use chalk_core::Digest;
use chalk_core::wire::{
    AuditEntry, AuditOutcome, BlobList, BuildReply, Project, Quotas, Role, problem,
};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};

use super::world::{build_as, project, token};
use crate::service::{Api, ok, settings};

/// The challenges of a refusal, and the address, service and scope that a bearer token needs.
fn challenge(refused: &Response) -> (String, String, String) {
    assert_eq!(refused.status(), 401);
    let all: Vec<&str> = refused
        .headers()
        .get_all("www-authenticate")
        .iter()
        .map(|value| value.to_str().unwrap())
        .collect();
    assert!(all.contains(&"Basic realm=\"chalk\""), "{all:?}");
    let bearer = all.iter().find(|one| one.starts_with("Bearer ")).unwrap();
    let get = |name: &str| {
        let rest = bearer.split_once(&format!("{name}=\""));
        let value = rest.and_then(|(_, rest)| rest.split_once('"'));
        value.map(|(value, _)| value.to_owned()).unwrap_or_default()
    };
    (get("realm"), get("service"), get("scope"))
}

/// A token of the registry by the way that container engines go.
async fn by_challenge(api: &Api, request: RequestBuilder, login: &str) -> (u16, String) {
    let refused = request.send().await.unwrap();
    let (realm, service, scope) = challenge(&refused);
    let asked = api
        .http
        .get(realm)
        .query(&[("service", service), ("scope", scope)])
        .basic_auth("anybody", Some(login));
    let answer = asked.send().await.unwrap();
    let status = answer.status().as_u16();
    let body: Value = answer.json().await.unwrap();
    (
        status,
        body["token"].as_str().unwrap_or_default().to_owned(),
    )
}

async fn status(request: RequestBuilder) -> u16 {
    request.send().await.unwrap().status().as_u16()
}

async fn projects(dir: &tempfile::TempDir) -> Api {
    let api = Api::start(settings(dir.path())).await;
    for name in ["one", "two"] {
        project(&api, name).await;
    }
    api
}

#[tokio::test]
async fn engines_that_know_only_bearer_tokens_get_one() {
    let dir = tempfile::tempdir().unwrap();
    let api = projects(&dir).await;
    let builder = token(&api, "one", Role::Build, None).await.token.unwrap();
    build_as(&api, &builder, "echo 1", Some("app")).await;
    let manifest = |bearer: &str| {
        api.bare(Method::GET, "/v2/one/app/manifests/latest")
            .bearer_auth(bearer)
    };
    let bare = || api.bare(Method::GET, "/v2/one/app/manifests/latest");
    let (code, pull) = by_challenge(&api, bare(), &builder).await;
    assert_eq!((code, status(manifest(&pull)).await), (200, 200));
    // It is good for what was asked: one that pulls does not push, and its owner is told to come again.
    let push = |bearer: &str| {
        api.bare(Method::POST, "/v2/one/app/blobs/uploads/")
            .bearer_auth(bearer)
    };
    assert_eq!(status(push(&pull)).await, 401);
    let again = api.bare(Method::POST, "/v2/one/app/blobs/uploads/");
    let (_, pushes) = by_challenge(&api, again, &builder).await;
    assert_eq!(status(push(&pushes)).await, 202);
    for other in [
        "/v1/builds",
        "/v1/info",
        "/v2/one/other/tags/list",
        "/v2/_catalog",
    ] {
        let asked = api.bare(Method::GET, other).bearer_auth(&pushes);
        assert!(matches!(status(asked).await, 401 | 403), "{other}");
    }
    // One who only reads gets no token to push, whatever they ask for.
    let reader = token(&api, "one", Role::Read, None).await.token.unwrap();
    let again = api.bare(Method::POST, "/v2/one/app/blobs/uploads/");
    let (code, reads) = by_challenge(&api, again, &reader).await;
    assert_eq!((code, status(push(&reads)).await), (200, 403));
    assert_eq!(status(manifest(&reads)).await, 200);
    // Neither does one of another project, nor who has no token at all.
    let other = token(&api, "two", Role::Admin, None).await;
    assert_eq!(other.project, "two");
    let other = token(&api, "two", Role::Build, None).await.token.unwrap();
    let (code, others) = by_challenge(&api, bare(), &other).await;
    assert_eq!((code, status(manifest(&others)).await), (200, 401));
    let (code, none) = by_challenge(&api, bare(), "wrong").await;
    assert_eq!((code, &*none), (401, ""));
    // Basic goes on working, and so does the login in a form.
    let basic = bare().basic_auth("x", Some(&builder));
    assert_eq!(status(basic).await, 200);
    let form = |body: String| {
        api.bare(Method::POST, "/v1/registry/token")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body)
    };
    let scope = "service=x&scope=repository%3Aone%2Fapp%3Apull";
    for login in [
        format!("grant_type=password&username=x&password={builder}&{scope}"),
        format!("grant_type=refresh_token&refresh_token={builder}&{scope}"),
    ] {
        let made: Value = ok(form(login)).await;
        let bearer = made["access_token"].as_str().unwrap();
        assert_eq!(status(manifest(bearer)).await, 200);
    }
    let wrong = form(format!("grant_type=password&password=x&{scope}"));
    assert_eq!(status(wrong).await, 401);
    // What was handed out ends with the token that it was handed out for.
    let made = token(&api, "one", Role::Read, None).await;
    let (_, short) = by_challenge(&api, bare(), &made.token.unwrap()).await;
    assert_eq!(status(manifest(&short)).await, 200);
    let revoke = format!("/v1/tokens/{}", made.client_id);
    assert_eq!(status(api.request(Method::DELETE, &revoke)).await, 204);
    assert_eq!(status(manifest(&short)).await, 401);
    api.running.shutdown().await;
}

#[tokio::test]
async fn a_digest_alone_opens_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let api = projects(&dir).await;
    let one = token(&api, "one", Role::Build, None).await.token.unwrap();
    let two = token(&api, "two", Role::Build, None).await.token.unwrap();
    let secret = Digest::of(b"secret");
    let put = |who: &str, body: &'static str| {
        let path = format!("/v1/blobs/{}", Digest::of(body.as_bytes()));
        api.bare(Method::PUT, &path).bearer_auth(who).body(body)
    };
    assert_eq!(status(put(&one, "secret")).await, 201);
    let missing = async |who: &str| {
        let list = BlobList {
            digests: vec![secret],
        };
        let asked = api.bare(Method::POST, "/v1/blobs/missing").bearer_auth(who);
        ok::<BlobList>(asked.json(&list)).await.digests
    };
    assert!(missing(&one).await.is_empty());
    // Whether others brought it is not told, and does not spare the way.
    assert_eq!(missing(&two).await, [secret]);
    let read = |who: &str| {
        let path = format!("/v1/blobs/{secret}");
        api.bare(Method::GET, &path).bearer_auth(who)
    };
    assert_eq!(
        (status(read(&one)).await, status(read(&two)).await),
        (200, 404)
    );
    // Nor does a mount bring it in: from the repository of the other, from none, or from images.
    build_as(&api, &one, "echo 1", Some("app")).await;
    let manifest: Value = api.get("/v1/images/one%2Fapp/manifest").await;
    let layer = manifest["layers"][0]["digest"].as_str().unwrap();
    let mount = |who: &str, to: &str, from: &str| {
        let path = format!("/v2/{to}/blobs/uploads/?mount={layer}{from}");
        api.bare(Method::POST, &path).bearer_auth(who)
    };
    for from in ["", "&from=one/app", "&from=chalk/images"] {
        assert_eq!(status(mount(&two, "two/app", from)).await, 202, "{from}");
        assert_eq!(status(mount(&one, "one/app", from)).await, 201, "{from}");
    }
    let blob = format!("/v2/two/app/blobs/{layer}");
    assert_eq!(
        status(api.bare(Method::GET, &blob).bearer_auth(&two)).await,
        404
    );
    // A base of theirs is none of ours, by whatever it is named.
    let image = manifest_digest(&api, "one%2Fapp").await;
    let host = api.running.addr;
    for (reference, digest) in [
        (format!("{host}/one/app:latest"), None),
        (format!("{host}/one/app:latest"), Some(image)),
        (format!("{host}/chalk/images:latest"), Some(image)),
        ("docker.io/library/python:3".to_owned(), Some(image)),
    ] {
        let spec = crate::service::based_on(&reference, digest);
        let wanted = crate::service::request(spec);
        let asked = api.bare(Method::POST, "/v1/builds").bearer_auth(&two);
        let refused = api.problem(asked.json(&wanted)).await;
        assert_eq!(
            refused.kind,
            problem::BASE_NOT_FOUND,
            "{reference} {digest:?}"
        );
    }
    // Who brings the bytes, or the whole declaration, has it like anybody else.
    assert_eq!(status(put(&two, "secret")).await, 201);
    assert_eq!(
        (missing(&two).await, status(read(&two)).await),
        (vec![], 200)
    );
    build_as(&api, &two, "echo 1", Some("app")).await;
    let pull = api.bare(Method::GET, &format!("/v2/chalk/images/blobs/{layer}"));
    assert_eq!(status(pull.bearer_auth(&two)).await, 200);
    api.running.shutdown().await;
}

#[tokio::test]
async fn what_came_of_secrets_is_handed_to_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let api = projects(&dir).await;
    let one = token(&api, "one", Role::Build, None).await.token.unwrap();
    let two = token(&api, "two", Role::Build, None).await.token.unwrap();
    let start = |who: &str, command: &str, secret: &str| {
        let mut spec = crate::service::commands(&[command]);
        spec.steps[0].secrets.insert("key".to_owned());
        let mut wanted = crate::service::request(spec);
        wanted.secrets.insert("key".to_owned(), secret.to_owned());
        let asked = api.bare(Method::POST, "/v1/builds").bearer_auth(who);
        asked.json(&wanted)
    };
    // A build that failed gives no right to what another project makes of the same declaration.
    let failed: BuildReply = ok(start(&two, "fail", "guess")).await;
    let BuildReply::Accepted(failed) = failed else {
        panic!("{failed:?}");
    };
    api.events(&failed.id, 0).await;
    let hash = failed.image_hash;
    let built: BuildReply = ok(start(&one, "secret key", "right")).await;
    let BuildReply::Accepted(built) = built else {
        panic!("{built:?}");
    };
    api.events(&built.id, 0).await;
    let refused = api.problem(start(&two, "secret key", "guess")).await;
    assert_eq!((&*refused.kind, refused.status), (problem::CONFLICT, 409));
    for hash in [hash, built.image_hash] {
        let path = format!("/v1/images/{}", hash.hex());
        let asked = api.bare(Method::GET, &path).bearer_auth(&two);
        assert_eq!(status(asked).await, 404);
    }
    let again: BuildReply = ok(start(&one, "secret key", "right")).await;
    assert!(matches!(again, BuildReply::Reused(_)));
    api.running.shutdown().await;
}

/// The registry of a region has everybody's images, and the service's login opens it.
#[tokio::test]
async fn the_registry_of_a_region_is_no_way_around() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    let at = "https://eu.example:5000/p".parse().unwrap();
    settings.regions.registries.insert("eu".to_owned(), at);
    let api = Api::start(settings).await;
    for name in ["one", "two"] {
        project(&api, name).await;
    }
    let one = token(&api, "one", Role::Build, None).await.token.unwrap();
    let two = token(&api, "two", Role::Build, None).await.token.unwrap();
    let hash = build_as(&api, &one, "echo 1", Some("app")).await.image_hash;
    let image = manifest_digest(&api, "one%2Fapp").await;
    let by_hash = format!("eu.example:5000/p/chalk/images:{}", hash.hex());
    let ask = |who: &str, reference: &str, digest: Option<Digest>| {
        let spec = crate::service::based_on(reference, digest);
        let asked = api.bare(Method::POST, "/v1/builds").bearer_auth(who);
        asked.json(&crate::service::request(spec))
    };
    let by_name = "eu.example:5000/p/one/app:latest";
    for (reference, digest) in [
        (&*by_hash, None),
        (&by_hash, Some(image)),
        (by_name, None),
        (by_name, Some(image)),
    ] {
        let refused = api.problem(ask(&two, reference, digest)).await;
        assert_eq!(refused.kind, problem::BASE_NOT_FOUND, "{reference}");
    }
    // Whoever has it may, and what is no repository of ours there is anybody's.
    for (who, reference) in [
        (&one, &*by_hash),
        (&one, by_name),
        (&two, "eu.example:5000/other/chalk/images:v1"),
    ] {
        let accepted: BuildReply = ok(ask(who, reference, None)).await;
        assert!(matches!(accepted, BuildReply::Accepted(_)), "{accepted:?}");
    }
    api.running.shutdown().await;
}

async fn manifest_digest(api: &Api, image: &str) -> Digest {
    let image: Value = api.get(&format!("/v1/images/{image}")).await;
    image["digest"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn what_was_there_before_projects_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::start(settings(dir.path())).await;
    let made = token(&api, "default", Role::Build, None).await;
    assert_eq!(made.project, "default");
    let old = made.token.unwrap();
    let build = build_as(&api, &old, "echo old", Some("team/app")).await;
    // `team` is what names of the default project begin with.
    let taken = json!({ "name": "team" });
    let refused = api.request(Method::POST, "/v1/projects").json(&taken);
    assert_eq!(api.problem(refused).await.kind, problem::NAME_TAKEN);
    project(&api, "new").await;
    api.running.shutdown().await;

    let api = Api::start(settings(dir.path())).await;
    let new = token(&api, "new", Role::Build, None).await.token.unwrap();
    let see = |who: &str, path: &str| api.bare(Method::GET, path).bearer_auth(who);
    for path in [
        &format!("/v1/builds/{}", build.id),
        "/v1/images/team%2Fapp",
        "/v2/team/app/manifests/latest",
        &format!("/v2/chalk/images/manifests/{}", build.image_hash.hex()),
        &format!("/v2/chalk/images/manifests/{}", build.digest.unwrap()),
    ] {
        assert_eq!(status(see(&old, path)).await, 200, "{path}");
        assert_eq!(status(see(&new, path)).await, 404, "{path}");
    }
    // Tokens of a removed project count no more, and nobody takes its place.
    let gone = api.request(Method::DELETE, "/v1/projects/new");
    assert_eq!(status(gone).await, 204);
    assert_eq!(status(see(&new, "/v1/info")).await, 401);
    let again = json!({ "name": "new" });
    let refused = api.request(Method::POST, "/v1/projects").json(&again);
    assert_eq!(api.problem(refused).await.kind, problem::NAME_TAKEN);
    api.running.shutdown().await;
}

#[tokio::test]
async fn quotas_are_kept_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    let api = projects(&dir).await;
    let one = token(&api, "one", Role::Build, None).await.token.unwrap();
    let two = token(&api, "two", Role::Build, None).await.token.unwrap();
    let set = async |quotas: Quotas| {
        let asked = api.request(Method::PUT, "/v1/projects/one").json(&quotas);
        ok::<Project>(asked).await
    };
    set(Quotas {
        builds: Some(1),
        storage_bytes: None,
    })
    .await;
    let start = |who: &str, command: &str| {
        let wanted = crate::service::request(crate::service::commands(&[command]));
        let asked = api.bare(Method::POST, "/v1/builds").bearer_auth(who);
        asked.json(&wanted)
    };
    let build = match ok(start(&one, "wait 1")).await {
        BuildReply::Accepted(build) => build,
        other => panic!("{other:?}"),
    };
    let refused = api.problem(start(&one, "wait 2")).await;
    assert_eq!(
        (&*refused.kind, refused.status),
        (problem::QUOTA_EXCEEDED, 429)
    );
    // Others build, and the same build is no second one.
    assert_eq!(status(start(&two, "wait 2")).await, 200);
    assert_eq!(status(start(&one, "wait 1")).await, 200);
    let shown: Vec<Project> = ok(api.bare(Method::GET, "/v1/projects").bearer_auth(&one)).await;
    assert_eq!(shown.len(), 1);
    assert_eq!((&*shown[0].name, shown[0].usage.builds), ("one", 1));
    api.control.gate.add_permits(2);
    api.events(&build.id, 0).await;
    let used = set(Quotas::default()).await.usage.storage_bytes.unwrap();
    let project = set(Quotas {
        builds: None,
        storage_bytes: Some(used + 4),
    })
    .await;
    assert_eq!(project.quotas.storage_bytes, Some(used + 4));
    let put = |body: &'static str| {
        let path = format!("/v1/blobs/{}", Digest::of(body.as_bytes()));
        api.bare(Method::PUT, &path).bearer_auth(&one).body(body)
    };
    assert_eq!(status(put("four")).await, 201);
    let refused = api.problem(put("more")).await;
    assert_eq!(
        (&*refused.kind, refused.status),
        (problem::QUOTA_EXCEEDED, 507)
    );
    let digest = Digest::of(b"pushed");
    let path = format!("/v2/one/app/blobs/uploads/?digest={digest}");
    let push = api
        .bare(Method::POST, &path)
        .bearer_auth(&one)
        .body("pushed");
    let refused = push.send().await.unwrap();
    assert_eq!(refused.status(), 403);
    let refused = refused.text().await.unwrap();
    assert!(
        refused.contains("DENIED") && refused.contains("may store"),
        "{refused}"
    );
    api.running.shutdown().await;
}

#[tokio::test]
async fn the_audit_log_tells_of_every_change_and_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let api = projects(&dir).await;
    let made = token(&api, "one", Role::Build, None).await;
    let (id, token) = (made.client_id, made.token.unwrap());
    let build = build_as(&api, &token, "echo 1", Some("app")).await;
    // Found built, without a name: nothing has changed.
    build_as(&api, &token, "echo 1", None).await;
    let delete = api
        .bare(Method::DELETE, "/v1/images/app")
        .bearer_auth(&token);
    assert_eq!(status(delete).await, 403);
    assert_eq!(
        status(api.request(Method::DELETE, "/v1/images/none")).await,
        404
    );
    let push = api.bare(Method::PUT, "/v2/one/app/manifests/bad");
    assert_eq!(status(push.bearer_auth(&token).body("{}")).await, 400);
    let list = async |query: &str| {
        api.get::<Vec<AuditEntry>>(&format!("/v1/audit{query}"))
            .await
    };
    let all = list("").await;
    let told: Vec<(&str, &str, AuditOutcome)> = all
        .iter()
        .rev()
        .map(|entry| (&*entry.action, &*entry.target, entry.outcome))
        .collect();
    use AuditOutcome::{Denied, Done, Refused};
    assert_eq!(
        told,
        [
            ("project.create", "", Done),
            ("project.create", "", Done),
            ("token.create", "", Done),
            ("build.start", "", Done),
            ("image.delete", "app", Denied),
            ("image.delete", "none", Refused),
            ("registry.push", "one/app/manifests/bad", Refused),
        ]
    );
    assert!(all.windows(2).all(|pair| pair[0].seq == pair[1].seq + 1));
    let started = &list("?action=build.").await[0];
    assert_eq!(started.who, format!("client:{id}"));
    assert_eq!(started.name.as_deref(), Some("build-of-one"));
    assert_eq!(started.project.as_deref(), Some("one"));
    assert_eq!(
        (&*started.from, started.made.as_deref()),
        ("127.0.0.1", Some(&*build.id))
    );
    assert_eq!(list("?who=admin").await.len(), 4);
    assert_eq!(list("?project=one&limit=2").await.len(), 2);
    assert_eq!(list(&format!("?before={}", all[2].seq)).await.len(), 4);
    assert_eq!(all[4].made.as_deref(), Some(&*id));
    api.running.shutdown().await;
    let log = std::fs::read_to_string(dir.path().join("audit/current.jsonl")).unwrap();
    assert_eq!(log.lines().count(), 7);
    assert!(!log.contains(&token) && !log.contains("cht_"));

    let api = Api::start(settings(dir.path())).await;
    let again: Vec<AuditEntry> = api.get("/v1/audit?limit=1").await;
    assert_eq!(again, all[..1]);
    api.running.shutdown().await;
}

#[tokio::test]
async fn too_many_requests_are_told_when_to_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.limits.failed_logins = 3;
    settings.limits.token_requests = 1;
    let api = Api::start(settings).await;
    let made = token(&api, "default", Role::Read, None)
        .await
        .token
        .unwrap();
    let (mut refused, mut wrong) = (0, Vec::new());
    for _ in 0..100 {
        let asked = api.bare(Method::GET, "/v1/info").bearer_auth(&made);
        let answer = asked.send().await.unwrap();
        if answer.status() == 429 {
            refused += 1;
            let wait: u64 = answer.headers()["retry-after"]
                .to_str()
                .unwrap()
                .parse()
                .unwrap();
            assert!(wait >= 1);
            let problem: Value = answer.json().await.unwrap();
            assert_eq!(problem["type"], problem::RATE_LIMITED);
        }
        // The administrator's own is not counted.
        assert_eq!(status(api.request(Method::GET, "/v1/info")).await, 200);
    }
    assert!(refused > 0);
    for _ in 0..100 {
        let asked = api.bare(Method::GET, "/v1/info").bearer_auth("wrong");
        wrong.push(status(asked).await);
    }
    assert_eq!(wrong[..3], [401, 401, 401]);
    assert!(wrong.contains(&429), "{wrong:?}");
    // To ask without a token is no failure, and a good token is good all the same.
    assert_eq!(status(api.bare(Method::GET, "/v2/")).await, 401);
    assert_eq!(status(api.request(Method::GET, "/v1/info")).await, 200);
    let mut told = Vec::new();
    for _ in 0..5 {
        let basic = api.bare(Method::GET, "/v2/").basic_auth("x", Some("wrong"));
        told.push(basic.send().await.unwrap().text().await.unwrap());
    }
    assert!(
        told.iter().any(|body| body.contains("TOOMANYREQUESTS")),
        "{told:?}"
    );
    api.running.shutdown().await;
}
