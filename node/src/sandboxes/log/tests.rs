#![allow(clippy::expect_used, clippy::panic)]

use super::*;

fn decode(data: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD
        .decode(data)
        .expect("base64")
}

/// All events after `after`, in words.
async fn read(log: &Log, after: u64) -> Vec<String> {
    let mut reader = log.reader(after, false);
    let mut found = Vec::new();
    while let Some(event) = reader.next().await.expect("readable") {
        let text = match event.kind {
            OutputEventKind::Output { stream, data } => {
                let text = String::from_utf8_lossy(&decode(&data)).into_owned();
                format!("{stream:?} {}", if text.len() > 9 { "long" } else { &text })
            }
            OutputEventKind::Dropped { bytes } => format!("dropped {bytes}"),
            OutputEventKind::Exited { code, .. } => format!("exited {code}"),
            OutputEventKind::Failed { error } => format!("failed {}", error.title),
        };
        found.push(format!("{} {text}", event.seq));
    }
    found
}

fn exited(code: i32) -> OutputEventKind {
    OutputEventKind::Exited {
        code,
        signal: None,
        ended_by: None,
    }
}

#[tokio::test]
async fn events_are_numbered_and_can_be_taken_up_again() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let log = Log::create(directory.path().join("main"), 1 << 20, false).expect("created");
    assert!(read(&log, 0).await.is_empty());
    log.write(Stream::Stdout, b"one");
    log.write(Stream::Stderr, b"two");
    assert_eq!(read(&log, 0).await, ["1 Stdout one", "2 Stderr two"]);
    log.write(Stream::Stdout, b"");
    log.end(exited(3));
    log.write(Stream::Stdout, b"late");
    log.end(exited(4));
    assert_eq!(read(&log, 1).await, ["2 Stderr two", "3 exited 3"]);
    assert_eq!(read(&log, 2).await, ["3 exited 3"]);
    assert!(log.has_ended());
}

#[tokio::test]
async fn old_output_goes_and_is_told() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("main");
    let log = Log::create(path.clone(), 512 << 10, false).expect("created");
    let chunk = vec![b'x'; 32 << 10];
    let mut early = log.reader(0, true);
    log.write(Stream::Stdout, &chunk);
    assert_eq!(early.next().await.expect("read").expect("there").seq, 1);
    for _ in 1..3200 {
        log.write(Stream::Stdout, &chunk);
    }
    log.end(exited(0));
    let size: u64 = fs::read_dir(&path)
        .expect("readable")
        .map(|entry| entry.expect("entry").metadata().expect("metadata").len())
        .sum();
    assert!(size <= 600 << 10, "{size}");
    // 100 MiB were written; two chunks a segment, eight segments.
    let events = read(&log, 0).await;
    let kept = events.iter().filter(|event| event.contains("long")).count() as u64;
    let dropped = (3200 - kept) * (32 << 10);
    assert_eq!(events[0], format!("{} dropped {dropped}", 3200 - kept));
    assert_eq!(events.last().expect("some"), "3201 exited 0");
    // Who has seen the first has missed one less.
    let event = early.next().await.expect("read").expect("there");
    let expect = OutputEventKind::Dropped {
        bytes: dropped - (32 << 10),
    };
    assert_eq!((event.seq, event.kind), (3200 - kept, expect));
}

#[tokio::test]
async fn a_follower_waits_for_more() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let log = Log::create(directory.path().join("main"), 1 << 20, false).expect("created");
    let mut reader = log.reader(0, true);
    let writer = {
        let log = log.clone();
        tokio::spawn(async move {
            for _ in 0..1000 {
                log.write(Stream::Stdout, b"more");
                tokio::task::yield_now().await;
            }
            log.end(exited(0));
        })
    };
    let mut seen = 0;
    while let Some(event) = reader.next().await.expect("readable") {
        seen += 1;
        assert_eq!(event.seq, seen);
    }
    assert_eq!(seen, 1001);
    writer.await.expect("no panic");
}

#[tokio::test]
async fn output_of_an_earlier_life_is_read_as_far_as_it_is_whole() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("main");
    let log = Log::create(path.clone(), 1 << 20, false).expect("created");
    log.write(Stream::Stdout, b"one");
    log.write(Stream::Stdout, b"two");
    drop(log);
    let segment = path.join("1");
    let bytes = fs::read(&segment).expect("readable");
    fs::write(&segment, &bytes[..bytes.len() - 1]).expect("cut off");
    let log = Log::recover(path, exited(9)).expect("recovered");
    assert_eq!(read(&log, 0).await, ["1 Stdout one", "2 exited 9"]);
    assert_eq!(read(&log, 1).await, ["2 exited 9"]);
}

#[tokio::test]
async fn what_the_disk_does_not_take_is_told() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("main");
    let log = Log::create(path.clone(), 1 << 20, false).expect("created");
    fs::remove_dir_all(&path).expect("removed");
    log.write(Stream::Stdout, b"lost");
    log.write(Stream::Stdout, b"lost too");
    fs::create_dir(&path).expect("made");
    log.write(Stream::Stdout, b"kept");
    log.end(exited(0));
    let events = read(&log, 0).await;
    assert_eq!(events, ["1 Stdout kept", "1 dropped 12", "2 exited 0"]);
}

#[tokio::test]
async fn small_pieces_take_no_more_room_than_big_ones() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("main");
    let log = Log::create(path.clone(), 512 << 10, false).expect("created");
    for _ in 0..100_000 {
        log.write(Stream::Stdout, b"x");
    }
    log.end(exited(0));
    let size: u64 = fs::read_dir(&path)
        .expect("readable")
        .map(|entry| entry.expect("entry").metadata().expect("metadata").len())
        .sum();
    assert!(size <= 512 << 10, "{size}");
    let events = read(&log, 0).await;
    let kept = events.len() as u64 - 2;
    assert!(kept > 20_000, "{kept}");
    let dropped = 100_000 - kept;
    assert_eq!(events[0], format!("{dropped} dropped {dropped}"));
    // The next life finds as many.
    let log = Log::recover(path, exited(0)).expect("recovered");
    assert_eq!(read(&log, dropped).await[..], events[1..]);
}

#[tokio::test]
async fn who_reads_what_is_removed_is_told() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("main");
    let log = Log::create(path.clone(), 512 << 10, false).expect("created");
    for _ in 0..4 {
        log.write(Stream::Stdout, &vec![b'x'; 64 << 10]);
    }
    log.end(exited(3));
    let mut reader = log.reader(0, true);
    let first = reader.next().await.expect("read").expect("there");
    assert_eq!(first.seq, 1);
    log.discard();
    assert!(!path.exists());
    let next = tokio::time::timeout(std::time::Duration::from_secs(60), reader.next()).await;
    let next = next
        .expect("no endless search")
        .expect("read")
        .expect("there");
    let expect = OutputEventKind::Dropped {
        bytes: 3 * (64 << 10),
    };
    assert_eq!((next.seq, next.kind), (4, expect));
    let end = reader.next().await.expect("read").expect("there");
    assert_eq!((end.seq, end.kind), (5, exited(3)));
    assert_eq!(read(&log, 0).await[1..], ["5 exited 3"]);
}
