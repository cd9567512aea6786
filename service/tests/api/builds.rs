//! The queue: single flight, limits, cancellation.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chalk_core::Spec;
use chalk_core::wire::{
    Build, BuildReply, BuildStatus, EventKind, Plan, PlanState, ResolveRequest, StepState, problem,
};
use reqwest::Method;

use crate::service::{Api, commands, end_of, ok, request, settings};

#[tokio::test]
async fn a_finished_image_is_not_built_again() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::start(settings(dir.path())).await;
    let wanted = request(commands(&["a", "b"]));
    let built = api.finished(&wanted).await;
    assert_eq!(built.status, BuildStatus::Built);
    assert_eq!(built.steps.len(), 2);
    let BuildReply::Reused(reused) = api.build(&wanted).await else {
        panic!("not reused");
    };
    assert_eq!(reused.status, BuildStatus::Reused);
    assert_eq!(
        (reused.digest, reused.image.as_ref()),
        (built.digest, built.image.as_ref())
    );
    assert!(
        reused
            .steps
            .iter()
            .all(|step| step.state == StepState::Cached)
    );
    assert_eq!(reused.steps.len(), 2);
    let events = api.events(&reused.id, 0).await;
    assert_eq!((events.len(), end_of(&events)), (1, reused.clone()));
    let got: Build = api.get(&format!("/v1/builds/{}", reused.id)).await;
    assert_eq!(got, reused);
    assert_eq!(api.control.begun.load(Ordering::SeqCst), 1);

    let mut forced = wanted.clone();
    forced.force = true;
    assert_eq!(api.finished(&forced).await.status, BuildStatus::Built);
    assert_eq!(api.control.begun.load(Ordering::SeqCst), 2);

    // A step that is to run anew does so although the whole image is there, and the plan says so.
    let plan = async |spec: &Spec| -> Plan {
        let ask = ResolveRequest {
            spec: spec.clone(),
            blobs: BTreeMap::new(),
        };
        ok(api.request(Method::POST, "/v1/plan").json(&ask)).await
    };
    let states = |plan: Plan| plan.steps.iter().map(|s| s.state).collect::<Vec<_>>();
    let whole = plan(&wanted.spec).await;
    assert!(whole.exists);
    assert_eq!(states(whole), [PlanState::Cached; 2]);
    let mut partly = wanted.clone();
    partly.spec.steps[1].force = true;
    let planned = plan(&partly.spec).await;
    assert!(planned.exists);
    assert_eq!(states(planned)[1], PlanState::Run);
    assert_eq!(api.finished(&partly).await.status, BuildStatus::Built);
    assert_eq!(api.control.begun.load(Ordering::SeqCst), 3);
    api.running.shutdown().await;
}

#[tokio::test]
async fn two_requests_for_one_hash_are_one_build() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::start(settings(dir.path())).await;
    let mut wanted = request(commands(&["wait"]));
    let (first, second) = tokio::join!(api.accepted(&wanted), api.accepted(&wanted));
    assert_eq!(first.id, second.id);
    wanted.name = Some("late:v1".into());
    assert_eq!(api.accepted(&wanted).await.id, first.id);
    // Nobody who wants steps to run anew is content with a build that takes them from the cache.
    wanted.spec.steps[0].force = true;
    let partly = api.accepted(&wanted).await;
    assert_ne!(partly.id, first.id);
    assert_eq!(api.accepted(&wanted).await.id, partly.id);
    wanted.force = true;
    let forced = api.accepted(&wanted).await;
    assert!(forced.id != first.id && forced.id != partly.id);
    assert_eq!(api.accepted(&wanted).await.id, forced.id);
    api.control.gate.add_permits(3);
    let (one, two) = tokio::join!(api.events(&first.id, 0), api.events(&first.id, 0));
    assert_eq!(one, two);
    assert_eq!(end_of(&one).name.as_deref(), Some("late:v1"));
    let image: chalk_core::wire::ImageDetail = api.get("/v1/images/late:v1").await;
    assert_eq!(image.image.image_hash, first.image_hash);
    assert_eq!(
        end_of(&api.events(&forced.id, 0).await).status,
        BuildStatus::Built
    );
    assert_eq!(api.control.begun.load(Ordering::SeqCst), 3);
    api.running.shutdown().await;
}

#[tokio::test]
async fn builds_beyond_the_limit_wait_and_beyond_that_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.build.parallel = 2;
    settings.build.queue_limit = 3;
    let api = Api::start(settings).await;
    let wanted = |i: usize| request(commands(&["wait", &format!("nothing {i}")]));
    let mut ids = Vec::new();
    for i in 0..5 {
        ids.push(api.accepted(&wanted(i)).await.id);
    }
    assert!(ids.is_sorted());
    let post = api.request(Method::POST, "/v1/builds").json(&wanted(5));
    let refused = api.problem(post).await;
    assert_eq!(
        (refused.kind.as_str(), refused.status),
        (problem::UNAVAILABLE, 503)
    );
    assert_eq!(api.accepted(&wanted(4)).await.id, ids[4]);

    api.until(|control| control.running.load(Ordering::SeqCst) == 2)
        .await;
    let listed: Vec<Build> = api.get("/v1/builds?limit=3").await;
    let listed: Vec<_> = listed.iter().map(|b| (b.id.as_str(), b.status)).collect();
    let queued = BuildStatus::Queued;
    assert_eq!(
        listed,
        [
            (ids[4].as_str(), queued),
            (&ids[3], queued),
            (&ids[2], queued)
        ]
    );

    api.control.gate.add_permits(5);
    for (i, id) in ids.iter().enumerate() {
        let events = api.events(id, 0).await;
        assert_eq!(end_of(&events).status, BuildStatus::Built);
        let ahead = events.iter().filter_map(|event| match event.kind {
            EventKind::Queued { ahead } => Some(ahead),
            _ => None,
        });
        let ahead: Vec<usize> = ahead.collect();
        assert_eq!(ahead.first().copied(), (i >= 2).then_some(i), "{ahead:?}");
        assert!(ahead.windows(2).all(|pair| pair[0] > pair[1]), "{ahead:?}");
    }
    assert_eq!(api.control.most.load(Ordering::SeqCst), 2);
    assert_eq!(api.control.begun.load(Ordering::SeqCst), 5);
    api.running.shutdown().await;
}

#[tokio::test]
async fn builds_are_cancelled_while_they_run_and_while_they_wait() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.build.parallel = 1;
    let api = Api::start(settings).await;
    let runs = api.accepted(&request(commands(&["wait", "1"]))).await;
    let waits = api.accepted(&request(commands(&["wait", "2"]))).await;
    api.until(|control| control.running.load(Ordering::SeqCst) == 1)
        .await;
    for id in [&waits.id, &runs.id] {
        let delete = api.request(Method::DELETE, &format!("/v1/builds/{id}"));
        let _: Build = ok(delete).await;
        let ended = end_of(&api.events(id, 0).await);
        assert_eq!(ended.status, BuildStatus::Cancelled);
        let error = ended.error.clone().unwrap();
        assert_eq!(error.kind, problem::CANCELLED);
        assert_eq!(error.detail, "it was cancelled by a client");
        let again: Build = ok(api.request(Method::DELETE, &format!("/v1/builds/{id}"))).await;
        assert_eq!(again, ended);
    }
    assert_eq!(api.control.begun.load(Ordering::SeqCst), 1);
    // Its place is free, and its hash can be built again.
    let again = api.accepted(&request(commands(&["wait", "1"]))).await;
    assert_ne!(again.id, runs.id);
    api.control.gate.add_permits(1);
    assert_eq!(
        end_of(&api.events(&again.id, 0).await).status,
        BuildStatus::Built
    );
    api.running.shutdown().await;
}

#[tokio::test]
async fn a_build_ends_with_its_last_client_if_all_of_them_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    // A client has as long to follow what it asked for, also on a busy machine.
    let grace = Duration::from_secs(5);
    settings.build.disconnect_grace = grace;
    let api = Api::start(settings).await;
    let mut bound = request(commands(&["wait", "bound"]));
    bound.cancel_on_disconnect = true;
    let path = |id: &str| format!("/v1/builds/{id}/events");

    // Followed, so it stays; then its client goes.
    let left = api.accepted(&bound).await;
    let mut stream = api
        .request(Method::GET, &path(&left.id))
        .send()
        .await
        .unwrap();
    stream.chunk().await.unwrap();
    tokio::time::sleep(grace + Duration::from_millis(500)).await;
    let build: Build = api.get(&format!("/v1/builds/{}", left.id)).await;
    assert_eq!(build.status, BuildStatus::Running);
    drop(stream);
    let ended = api
        .until_build(&left.id, |build| build.status.is_final())
        .await;
    assert_eq!(ended.status, BuildStatus::Cancelled);
    assert_eq!(ended.error.unwrap().detail, "its last client is gone");

    // Never followed at all.
    let never = api.accepted(&bound).await;
    let ended = api
        .until_build(&never.id, |build| build.status.is_final())
        .await;
    assert_eq!(ended.status, BuildStatus::Cancelled);

    // Somebody else wants it in any case.
    let kept = api.accepted(&bound).await;
    let mut detached = bound.clone();
    detached.cancel_on_disconnect = false;
    assert_eq!(api.accepted(&detached).await.id, kept.id);
    drop(
        api.request(Method::GET, &path(&kept.id))
            .send()
            .await
            .unwrap(),
    );
    tokio::time::sleep(grace + Duration::from_millis(500)).await;
    api.control.gate.add_permits(1);
    assert_eq!(
        end_of(&api.events(&kept.id, 0).await).status,
        BuildStatus::Built
    );
    api.running.shutdown().await;
}

#[tokio::test]
async fn a_client_that_leaves_takes_no_build_from_one_that_is_about_to_follow() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.build.disconnect_grace = Duration::from_secs(600);
    let api = Api::start(settings).await;
    let mut bound = request(commands(&["wait", "bound"]));
    bound.cancel_on_disconnect = true;
    let build = api.accepted(&bound).await;
    let path = format!("/v1/builds/{}/events", build.id);
    let mut stream = api.request(Method::GET, &path).send().await.unwrap();
    stream.chunk().await.unwrap();
    let leave = format!("/v1/builds/{}?leave=true", build.id);
    // The second has asked for it, and does not follow it yet.
    assert_eq!(api.accepted(&bound).await.id, build.id);
    drop(stream);
    let left: Build = ok(api.request(Method::DELETE, &leave)).await;
    assert!(!left.status.is_final(), "{left:?}");
    let mut second = api.request(Method::GET, &path).send().await.unwrap();
    second.chunk().await.unwrap();
    // It is the last one.
    drop(second);
    let _: Build = ok(api.request(Method::DELETE, &leave)).await;
    let ended = api
        .until_build(&build.id, |build| build.status.is_final())
        .await;
    assert_eq!(ended.status, BuildStatus::Cancelled);
    assert_eq!(ended.error.unwrap().detail, "its last client left");
    api.running.shutdown().await;
}

#[tokio::test]
async fn failures_are_told_and_do_not_stop_the_queue() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.build.parallel = 1;
    let api = Api::start(settings).await;
    let failed = api.finished(&request(commands(&["a", "fail", "b"]))).await;
    assert_eq!(failed.status, BuildStatus::Failed);
    let error = failed.error.unwrap();
    assert_eq!(error.kind, problem::STEP_FAILED);
    assert!(error.detail.contains("exit code 7"));
    let states: Vec<StepState> = failed.steps.iter().map(|step| step.state).collect();
    assert_eq!(
        states,
        [StepState::Ran, StepState::Failed, StepState::Waiting]
    );
    assert_eq!((failed.image, failed.digest), (None, None));

    let panicked = api.finished(&request(commands(&["panic"]))).await;
    assert_eq!(panicked.status, BuildStatus::Failed);
    assert_eq!(panicked.error.unwrap().kind, problem::INTERNAL);
    let built = api.finished(&request(commands(&["c"]))).await;
    assert_eq!(built.status, BuildStatus::Built);
    let of_hash = format!("/v1/builds?hash={}", &built.image_hash.hex()[..10]);
    let listed: Vec<Build> = api.get(&of_hash).await;
    assert_eq!(listed, [built]);
    api.running.shutdown().await;
}

#[tokio::test]
async fn secrets_reach_the_engine_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::start(settings(dir.path())).await;
    let mut wanted = request(commands(&["secret token"]));
    wanted.secrets = [("token".to_owned(), "hunter2hunter2".to_owned())].into();
    let build = api.accepted(&wanted).await;
    let events = api.events(&build.id, 0).await;
    let logged = events
        .iter()
        .any(|event| matches!(&event.kind, EventKind::Log { text, .. } if text == "14 bytes\n"));
    assert!(logged);
    api.running.shutdown().await;
    let mut places = vec![dir.path().to_owned()];
    let mut files = 0;
    while let Some(place) = places.pop() {
        for entry in std::fs::read_dir(place).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                places.push(path);
            } else {
                files += 1;
                let bytes = std::fs::read(&path).unwrap();
                let found = bytes.windows(14).any(|part| part == b"hunter2hunter2");
                assert!(!found, "{}", path.display());
            }
        }
    }
    assert!(files > 5);
}
