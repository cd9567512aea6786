//! Requests that are wrong, and blobs.

use chalk_core::spec::{Base, Spec, Step, StepKind};
use chalk_core::tree::{Tree, TreeEntry, TreeNode};
use chalk_core::wire::blob_batch::{BatchEncoder, MAX_BODY};
use chalk_core::wire::{BlobList, BuildReply, Info, Plan, ResolveRequest, Resolved, problem};
use chalk_core::{Digest, wire};
use reqwest::{Method, StatusCode};

use crate::service::{Api, based_on, commands, ok, request, settings};

#[tokio::test]
async fn wrong_requests_are_told_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.limits.request = bytesize::ByteSize::kib(4);
    settings.limits.blob = bytesize::ByteSize::b(10);
    let api = Api::start(settings).await;
    let check = async |method: Method, path: &str, body: &str, kind: &str, words: &str| {
        let request = api.request(method.clone(), path).body(body.to_owned());
        let problem = api.problem(request).await;
        assert_eq!(problem.kind, kind, "{method} {path}: {problem:?}");
        let all = format!("{} | {} | {}", problem.title, problem.detail, problem.hint);
        assert!(all.contains(words), "{method} {path}: {all}");
    };
    let bad = problem::BAD_REQUEST;
    let build = r#"{"spec":{"schema":"chalk.image/v1","base":"scratch"}"#;
    let with = |rest: &str| format!("{build},{rest}}}");
    check(Method::POST, "/v1/builds", "", bad, "EOF").await;
    check(
        Method::POST,
        "/v1/builds",
        "{\n\"spec\": ]",
        bad,
        "line 2 column 9",
    )
    .await;
    check(
        Method::POST,
        "/v1/builds",
        "{}",
        bad,
        "missing field `spec`",
    )
    .await;
    check(
        Method::POST,
        "/v1/builds",
        &with(r#""force":3"#),
        bad,
        "force: ",
    )
    .await;
    check(
        Method::POST,
        "/v1/builds",
        &with(r#""name":"UPPER""#),
        bad,
        "`UPPER` is not a name",
    )
    .await;
    check(
        Method::POST,
        "/v1/builds",
        &with(r#""name":"chalk/images""#),
        bad,
        "own",
    )
    .await;
    check(
        Method::POST,
        "/v1/builds",
        &with(r#""compression":"lzma""#),
        bad,
        "`lzma`",
    )
    .await;
    let relative = r#"{"spec":{"schema":"chalk.image/v1","base":"scratch","steps":[
        {"kind":"add_file","dest":"a","mode":"0644",
         "digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}]}}"#;
    check(Method::POST, "/v1/plan", relative, bad, "steps[0].dest").await;
    let missing = serde_json::to_string(&request(based_on("missing", None))).unwrap();
    check(
        Method::POST,
        "/v1/builds",
        &missing,
        problem::BASE_NOT_FOUND,
        "library/missing",
    )
    .await;
    let far = serde_json::to_string(&request(based_on("far", None))).unwrap();
    check(
        Method::POST,
        "/v1/builds",
        &far,
        problem::REGISTRY_UNREACHABLE,
        "library/far",
    )
    .await;
    let long = with(&format!(r#""name":"{}""#, "x".repeat(5000)));
    check(
        Method::POST,
        "/v1/builds",
        &long,
        problem::TOO_LARGE,
        "limits.request",
    )
    .await;
    check(
        Method::PUT,
        "/v1/blobs/xyz",
        "",
        bad,
        "`xyz` is not a digest",
    )
    .await;
    let path = format!("/v1/blobs/{}", Digest::of(b"a"));
    check(Method::PUT, &path, "b", problem::DIGEST_MISMATCH, "digest").await;
    check(
        Method::PUT,
        &path,
        "01234567890",
        problem::TOO_LARGE,
        "limits.blob",
    )
    .await;
    check(Method::GET, "/v1/builds?limit=many", "", bad, "limit").await;
    check(Method::GET, "/v1/builds?what=1", "", bad, "what").await;
    check(Method::GET, "/v1/builds/0", "", problem::NOT_FOUND, "`0`").await;
    check(
        Method::GET,
        "/v1/builds/..%2F..%2Ftoken",
        "",
        problem::NOT_FOUND,
        "build",
    )
    .await;
    check(
        Method::GET,
        "/v1/builds/0/events",
        "",
        problem::NOT_FOUND,
        "`0`",
    )
    .await;
    check(
        Method::DELETE,
        "/v1/builds/0",
        "",
        problem::NOT_FOUND,
        "`0`",
    )
    .await;
    check(
        Method::GET,
        "/v1/images/00000000",
        "",
        problem::NOT_FOUND,
        "00000000",
    )
    .await;
    check(
        Method::GET,
        "/v1/images/UPPER",
        "",
        problem::NOT_FOUND,
        "UPPER",
    )
    .await;
    check(
        Method::DELETE,
        "/v1/images/none",
        "",
        problem::NOT_FOUND,
        "none",
    )
    .await;
    check(
        Method::PUT,
        "/v1/images/00000000/names/imports%2Fx",
        "",
        bad,
        "own",
    )
    .await;
    check(Method::POST, "/v1/imports", "", bad, "ref").await;
    check(Method::POST, "/v1/imports?ref=A", "", bad, "ref: `A`").await;
    check(
        Method::POST,
        "/v1/imports?ref=a&platform=x",
        "",
        bad,
        "platform: `x`",
    )
    .await;
    check(
        Method::POST,
        "/v1/imports?ref=a",
        "no archive",
        bad,
        "archive",
    )
    .await;
    check(
        Method::GET,
        "/v1/nothing",
        "",
        problem::NOT_FOUND,
        "/v1/nothing",
    )
    .await;
    check(
        Method::POST,
        "/v1/info",
        "",
        problem::METHOD_NOT_ALLOWED,
        "POST",
    )
    .await;
    api.running.shutdown().await;
}

#[tokio::test]
async fn bodies_without_a_length_are_limited_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.limits.blob = bytesize::ByteSize::kib(100);
    let api = Api::start(settings).await;
    let chunks = (0..1000).map(|_| Ok::<_, std::io::Error>(vec![0u8; 1024]));
    let body = reqwest::Body::wrap_stream(futures_util::stream::iter(chunks));
    let path = format!("/v1/blobs/{}", Digest::of(b""));
    let sent = api.request(Method::PUT, &path).body(body).send().await;
    // The service may answer while we still send, or cut us off.
    if let Ok(response) = sent {
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }
    let temp = dir.path().join("store/tmp");
    api.until(|_| std::fs::read_dir(&temp).unwrap().count() == 0)
        .await;
    api.running.shutdown().await;
}

#[tokio::test]
async fn specs_are_pinned_and_planned() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::start(settings(dir.path())).await;
    let info: Info = api.get("/v1/info").await;
    assert_eq!(info.registry, api.running.addr.to_string());
    assert_eq!(info.builder, chalk_core::keys::BUILDER_VERSION);

    let ask = |spec: Spec| {
        let blobs = [(Digest::of(b"a"), 10), (Digest::of(b"b"), 5)].into();
        ResolveRequest { spec, blobs }
    };
    let spec = based_on("python:3.12", None);
    let post = |path: &str, spec: &Spec| api.request(Method::POST, path).json(&ask(spec.clone()));
    let resolved: Resolved = ok(post("/v1/resolve", &spec)).await;
    assert_eq!(resolved.spec.image_hash(), Some(resolved.image_hash));
    assert_eq!(resolved.spec.recipe_hash(), spec.recipe_hash());
    let again: Resolved = ok(post("/v1/resolve", &resolved.spec)).await;
    assert_eq!(again, resolved);

    let plan: Plan = ok(post("/v1/plan", &spec)).await;
    assert_eq!(plan.image_hash, Some(resolved.image_hash));
    assert_eq!((plan.exists, plan.upload_bytes), (false, 15));
    assert_eq!(
        plan.base.unwrap().reference.to_string(),
        "docker.io/library/python:3.12"
    );
    let far: Plan = ok(post("/v1/plan", &based_on("far", None))).await;
    assert_eq!(far.image_hash, None);
    assert!(far.warnings[0].contains("library/far"));

    upload(&api, b"a").await;
    let plan: Plan = ok(post("/v1/plan", &spec)).await;
    assert_eq!(plan.upload_bytes, 5);
    let built = api.finished(&request(spec.clone())).await;
    assert_eq!(built.image_hash, resolved.image_hash);
    let plan: Plan = ok(post("/v1/plan", &spec)).await;
    assert_eq!((plan.exists, plan.upload_bytes), (true, 0));
    api.running.shutdown().await;
}

async fn upload(api: &Api, bytes: &[u8]) -> Digest {
    let digest = Digest::of(bytes);
    let path = format!("/v1/blobs/{digest}");
    let put = api.request(Method::PUT, &path).body(bytes.to_vec());
    assert_eq!(put.send().await.unwrap().status(), StatusCode::CREATED);
    digest
}

#[tokio::test]
async fn builds_ask_for_the_blobs_that_are_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::start(settings(dir.path())).await;
    let (file, inner) = (Digest::of(b"file"), Digest::of(b"inner"));
    let tree = Tree::new(vec![TreeEntry {
        path: "a/b".into(),
        node: TreeNode::File {
            digest: inner,
            mode: "0644".into(),
        },
    }]);
    let tree = tree.unwrap();
    let mut spec = Spec::new(Base::Scratch);
    spec.steps = vec![
        Step::new(StepKind::AddFile {
            dest: "/f".into(),
            digest: file,
            mode: 0o644,
        }),
        Step::new(StepKind::AddDir {
            dest: "/d".into(),
            digest: tree.digest(),
        }),
    ];
    let wanted = request(spec);
    let check = async |expect: &[Digest]| {
        let mut digests = expect.to_vec();
        digests.sort();
        let reply = api.build(&wanted).await;
        assert_eq!(reply, BuildReply::NeedsBlobs(BlobList { digests }));
    };
    check(&[file, tree.digest()]).await;
    upload(&api, tree.json().as_bytes()).await;
    check(&[file, inner]).await;
    upload(&api, b"file").await;
    upload(&api, b"file").await;
    check(&[inner]).await;
    let ask = BlobList {
        digests: vec![inner, file, inner],
    };
    let lacking: BlobList = ok(api.request(Method::POST, "/v1/blobs/missing").json(&ask)).await;
    assert_eq!(lacking.digests, [inner]);
    upload(&api, b"inner").await;
    assert_eq!(api.finished(&wanted).await.status, wire::BuildStatus::Built);

    let no_tree = upload(&api, b"[{\"path\":\"../x\",\"type\":\"dir\"}]").await;
    let mut spec = commands(&[]);
    spec.steps = vec![Step::new(StepKind::AddDir {
        dest: "/d".into(),
        digest: no_tree,
    })];
    let post = api.request(Method::POST, "/v1/builds").json(&request(spec));
    let problem = api.problem(post).await;
    assert_eq!(problem.kind, problem::BAD_REQUEST);
    assert!(problem.detail.contains("../x"), "{problem:?}");
    api.running.shutdown().await;
}

/// The body of a batch in which each text stands for the digest of the other.
fn batch(blobs: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut batch = BatchEncoder::default();
    for (named, bytes) in blobs {
        assert!(batch.push(&Digest::of(named), bytes));
    }
    batch.into_body()
}

#[tokio::test]
async fn small_blobs_come_in_batches() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.limits.blob = bytesize::ByteSize::b(100);
    let api = Api::start(settings).await;
    let post = |body: Vec<u8>| api.request(Method::POST, "/v1/blobs").body(body);
    let texts: Vec<String> = (0..20).map(|number| format!("file {number}")).collect();
    let many: Vec<_> = texts.iter().map(|t| (t.as_bytes(), t.as_bytes())).collect();
    for body in [batch(&many[..3]), batch(&many), Vec::new()] {
        assert_eq!(
            post(body).send().await.unwrap().status(),
            StatusCode::CREATED
        );
    }
    let digests: Vec<Digest> = texts.iter().map(|t| Digest::of(t.as_bytes())).collect();
    let ask = BlobList { digests };
    let lacking: BlobList = ok(api.request(Method::POST, "/v1/blobs/missing").json(&ask)).await;
    assert!(lacking.digests.is_empty());

    let check = async |body: Vec<u8>, kind: &str, says: &str| {
        let problem = api.problem(post(body)).await;
        assert_eq!(problem.kind, kind, "{problem:?}");
        let all = format!("{problem:?}");
        assert!(all.contains(says), "{all}");
    };
    let right = Digest::of(b"right").to_string();
    let bad = batch(&[(b"a", b"a"), (b"right", b"wrong")]);
    check(bad, problem::DIGEST_MISMATCH, &right).await;
    let mut cut = batch(&[(b"a", b"a"), (b"right", b"right")]);
    cut.pop();
    check(cut, problem::BAD_REQUEST, &right).await;
    let large = [7; 101];
    let over = batch(&[(b"a", b"a"), (&large, &large)]);
    check(over, problem::TOO_LARGE, "limits.blob").await;
    check(vec![0; MAX_BODY + 1], problem::TOO_LARGE, "several batches").await;
    // None of these left anything.
    let digests = vec![Digest::of(b"a"), Digest::of(b"right"), Digest::of(b"wrong")];
    let ask = BlobList { digests };
    let lacking: BlobList = ok(api.request(Method::POST, "/v1/blobs/missing").json(&ask)).await;
    assert_eq!(lacking.digests.len(), 3);
    let temp = dir.path().join("store/tmp");
    assert_eq!(std::fs::read_dir(&temp).unwrap().count(), 0);
    api.running.shutdown().await;
}
