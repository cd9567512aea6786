//! Stop, crash, damage, and a second service.

use std::fs;

use chalk_core::wire::{Build, BuildStatus, EventKind, Image, problem};
use chalk_service::index::Index;
use chalk_service::{Service, StartError};
use prost::Message;
use reqwest::{Method, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::service::{Api, commands, end_of, request, settings};

#[tokio::test]
async fn a_stop_cancels_builds_and_what_was_built_is_there_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut set = settings(dir.path());
    set.build.parallel = 1;
    let api = Api::start(set).await;
    let mut wanted = request(commands(&["a"]));
    wanted.name = Some("app".into());
    let built = api.finished(&wanted).await;
    let runs = api
        .accepted(&request(commands(&["lines 10", "wait"])))
        .await;
    let waits = api.accepted(&request(commands(&["never"]))).await;
    let path = format!("/v1/builds/{}/events", runs.id);
    let mut followed = api.request(Method::GET, &path).send().await.unwrap();
    followed.chunk().await.unwrap();
    let (addr, http) = (api.running.addr, api.http.clone());
    api.running.shutdown().await;
    // The follower was told the end, and nobody listens any more.
    let rest = followed.text().await.unwrap();
    assert!(rest.contains("the service stopped"), "{rest}");
    assert!(
        http.get(format!("http://{addr}/healthz"))
            .send()
            .await
            .is_err()
    );
    assert!(!dir.path().join("service.json").exists());

    let api = Api::start(settings(dir.path())).await;
    let again: Build = api.get(&format!("/v1/builds/{}", built.id)).await;
    assert_eq!(again, built);
    for id in [&runs.id, &waits.id] {
        let events = api.events(id, 0).await;
        let ended = end_of(&events);
        assert_eq!(ended.status, BuildStatus::Cancelled);
        assert_eq!(ended.error.unwrap().detail, "the service stopped");
    }
    let images: Vec<Image> = api.get("/v1/images?name=app").await;
    assert_eq!(images.len(), 1);
    api.running.shutdown().await;
}

/// What the SDK says of an image, as far as this test needs it.
#[derive(Message)]
struct Declared {
    #[prost(message, tag = "1")]
    spec: Option<DeclaredSpec>,
}

#[derive(Message)]
struct DeclaredSpec {
    #[prost(string, tag = "1")]
    base_image: String,
    #[prost(message, repeated, tag = "2")]
    steps: Vec<DeclaredStep>,
}

#[derive(Message)]
struct DeclaredStep {
    #[prost(message, tag = "1")]
    run: Option<DeclaredRun>,
}

#[derive(Message)]
struct DeclaredRun {
    #[prost(string, repeated, tag = "1")]
    commands: Vec<String>,
}

#[derive(Message)]
struct Begun {
    #[prost(string, tag = "2")]
    build_id: String,
    #[prost(string, tag = "3")]
    status: String,
}

#[derive(Message)]
struct Asked {
    #[prost(string, tag = "1")]
    build_id: String,
}

#[derive(Message)]
struct Standing {
    #[prost(string, tag = "2")]
    status: String,
    #[prost(string, optional, tag = "4")]
    error: Option<String>,
}

/// The SDK ends with the first "failed" that it is told, though the build is begun again by the next
/// service: so a stop must not say it to a request that comes between.
#[tokio::test]
async fn a_stop_does_not_tell_the_sdk_that_its_build_failed() {
    const IMAGES: &str = "/chalk.sandbox.v1.CustomImageService";
    let dir = tempfile::tempdir().unwrap();
    let api = Api::start(settings(dir.path())).await;
    let declared = Declared {
        spec: Some(DeclaredSpec {
            base_image: "python:3.12".into(),
            steps: vec![DeclaredStep {
                run: Some(DeclaredRun {
                    commands: vec!["wait".into()],
                }),
            }],
        }),
    };
    let begun = api
        .request(Method::POST, &format!("{IMAGES}/GetOrBuildCustomImage"))
        .header("content-type", "application/proto")
        .body(declared.encode_to_vec());
    let begun = begun.send().await.unwrap().bytes().await.unwrap();
    let begun = Begun::decode(begun).unwrap();
    assert_eq!(begun.status, "building");
    api.until_build(&begun.build_id, |build| !build.steps.is_empty())
        .await;
    let path = format!("/v1/builds/{}/events", begun.build_id);
    let followed = api.request(Method::GET, &path).send().await.unwrap();

    // A question that the service has begun to read, and whose last byte comes once the build ended.
    let asked = Asked {
        build_id: begun.build_id,
    };
    let body = asked.encode_to_vec();
    let (last, first) = body.split_last().unwrap();
    let (addr, token) = (api.running.addr, &api.running.token);
    let head = format!(
        "POST {IMAGES}/GetCustomImage HTTP/1.1\r\nhost: {addr}\r\nauthorization: Bearer {token}\r\n\
         content-type: application/proto\r\ncontent-length: {}\r\nexpect: 100-continue\r\n\r\n",
        body.len()
    );
    let mut connection = TcpStream::connect(addr).await.unwrap();
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut told = Vec::new();
    while !told.ends_with(b"\r\n\r\n") {
        assert_ne!(connection.read_buf(&mut told).await.unwrap(), 0);
    }
    assert!(told.starts_with(b"HTTP/1.1 100"));
    connection.write_all(first).await.unwrap();
    let stop = tokio::spawn(api.running.shutdown());
    let rest = followed.text().await.unwrap();
    assert!(rest.contains("the service stopped"), "{rest}");
    connection.write_all(&[*last]).await.unwrap();
    let mut told = Vec::new();
    connection.read_to_end(&mut told).await.unwrap();
    stop.await.unwrap();

    let end = told.windows(4).position(|four| four == b"\r\n\r\n");
    let standing = Standing::decode(&told[end.unwrap() + 4..]).unwrap();
    assert_eq!(standing.status, "building", "{:?}", standing.error);
    assert_eq!(standing.error, None);
}

#[tokio::test]
async fn builds_that_a_crash_interrupted_are_failed_with_all_their_events() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("a");
    let api = Api::start(settings(&state)).await;
    let built = api.finished(&request(commands(&["a"]))).await;
    let runs = api
        .accepted(&request(commands(&["lines 10", "wait"])))
        .await;
    let seen = api
        .until_build(&runs.id, |build| build.steps.len() == 2)
        .await;
    assert_eq!(seen.status, BuildStatus::Running);
    let logs = format!("/v1/builds/{}/logs", runs.id);
    let text = api
        .request(Method::GET, &logs)
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert_eq!(text.lines().count(), 10);
    // What a crash would leave: a copy of the state in the middle of the build.
    let copy = dir.path().join("b");
    copy_dir(&state, &copy);
    api.control.gate.add_permits(1);
    api.running.shutdown().await;

    let events = copy.join("builds").join(&runs.id).join("events.jsonl");
    let mut torn = fs::read(&events).unwrap();
    torn.extend_from_slice(b"{\"seq\":13,\"ti");
    fs::write(&events, torn).unwrap();
    for lost_index in [false, true] {
        if lost_index {
            fs::write(copy.join("chalk.redb"), b"damaged").unwrap();
        }
        let api = Api::start(settings(&copy)).await;
        let events = api.events(&runs.id, 0).await;
        let numbers: Vec<u64> = events.iter().map(|event| event.seq).collect();
        assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
        let lines = events
            .iter()
            .filter(|e| matches!(e.kind, EventKind::Log { .. }))
            .count();
        assert_eq!(lines, 10);
        let ended = end_of(&events);
        assert_eq!(ended.status, BuildStatus::Failed);
        assert!(
            ended
                .error
                .as_ref()
                .unwrap()
                .detail
                .contains("the service stopped")
        );
        assert_eq!(ended.steps.len(), 2);
        let listed: Vec<Build> = api.get("/v1/builds").await;
        assert_eq!(listed, [ended, built.clone()]);
        let images: Vec<Image> = api.get("/v1/images").await;
        assert_eq!(images.len(), 1, "lost index: {lost_index}");
        api.running.shutdown().await;
    }
}

#[tokio::test]
async fn a_service_that_finishes_lets_builds_end() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::start(settings(dir.path())).await;
    let build = api.accepted(&request(commands(&["wait"]))).await;
    let path = format!("/v1/builds/{}/events", build.id);
    let followed = api.request(Method::GET, &path).send().await.unwrap();
    let control = api.control.clone();
    let end = tokio::spawn(api.running.finish());
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert!(!end.is_finished());
    assert!(
        chalk_service::state::discover(dir.path())
            .unwrap()
            .is_none()
    );
    control.gate.add_permits(1);
    let events = crate::service::parse_events(&followed.text().await.unwrap());
    assert_eq!(end_of(&events).status, BuildStatus::Built);
    end.await.unwrap();
}

fn copy_dir(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn the_index_is_made_anew_from_the_registry() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::start(settings(dir.path())).await;
    for (command, name) in [
        ("a", Some("team/app:v1")),
        ("b", Some("other")),
        ("c", None),
    ] {
        let mut wanted = request(commands(&[command]));
        wanted.name = name.map(str::to_owned);
        api.finished(&wanted).await;
    }
    let gone = api
        .request(Method::DELETE, "/v1/images/other")
        .send()
        .await
        .unwrap();
    assert_eq!(gone.status(), StatusCode::NO_CONTENT);
    let key = |image: &Image| {
        (
            image.image_hash,
            image.names.clone(),
            image.digest,
            image.size,
        )
    };
    let mut before: Vec<_> = api
        .get::<Vec<Image>>("/v1/images")
        .await
        .iter()
        .map(key)
        .collect();
    before.sort();
    let reindexed = api.running.reindex().await.unwrap();
    assert_eq!(
        (reindexed.images, reindexed.names, reindexed.skipped),
        (3, 1, 0)
    );
    let mut after: Vec<_> = api
        .get::<Vec<Image>>("/v1/images")
        .await
        .iter()
        .map(key)
        .collect();
    after.sort();
    assert_eq!(after, before);
    api.running.shutdown().await;
    fs::remove_file(dir.path().join("chalk.redb")).unwrap();
    let api = Api::start(settings(dir.path())).await;
    let mut after: Vec<_> = api
        .get::<Vec<Image>>("/v1/images")
        .await
        .iter()
        .map(key)
        .collect();
    after.sort();
    assert_eq!(after, before);
    assert_eq!(api.get::<Vec<Build>>("/v1/builds").await.len(), 3);
    api.running.shutdown().await;
}

#[tokio::test]
async fn old_builds_are_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.build.keep = 2;
    let api = Api::start(settings).await;
    let mut ids = Vec::new();
    for command in ["a", "b", "c", "d"] {
        ids.push(api.finished(&request(commands(&[command]))).await.id);
    }
    // The last event is sent before the records are tidied up.
    api.until(|_| fs::read_dir(dir.path().join("builds")).unwrap().count() == 2)
        .await;
    let listed: Vec<Build> = api.get("/v1/builds").await;
    let listed: Vec<_> = listed.iter().map(|build| build.id.clone()).collect();
    assert_eq!(listed, [ids[3].clone(), ids[2].clone()]);
    let forgotten = api.request(Method::GET, &format!("/v1/builds/{}/events", ids[0]));
    assert_eq!(api.problem(forgotten).await.kind, problem::NOT_FOUND);
    api.running.shutdown().await;
}

#[tokio::test]
async fn a_clock_that_was_set_back_makes_no_old_builds() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.build.keep = 1;
    let api = Api::start(settings.clone()).await;
    let built = api.finished(&request(commands(&["a"]))).await;
    api.running.shutdown().await;

    // As it looks when the clock was ahead at that time.
    let ahead = Build {
        id: "0fffffffffff-00000000".into(),
        ..built.clone()
    };
    let builds = dir.path().join("builds");
    fs::rename(builds.join(&built.id), builds.join(&ahead.id)).unwrap();
    let (index, _) = Index::open(&dir.path().join("chalk.redb")).unwrap();
    index.put_build(&ahead).unwrap();
    index.remove_builds(&[built.id]).unwrap();
    drop(index);

    let api = Api::start(settings).await;
    let new = api.finished(&request(commands(&["b"]))).await;
    assert!(new.id > ahead.id, "{}", new.id);
    // The older one of the two is forgotten.
    api.until(|_| !builds.join(&ahead.id).exists()).await;
    assert!(builds.join(&new.id).exists());
    api.running.shutdown().await;
}

#[tokio::test]
async fn a_second_service_and_a_taken_address_are_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::start(settings(dir.path())).await;
    let error = Service::start(settings(dir.path())).await.unwrap_err();
    let words = error.to_string();
    assert!(words.contains(&api.running.addr.to_string()), "{words}");
    assert!(words.contains(&std::process::id().to_string()), "{words}");

    let found = chalk_service::state::discover(dir.path()).unwrap().unwrap();
    assert_eq!(found.url, format!("http://{}", api.running.addr));
    assert_eq!(found.token, api.running.token);

    let other = tempfile::tempdir().unwrap();
    let mut taken = settings(other.path());
    taken.serve.listen = api.running.addr;
    let error = Service::start(taken).await.unwrap_err();
    assert!(matches!(error, StartError::Listen { .. }), "{error}");
    api.running.shutdown().await;
    Api::start(settings(dir.path()))
        .await
        .running
        .shutdown()
        .await;
}
