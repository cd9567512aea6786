//! Events: order, resumption, slow clients, limits.

use chalk_core::wire::{Build, EventKind};
use reqwest::{Method, StatusCode};

use crate::service::{Api, commands, end_of, parse_events, request, settings};

#[tokio::test]
async fn a_client_that_comes_back_misses_nothing_and_sees_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::start(settings(dir.path())).await;
    let wanted = request(commands(&["lines 500", "wait", "lines 500"]));
    let build = api.accepted(&wanted).await;
    let path = format!("/v1/builds/{}/events", build.id);
    let mut stream = api.request(Method::GET, &path).send().await.unwrap();
    let mut text = String::new();
    while parse_events(&whole(&text)).len() < 300 {
        let chunk = stream.chunk().await.unwrap().unwrap();
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    drop(stream);
    let mut events = parse_events(&whole(&text));
    let last = events.last().unwrap().seq;
    api.control.gate.add_permits(1);
    // The header counts before the address, as with browsers that come back.
    let rest = api
        .request(Method::GET, &format!("{path}?after=3"))
        .header("last-event-id", last)
        .send()
        .await
        .unwrap();
    events.extend(parse_events(&rest.text().await.unwrap()));
    let numbers: Vec<u64> = events.iter().map(|event| event.seq).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    let lines = events
        .iter()
        .filter(|e| matches!(e.kind, EventKind::Log { .. }))
        .count();
    assert_eq!(lines, 1000);
    let ended = end_of(&events);
    assert_eq!(api.events(&build.id, 0).await, events);
    assert_eq!(
        api.events(&build.id, last).await,
        events[usize::try_from(last).unwrap()..]
    );
    assert_eq!(api.events(&build.id, 1 << 40).await, []);
    let got: Build = api.get(&format!("/v1/builds/{}", build.id)).await;
    assert_eq!(got, ended);

    for wrong in ["x", "-1", ""] {
        let ask = api
            .request(Method::GET, &path)
            .header("last-event-id", wrong);
        assert_eq!(
            ask.send().await.unwrap().status(),
            StatusCode::BAD_REQUEST,
            "{wrong:?}"
        );
    }
    api.running.shutdown().await;
}

/// What stands before the last blank line: whole events.
fn whole(text: &str) -> String {
    let end = text.rfind("\n\n").map_or(0, |end| end + 2);
    text[..end].to_owned()
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::start(settings(dir.path())).await;
    let build = api
        .accepted(&request(commands(&["wait", "lines 100000"])))
        .await;
    let path = format!("/v1/builds/{}/events", build.id);
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(api.request(Method::GET, &path).send().await.unwrap());
    }
    api.control.gate.add_permits(1);
    let ended = api
        .until_build(&build.id, |build| build.status.is_final())
        .await;
    assert_eq!(ended.error, None);
    let text = idle.pop().unwrap().text().await.unwrap();
    let events = parse_events(&text);
    assert_eq!(end_of(&events), ended);
    assert!(events.len() > 100_000);
    drop(idle);
    api.running.shutdown().await;
}

#[tokio::test]
async fn logs_are_plain_text_of_one_step_or_all_and_limited() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.build.log_limit = bytesize::ByteSize::b(30);
    let api = Api::start(settings).await;
    let build = api
        .finished(&request(commands(&["lines 2", "lines 9"])))
        .await;
    let logs = async |query: &str| {
        let path = format!("/v1/builds/{}/logs{query}", build.id);
        let response = api.request(Method::GET, &path).send().await.unwrap();
        assert_eq!(
            response.headers()["content-type"],
            "text/plain; charset=utf-8"
        );
        response.text().await.unwrap()
    };
    assert_eq!(logs("?step=0").await, "line 0\nline 1\n");
    assert_eq!(logs("?step=1&follow=true").await, "line 0\nline 1\n");
    assert_eq!(logs("").await, "line 0\nline 1\nline 0\nline 1\n");
    assert_eq!(logs("?step=2").await, "");
    let events = api.events(&build.id, 0).await;
    let notices = events.iter().filter_map(|event| match &event.kind {
        EventKind::Warning { message } => Some(message.clone()),
        _ => None,
    });
    let notices: Vec<String> = notices.collect();
    assert_eq!(notices.len(), 1);
    assert!(notices[0].contains("build.log_limit"), "{notices:?}");
    api.running.shutdown().await;
}
