//! The bucket over HTTP, against a store with faults.

use std::io::Read as _;
use std::sync::{Arc, Mutex};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use chalk_core::Digest;
use chalk_store::uses::{Horizon, Leases};
use chalk_store::{BlobStore, Unused};
use tower::ServiceExt as _;

use super::fake::{Fake, Fault};
use super::sharing::Times;
use super::{BLOBS_AT_ONCE, Bucket};
use crate::registry::error::EmbeddedError;
use crate::registry::{Part, Registry, RegistryLimits, View, Viewed, router};

const MOMENT: Duration = Duration::from_secs(1);

/// A dead collector is given up after a moment.
fn quick() -> Times {
    Times {
        silent: MOMENT,
        poll: Duration::from_millis(10),
        ..Times::default()
    }
}

/// Tells at each use that this service is there.
fn chatty() -> Times {
    Times {
        renew: Duration::ZERO,
        ..quick()
    }
}

/// Has to wait for a collection at each use.
fn forgetful() -> Times {
    Times {
        holds: Duration::ZERO,
        ..chatty()
    }
}

fn took(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}

#[track_caller]
fn wait_until(what: &str, is: impl Fn() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < Duration::from_secs(20), "{what}");
        sleep(Duration::from_millis(5));
    }
}

fn store(fake: &Fake, name: &str) -> BlobStore {
    BlobStore::open(fake.dir.path().join(name)).unwrap()
}

fn blob(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Puts a blob that nobody used after the horizon, which this gives, too.
fn unused(fake: &Fake, bytes: &'static [u8]) -> (Digest, Horizon) {
    let digest = Digest::of(bytes);
    fake.put(&blob(&digest), bytes);
    sleep(Duration::from_millis(20));
    (digest, Leases::default().horizon(Duration::ZERO, None))
}

#[test]
fn objects_are_removed_by_the_call_that_every_store_has() {
    let fake = Fake::start();
    let bucket = fake.bucket("one", quick());
    bucket.write("some/record", b"x").unwrap();
    assert!(bucket.remove("some/record").unwrap());
    assert!(!fake.has("some/record"));
    assert!(!bucket.remove("some/record").unwrap());
    assert_eq!(fake.requests("DELETE some/record"), 1);
}

#[test]
fn a_collector_that_died_is_waited_for_once_and_then_removed() {
    let fake = Fake::start();
    fake.put("collection", "another collects");
    let bucket = fake.bucket("one", forgetful());
    assert!(took(|| bucket.announce().unwrap()) >= MOMENT);
    assert!(!fake.has("collection"));
    // So a service that comes later does not wait at all.
    let other = fake.bucket("other", quick());
    assert!(took(|| other.announce().unwrap()) < MOMENT);
}

#[test]
fn a_collector_that_died_is_remembered_where_it_cannot_be_removed() {
    let fake = Fake::start();
    fake.put("collection", "another collects");
    fake.fault("DELETE collection", 1, Fault::Refuse);
    let bucket = fake.bucket("one", forgetful());
    assert!(took(|| bucket.announce().unwrap()) >= MOMENT);
    assert!(fake.has("collection"));
    assert!(took(|| bucket.announce().unwrap()) < MOMENT);
    // Another one is another matter.
    fake.put("collection", "a third collects");
    assert!(took(|| bucket.announce().unwrap()) >= MOMENT);
}

#[test]
fn who_told_of_itself_lately_waits_for_no_collection() {
    let fake = Fake::start();
    let bucket = fake.bucket("one", chatty());
    bucket.announce().unwrap();
    fake.put("collection", "another collects");
    assert!(took(|| bucket.announce().unwrap()) < MOMENT);
    assert_eq!(fake.requests("PUT services/"), 2);
}

#[test]
fn others_go_on_while_one_tells_again() {
    let fake = Fake::start();
    let bucket = fake.bucket("one", chatty());
    bucket.announce().unwrap();
    fake.fault("PUT services/", 1, Fault::Slow(Duration::from_secs(2)));
    let one = bucket.clone();
    let tells = spawn(move || one.announce());
    wait_until("it tells", || fake.requests("PUT services/") == 2);
    assert!(took(|| bucket.announce().unwrap()) < Duration::from_secs(1));
    tells.join().unwrap().unwrap();
}

#[test]
fn not_every_thread_waits_for_a_collection() {
    let fake = Fake::start();
    fake.put("collection", "another collects");
    let times = Times {
        silent: Duration::from_secs(2),
        ..quick()
    };
    let bucket = fake.bucket("one", times);
    let use_it = |bucket: &Bucket| {
        let bucket = bucket.clone();
        spawn(move || bucket.read("some/record"))
    };
    let first = use_it(&bucket);
    wait_until("it looks again", || fake.requests("GET collection") > 1);
    let others: Vec<_> = (0..80).map(|_| use_it(&bucket)).collect();
    let done = others.into_iter().map(|other| other.join().unwrap());
    let refused = done.filter(|read| {
        let refused = matches!(read, Err(EmbeddedError::Bucket { detail, .. }) if detail.contains("collects garbage"));
        assert_ne!(refused, read.is_ok(), "{read:?}");
        refused
    });
    assert_eq!(refused.count(), 16);
    first.join().unwrap().unwrap();
}

#[test]
fn a_collection_that_is_dropped_ends() {
    let fake = Fake::start();
    let bucket = fake.bucket("one", quick());
    let collection = bucket.begin_collection(Duration::ZERO).unwrap();
    assert!(fake.has("collection") && bucket.collects());
    drop(collection);
    wait_until("it ended", || !bucket.collects());
    assert!(!fake.has("collection"));

    // Also where nobody takes what begins.
    fake.fault("PUT collection", 1, Fault::Slow(MOMENT));
    let begin = bucket.clone();
    let begins = fake.runtime.spawn(async move {
        tokio::task::spawn_blocking(move || begin.begin_collection(Duration::ZERO)).await
    });
    wait_until("it begins", || fake.requests("PUT collection") == 2);
    begins.abort();
    wait_until("it ended", || !bucket.collects());
    assert!(!fake.has("collection"));
    assert!(matches!(
        bucket.begin_removal().err(),
        Some(EmbeddedError::BucketShared { .. })
    ));
}

#[test]
fn a_collection_ends_after_a_removal_that_is_under_way() {
    let fake = Fake::start();
    let bucket = fake.bucket("one", quick());
    let (digest, horizon) = unused(&fake, b"garbage");
    let key = blob(&digest);
    let collection = bucket.begin_collection(Duration::ZERO).unwrap();
    fake.fault("DELETE blobs/", 1, Fault::Slow(MOMENT));
    let one = bucket.clone();
    let removes = spawn(move || one.discard(&digest, &horizon));
    wait_until("it removes", || fake.requests("DELETE blobs/") == 1);
    drop(collection);
    wait_until("it ended", || !fake.has("collection"));
    assert!(!fake.has(&key), "others were let in before");
    assert!(matches!(removes.join().unwrap(), Ok(Unused::Removed(7))));
}

#[test]
fn nothing_is_removed_once_others_may_take_the_collector_for_dead() {
    let fake = Fake::start();
    let times = Times {
        begin: MOMENT,
        ..quick()
    };
    let bucket = fake.bucket("one", times);
    let (digest, horizon) = unused(&fake, b"garbage");
    let collection = bucket.begin_collection(Duration::ZERO).unwrap();
    // The second look for it is the one under the collection.
    fake.fault("HEAD blobs/", 2, Fault::Late(MOMENT));
    let refused = bucket.discard(&digest, &horizon).unwrap_err();
    assert!(refused.to_string().contains("seconds old"), "{refused}");
    assert_eq!(fake.requests("DELETE blobs/"), 0);
    assert!(fake.has(&blob(&digest)));
    collection.end();
}

#[test]
fn a_removal_is_given_up_in_time() {
    let fake = Fake::start();
    let times = Times {
        answer: MOMENT,
        ..quick()
    };
    let bucket = fake.bucket("one", times);
    let (digest, horizon) = unused(&fake, b"garbage");
    let collection = bucket.begin_collection(Duration::ZERO).unwrap();
    fake.fault("DELETE blobs/", 1, Fault::Slow(10 * MOMENT));
    let mut error = None;
    let time = took(|| error = bucket.discard(&digest, &horizon).err());
    assert!(time < 5 * MOMENT, "{time:?}");
    let error = error.unwrap().to_string();
    assert!(error.contains("no answer within 1s"), "{error}");
    collection.end();
}

#[test]
fn small_blobs_do_not_wait_for_large_ones() {
    let fake = Fake::start();
    let bucket = fake.bucket("one", quick());
    let copies = store(&fake, "copies");
    // Of two parts each.
    let parts = 2 * BLOBS_AT_ONCE;
    fake.fault("GET blobs/", parts, Fault::Slow(3 * MOMENT));
    let large: Vec<_> = (0..BLOBS_AT_ONCE)
        .map(|number| {
            let bytes = vec![u8::try_from(number).unwrap(); (8 << 20) + 1];
            let digest = Digest::of(&bytes);
            fake.put(&blob(&digest), bytes);
            let (bucket, copies) = (bucket.clone(), copies.clone());
            spawn(move || bucket.bring(&digest.into(), &copies))
        })
        .collect();
    wait_until("all are on their way", || {
        fake.requests("GET blobs/") == parts
    });
    let small = copies.put(b"manifest").unwrap().digest;
    let time = took(|| assert!(bucket.keep(&small.into(), &copies).unwrap()));
    assert!(time < 2 * MOMENT, "{time:?}");
    assert!(fake.has(&blob(&small)));
    for large in large {
        assert!(large.join().unwrap().unwrap());
    }
}

fn registry(fake: &Fake, bucket: &Bucket) -> Registry {
    let dir = fake.dir.path().join("registry");
    Registry::open_on(Some(bucket.clone()), dir, store(fake, "copies")).unwrap()
}

#[test]
fn the_registry_may_change_while_a_manifest_is_on_its_way() {
    let fake = Fake::start();
    let bucket = fake.bucket("one", quick());
    let registry = registry(&fake, &bucket);
    let manifest = br#"{"schemaVersion":2,"manifests":[]}"#;
    let key = blob(&Digest::of(manifest));
    let put = format!("PUT {key}");
    fake.fault(&put, 1, Fault::Slow(4 * MOMENT));
    let request = Request::put("/v2/app/manifests/v1").body(Body::from(&manifest[..]));
    let router = {
        let _inside = fake.runtime.enter();
        router(registry.clone(), RegistryLimits::default())
    };
    let pushed = fake.runtime.spawn(router.oneshot(request.unwrap()));
    wait_until("it is on its way", || fake.requests(&put) == 1);
    let time = took(|| assert!(!registry.delete_blob("app", Digest::of(b"none")).unwrap()));
    assert!(time < 2 * MOMENT, "{time:?}");
    assert!(!fake.has(&key));
    let pushed = fake.runtime.block_on(pushed).unwrap().unwrap();
    assert_eq!(pushed.status(), StatusCode::CREATED);
    assert!(fake.has("repositories/app/_tags/v1"));
    assert_eq!(fake.requests(&put), 1, "it is sent once");
}

#[test]
fn one_damaged_transfer_does_not_make_an_object_damaged() {
    let fake = Fake::start();
    let bucket = fake.bucket("one", quick());
    let copies = store(&fake, "copies");
    let digest = Digest::of(b"sound");
    fake.put(&blob(&digest), &b"sound"[..]);
    let follow = || {
        let (mut follower, size) = bucket.follow(&digest, &copies).unwrap().unwrap();
        assert_eq!(size, 5);
        let mut got = Vec::new();
        follower.read_to_end(&mut got).unwrap_err();
        // The object is not moved any more.
        drop(bucket.begin(&digest));
    };
    fake.fault("GET blobs/", 1, Fault::Damage);
    follow();
    assert_eq!(bucket.blob(&digest.into()).unwrap(), Some(5));
    assert!(copies.contains(digest).unwrap());

    // Twice is once too often.
    copies.remove(&digest).unwrap();
    fake.fault("GET blobs/", 2, Fault::Damage);
    follow();
    assert_eq!(bucket.blob(&digest.into()).unwrap(), None);
    assert_eq!(fake.requests("GET blobs/"), 4);
}

/// Sees all, and notes what came in.
#[derive(Debug, Default)]
struct Counts(Mutex<Vec<(String, Digest, u64)>>);

#[async_trait]
impl View for Counts {
    fn lists(&self, _: &str) -> bool {
        true
    }

    fn lists_in(&self, _: &str, _: &str) -> bool {
        true
    }

    async fn allows(&self, _: &str, _: Part<'_>, _: bool) -> bool {
        true
    }

    fn room(&self, _: &str, _: u64) -> Result<(), String> {
        Ok(())
    }

    fn took(&self, repository: &str, digest: Digest, size: u64) {
        let taken = (repository.to_owned(), digest, size);
        self.0.lock().unwrap().push(taken);
    }
}

#[test]
fn a_mount_counts_though_there_is_no_copy() {
    let fake = Fake::start();
    let bucket = fake.bucket("one", quick());
    let registry = registry(&fake, &bucket);
    let digest = Digest::of(b"layer");
    fake.put(&blob(&digest), &b"layer"[..]);
    let link = format!("repositories/base/_layers/sha256/{}", digest.hex());
    fake.put(&link, "");
    let counts = Arc::new(Counts::default());
    let router = {
        let _inside = fake.runtime.enter();
        router(registry, RegistryLimits::default())
    };
    let path = format!("/v2/app/blobs/uploads/?mount={digest}&from=base");
    let request = Request::post(path).extension(Viewed(counts.clone()));
    let request = request.body(Body::empty()).unwrap();
    let mounted = fake.runtime.block_on(router.oneshot(request)).unwrap();
    assert_eq!(mounted.status(), StatusCode::CREATED);
    let counted = counts.0.lock().unwrap().clone();
    assert_eq!(counted, [("app".to_owned(), digest, 5)]);
}
