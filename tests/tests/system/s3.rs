//! The embedded registry in an S3-compatible bucket.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use chalk_core::Digest;
use chalk_tests::{
    MANIFEST, Project, RegistryHttp, S3, Service, World, noise, run, tool, unique, wait_until,
};
use serde_json::json;

use crate::Test;
use crate::failures::{busybox, states};
use crate::gc::{freed, gc};
use crate::held::Held;

pub(crate) const TESTS: &[Test] = &[
    ("all_of_the_registry_lies_in_the_bucket", all_in_the_bucket),
    ("services_share_a_bucket", services_share),
    ("a_store_that_is_cut_off", cut_off),
    ("objects_that_are_damaged_or_gone", damaged),
    ("garbage_of_a_bucket_is_collected", collected),
    (
        "a_service_waits_for_a_collection",
        comes_while_another_collects,
    ),
];

const SECRET: &str = "geheim-s3-9c1f7a";

/// A service on the bucket, and the file with its keys.
fn start(world: &World, name: &str, s3: &S3) -> (Service, Project) {
    start_with(world, name, s3, &[])
}

fn start_with(world: &World, name: &str, s3: &S3, more: &[(&str, &str)]) -> (Service, Project) {
    start_in(&world.folder(name), s3, more)
}

fn start_in(state: &Path, s3: &S3, more: &[(&str, &str)]) -> (Service, Project) {
    let text = format!("[default]\naws_access_key_id = KEY\naws_secret_access_key = {SECRET}\n");
    let keys = Project::new(&[("keys", &text)]);
    let (endpoint, file) = (s3.endpoint(), keys.arg("keys"));
    let mut settings = vec![
        ("registry.s3.bucket", S3::BUCKET),
        ("registry.s3.prefix", "here/"),
        ("registry.s3.endpoint", endpoint.as_str()),
        ("registry.s3.credentials", file.as_str()),
        ("prewarm.images", ""),
    ];
    settings.extend(more);
    (Service::start(state, &settings), keys)
}

fn import(world: &World, service: &Service) {
    let layout = world.busybox_layout().display().to_string();
    service
        .image(&["import", &layout, "--as", World::BUSYBOX])
        .ok();
}

/// Files below a folder.
fn files(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.path() {
            path if path.is_dir() => files(&path),
            _ => 1,
        })
        .sum()
}

fn all_in_the_bucket(world: &World) {
    let s3 = S3::start(&world.folder("s3"));
    let (mut service, keys) = start(world, "bucket", &s3);
    import(world, &service);
    let first = "echo one > /one; touch -d @1577836800 /one";
    let second = format!("echo {} > /two; touch -d @1577836800 /two", unique());
    let project = busybox(&[first, &second]);
    let file = project.arg("image.toml");
    let words = ["build", &file, "--name", "web/app:v1", "--json"];
    let built = service.image(&words).ok().result();
    assert_eq!(built["status"], "built", "{built:#}");
    let (hash, digest) = (
        built["image_hash"].as_str().unwrap(),
        built["digest"].as_str().unwrap(),
    );
    assert_eq!(service.build(&file)["status"], "reused");
    assert_eq!(
        files(&service.state().join("registry")),
        0,
        "no record lies here"
    );
    let tag = hash.trim_start_matches("sha256:");
    let tag = format!("here/repositories/chalk/images/_tags/{tag}");
    assert_eq!(s3.curl(&[], &tag).ok().stdout, digest);
    let hex = digest.trim_start_matches("sha256:");
    let manifest = s3
        .curl(&[], &format!("here/blobs/sha256/{hex}"))
        .ok()
        .stdout;
    assert_eq!(Digest::of(manifest.as_bytes()).to_string(), digest);

    // A blob of several parts, by another client.
    let registry = RegistryHttp::of(&service);
    let big = noise(&unique(), 20 << 20);
    registry.push_blob("big", &big);
    let big_digest = Digest::of(&big);
    let object = s3.curl(
        &["--head"],
        &format!("here/blobs/sha256/{}", big_digest.hex()),
    );
    let object = object.ok().stdout.to_lowercase();
    assert!(
        object.contains(&format!("content-length: {}", big.len())),
        "{object}"
    );

    // All that a service has is lost, but the bucket.
    service.stop();
    let (other, _keys) = start(world, "bucket-again", &s3);
    let listed = other.image(&["ls", "--json"]).ok().stdout;
    assert!(
        listed.contains(hash) && listed.contains("web/app:v1"),
        "{listed}"
    );
    assert_eq!(other.build(&file)["status"], "reused");
    let verified = other.image(&["verify", "web/app:v1", "--json", "--progress", "quiet"]);
    assert_eq!(verified.ok().json()["identical"], true);
    let target = format!("oci:{}", world.folder("copied").join("app").display());
    let source = format!("docker://{}/web/app:v1", other.address());
    run(other.skopeo("copy").args([&source, &target])).ok();
    let registry = RegistryHttp::of(&other);
    let path = format!("/v2/big/blobs/{big_digest}");
    // While it is fetched, and once it is there.
    for _ in 0..2 {
        let got = registry.get(&path).is(200);
        assert_eq!(Digest::of(&got.body), big_digest);
    }
    let part = registry
        .ask("GET", &path, &[("range", "bytes=9000000-9000009")], "")
        .is(206);
    assert_eq!(part.body, big[9_000_000..9_000_010]);

    let changed = busybox(&[first, &format!("echo {} > /two", unique())]);
    let second = other.build(&changed.arg("image.toml"));
    assert_eq!(states(&second), ["cached", "ran"], "{second:#}");
    other.image(&["rm", hash]).ok();
    assert!(s3.keys(&tag).is_empty());
    for service in [&service, &other] {
        assert!(!service.log().contains(SECRET));
        let mut grep = tool(
            "grep",
            ["--recursive", "--files-with-matches", "--text", SECRET],
        );
        assert_eq!(run(grep.arg(service.state())).code(1).stdout, "");
    }
    drop(keys);
}

fn services_share(world: &World) {
    let s3 = S3::start(&world.folder("s3"));
    let (one, _keys) = start(world, "one", &s3);
    let (two, _keys_two) = start(world, "two", &s3);
    import(world, &one);
    let project = busybox(&["echo one > /one", &format!("echo {} > /two", unique())]);
    let file = project.arg("image.toml");
    let built = one.build(&file);
    // The other finds it at once, and what it deletes is gone for both.
    let reused = two.build(&file);
    assert_eq!(reused["status"], "reused", "{reused:#}");
    assert_eq!(reused["digest"], built["digest"]);
    two.image(&["rm", built["image_hash"].as_str().unwrap()])
        .ok();
    let again = one.build(&file);
    assert_ne!(again["status"], "reused", "{again:#}");

    // Of several that want to be the first to set a tag, one is.
    let blob = b"{}";
    RegistryHttp::of(&one).push_blob("race", blob);
    for round in 0..4 {
        let won: usize = std::thread::scope(|scope| {
            let tries: Vec<_> = [&one, &two]
                .into_iter()
                .enumerate()
                .map(|(number, service)| {
                    scope.spawn(move || {
                        let registry = RegistryHttp::of(service);
                        let part =
                            json!({"mediaType": "x/y", "digest": Digest::of(blob), "size": 2});
                        let manifest = json!({
                            "schemaVersion": 2, "mediaType": MANIFEST, "config": part,
                            "layers": [], "annotations": {"by": number.to_string()},
                        });
                        let path = format!("/v2/race/manifests/r{round}");
                        let headers = [("content-type", MANIFEST), ("if-none-match", "*")];
                        registry
                            .ask("PUT", &path, &headers, manifest.to_string())
                            .status
                    })
                })
                .collect();
            let statuses: Vec<u16> = tries.into_iter().map(|t| t.join().unwrap()).collect();
            assert!(
                statuses.iter().all(|s| matches!(s, 201 | 412)),
                "{statuses:?}"
            );
            statuses.iter().filter(|status| **status == 201).count()
        });
        assert_eq!(won, 1);
    }
}

fn cut_off(world: &World) {
    let s3 = S3::start(&world.folder("s3"));
    let (service, _keys) = start(world, "cut-off", &s3);
    import(world, &service);
    let mut build = Held::start(world, &service, "cut-off-talk");
    // It is stored while the second runs.
    wait_until("the first step in the bucket", || {
        let tags = s3.keys("here/repositories/chalk/steps/_tags/");
        !tags.is_empty()
    });
    let before = s3.keys("here/repositories/");
    s3.connect(false);
    let told = build.unreachable();
    assert!(
        told.contains(&format!("s3://{}/here", S3::BUCKET)),
        "{told}"
    );
    assert!(told.contains("registry.s3"), "{told}");
    assert_eq!(
        s3.keys("here/repositories/"),
        before,
        "nothing became visible"
    );
    let registry = RegistryHttp::of(&service);
    let refused = registry.get("/v2/chalk/images/tags/list").is(503);
    assert!(!refused.header("retry-after").is_empty(), "{refused:?}");

    s3.connect(true);
    registry.get("/v2/chalk/steps/tags/list").is(200);
    let built = service.build(&build.freed().arg("image.toml"));
    assert_eq!(states(&built), ["cached", "ran"], "{built:#}");
}

fn damaged(world: &World) {
    let s3 = S3::start(&world.folder("s3"));
    let (mut service, _keys) = start(world, "damaged", &s3);
    let registry = RegistryHttp::of(&service);
    let big = noise(&unique(), 9 << 20);
    let digest = Digest::of(&big);
    registry.push_blob("app", &big);
    let key = format!("here/blobs/sha256/{}", digest.hex());
    let bad = Project::new(&[]);
    let mut bytes = big.clone();
    bytes[5 << 20] ^= 1;
    bad.write("bad", &bytes);
    s3.curl(&["--upload-file", &bad.arg("bad")], &key).ok();
    service.stop();

    // A service that must fetch it finds it damaged, and does not pass it on.
    let (other, _keys) = start(world, "damaged-again", &s3);
    let registry = RegistryHttp::of(&other);
    let path = format!("/v2/app/blobs/{digest}");
    let ask = || registry.try_ask("GET", &path, &[], "");
    let broken = ask();
    assert!(
        broken.is_err(),
        "the answer breaks off: {:?}",
        broken.map(|got| got.status)
    );
    // Until it was looked at again, other answers break off, too.
    wait_until("it counts as absent", || {
        ask().is_ok_and(|got| got.status == 404)
    });
    // Pushed anew it is there again, for everybody.
    registry.push_blob("app", &big);
    assert_eq!(Digest::of(&registry.get(&path).is(200).body), digest);
    let stored = world.folder("stored").join("blob");
    s3.curl(&["--output", &stored.display().to_string()], &key)
        .ok();
    assert_eq!(Digest::of(&fs::read(&stored).unwrap()), digest);

    // What somebody removed from the bucket is not there, whatever copy lies here.
    s3.curl(&["--request", "DELETE"], &key).ok();
    registry.get(&path).is(404);
}

/// What is on the disk says when it was used; what the bucket has is as old as it is.
fn collected(world: &World) {
    let s3 = S3::start(&world.folder("s3"));
    let policy = [("gc.interval", ""), ("gc.grace", "1h")];
    let (mut service, _keys) = start_with(world, "collected", &s3, &policy);
    import(world, &service);
    let first = "echo one > /one; touch -d @1577836800 /one";
    let second = format!("echo {} > /two; touch -d @1577836800 /two", unique());
    let project = busybox(&[first, &second]);
    let file = project.arg("image.toml");
    let words = ["build", &file, "--name", "web/app:v1", "--json"];
    let built = service.image(&words).ok().result();
    let hash = built["image_hash"].as_str().unwrap();
    let registry = RegistryHttp::of(&service);
    let left = unique();
    registry.push_blob("left", left.as_bytes());
    let blob = |digest: &str| format!("here/blobs/sha256/{}", &digest["sha256:".len()..]);
    let left = blob(&Digest::of(left.as_bytes()).to_string());

    // Within the grace nothing goes, not even what nothing names.
    let contents = || -> Vec<String> {
        let keys = s3.keys("here/").into_iter();
        keys.filter(|key| !key.starts_with("here/services/"))
            .collect()
    };
    let before = contents();
    assert!(before.contains(&left));
    let report = gc(&service, &[]);
    assert_eq!(freed(&report), BTreeMap::new(), "{report:#}");
    assert_eq!(contents(), before);

    // After it, what nothing names goes, and copies here.
    service.stop();
    let policy = [
        ("gc.interval", ""),
        ("gc.grace", "0s"),
        ("gc.untagged_age", "0s"),
    ];
    let (service, _keys) = start_in(service.state(), &s3, &policy);
    let dry = gc(&service, &["--dry-run"]);
    assert_eq!(contents(), before, "a dry run removes nothing");
    let done = gc(&service, &[]);
    let name = left.replace("here/blobs/sha256/", "blobs sha256:");
    assert!(freed(&dry).contains_key(&name), "{dry:#}");
    assert!(freed(&done).contains_key(&name), "{done:#}");
    let gone: Vec<String> = {
        let after = contents();
        before
            .iter()
            .filter(|key| !after.contains(key))
            .cloned()
            .collect()
    };
    let link = left.replace("blobs/", "repositories/left/_layers/");
    assert_eq!(gone, [left, link]);
    let copies = files(&service.state().join("store/blobs/sha256"));
    assert_eq!(copies, 0, "copies stay for the grace");
    // Everything else is whole, for a service that has nothing else.
    let verified = service.image(&["verify", "web/app:v1", "--json", "--progress", "quiet"]);
    assert_eq!(verified.ok().json()["identical"], true);
    let target = format!(
        "oci:{}",
        world.folder("collected-copy").join("app").display()
    );
    let source = format!("docker://{}/web/app:v1", service.address());
    run(service.skopeo("copy").args([&source, &target])).ok();

    // With an image go its bytes, but those that cached steps share.
    service.image(&["rm", hash]).ok();
    gc(&service, &[]);
    let manifest = blob(built["digest"].as_str().unwrap());
    assert!(s3.keys(&manifest).is_empty());
    let again = service.build(&file);
    assert_eq!(states(&again), ["cached", "cached"], "{again:#}");

    // What another service last used is known to that one alone.
    let (other, _other_keys) = start_with(world, "collected-too", &s3, &policy);
    assert_eq!(other.build(&file)["status"], "reused");
    let before = contents();
    for words in [&["gc"][..], &["gc", "--dry-run"]] {
        let refused = service.chalk().args(words).run();
        assert!(!refused.status.success(), "{refused}");
        refused.says(&[S3::BUCKET, "minutes ago", "gc.grace"]);
    }
    assert_eq!(contents(), before);
}

/// A service that comes while another collects uses nothing before that has ended.
fn comes_while_another_collects(world: &World) {
    let s3 = S3::start(&world.folder("s3"));
    let words = ["--request", "PUT", "--data", "another collects"];
    s3.curl(&words, "here/collection").ok();
    std::thread::scope(|scope| {
        let started = scope.spawn(|| start(world, "comes", &s3));
        wait_until("it tells that it is there", || {
            !s3.keys("here/services/").is_empty()
        });
        assert!(!started.is_finished());
        s3.curl(&["--request", "DELETE"], "here/collection").ok();
        let (service, _keys) = started.join().unwrap();
        let registry = RegistryHttp::of(&service);
        registry.get("/v2/any/tags/list").is(404);
    });
}
