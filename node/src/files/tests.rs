#![allow(clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, VecDeque};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// A service with these blobs.
#[derive(Default)]
struct Service {
    blobs: Mutex<BTreeMap<[u8; 32], Vec<u8>>>,
    fetched: AtomicUsize,
    faults: Mutex<VecDeque<Fault>>,
}

/// What happens to one fetch.
#[derive(Clone, Copy)]
enum Fault {
    /// This status.
    Status(u16),
    /// No answer.
    Deaf,
    /// Nothing more comes after the first bytes.
    Stall,
    /// The connection breaks after the first bytes.
    Cut,
}

impl Service {
    fn put(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        self.lie(digest, bytes);
        digest
    }

    fn lie(&self, digest: Digest, bytes: &[u8]) {
        let mut blobs = self.blobs.lock().expect("no panic");
        blobs.insert(*digest.as_bytes(), bytes.to_vec());
    }
}

#[async_trait]
impl BlobSource for Service {
    async fn fetch(&self, digest: Digest) -> Result<BlobStream, Problem> {
        self.fetched.fetch_add(1, Ordering::Relaxed);
        let found = self
            .blobs
            .lock()
            .expect("no panic")
            .get(digest.as_bytes())
            .cloned();
        let bytes = found.ok_or_else(|| refusal(404))?;
        let mut parts: Vec<io::Result<Bytes>> = bytes
            .chunks(3)
            .map(|part| Ok(Bytes::copy_from_slice(part)))
            .collect();
        let fault = self.faults.lock().expect("no panic").pop_front();
        match fault {
            None => {}
            Some(Fault::Status(status)) => return Err(refusal(status)),
            Some(Fault::Deaf) => std::future::pending().await,
            Some(Fault::Stall) => {
                let first = futures_util::stream::iter(parts.into_iter().take(1));
                return Ok(Box::pin(first.chain(futures_util::stream::pending())));
            }
            Some(Fault::Cut) => {
                parts.truncate(1);
                parts.push(Err(io::Error::other("cut")));
            }
        }
        Ok(Box::pin(futures_util::stream::iter(parts)))
    }
}

fn refusal(status: u16) -> Problem {
    let kind = match status {
        404 => problem::NOT_FOUND,
        _ => problem::UNAVAILABLE,
    };
    Problem {
        kind: kind.to_owned(),
        title: "no blob".to_owned(),
        status,
        detail: String::new(),
        hint: String::new(),
    }
}

fn open(budget: u64) -> (tempfile::TempDir, Arc<Service>, Files) {
    let directory = tempfile::tempdir().expect("temporary directory");
    let service = Arc::new(Service::default());
    let source: Arc<dyn BlobSource> = service.clone();
    let files = Files::open(&directory.path().join("files"), budget, source).expect("opened");
    (directory, service, files)
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("there").permissions().mode() & 0o7777
}

#[tokio::test]
async fn files_come_once_and_are_checked() {
    let (directory, service, files) = open(1 << 20);
    let digest = service.put(b"hello");
    let plain = files.file(digest, false).await.expect("fetched");
    let again = files.file(digest, false).await.expect("there");
    let program = files.file(digest, true).await.expect("fetched");
    assert_eq!(std::fs::read(plain.path()).expect("readable"), b"hello");
    assert_eq!(plain.path(), again.path());
    assert_eq!((mode(plain.path()), mode(program.path())), (0o644, 0o755));
    assert_eq!(service.fetched.load(Ordering::Relaxed), 2);
    assert_eq!(files.usage(), 10);

    let lie = Digest::of(b"truth");
    service.lie(lie, b"lie");
    let problem = files.file(lie, false).await.expect_err("other contents");
    assert_eq!(problem.kind, problem::DIGEST_MISMATCH);
    let missing = files.file(Digest::of(b"nothing"), false).await;
    assert_eq!(missing.expect_err("not there").kind, problem::NOT_FOUND);
    let names = std::fs::read_dir(directory.path().join("files/blobs")).expect("readable");
    assert_eq!(names.count(), 2);
    let new = std::fs::read_dir(directory.path().join("files/new")).expect("readable");
    assert_eq!(new.count(), 0);
}

#[tokio::test]
async fn trees_keep_modes_and_links() {
    let (_directory, service, files) = open(1 << 20);
    let (a, b) = (service.put(b"#!/bin/sh\n"), service.put(b"data"));
    let json = format!(
        r#"[{{"path":"bin","type":"dir"}},
        {{"digest":"{a}","mode":"0755","path":"bin/run","type":"file"}},
        {{"path":"empty","type":"dir"}},
        {{"path":"link","target":"../../etc/passwd","type":"symlink"}},
        {{"digest":"{b}","mode":"0644","path":"x","type":"file"}}]"#
    );
    let tree = files
        .tree(service.put(json.as_bytes()))
        .await
        .expect("made");
    let at = |name: &str| tree.path().join(name);
    assert_eq!((mode(&at("bin/run")), mode(&at("x"))), (0o755, 0o644));
    assert_eq!((mode(&at("empty")), mode(tree.path())), (0o755, 0o755));
    assert_eq!(std::fs::read(at("x")).expect("readable"), b"data");
    let link = std::fs::read_link(at("link")).expect("a link");
    assert_eq!(link, Path::new("../../etc/passwd"));
    // The list itself is not kept, and contents are there once.
    assert_eq!(files.usage(), 14);
    let fetched = service.fetched.load(Ordering::Relaxed);
    let digest = Digest::of(json.as_bytes());
    let again = files.tree(digest).await.expect("there");
    assert_eq!(again.path(), tree.path());
    assert_eq!(service.fetched.load(Ordering::Relaxed), fetched);
}

#[tokio::test]
async fn hostile_trees_are_refused() {
    let (directory, service, files) = open(1 << 20);
    let blob = service.put(b"x");
    let file = |path: &str| {
        format!(r#"{{"digest":"{blob}","mode":"0644","path":"{path}","type":"file"}}"#)
    };
    let link = r#"{"path":"a","target":"/tmp","type":"symlink"}"#;
    for json in [
        format!("[{}]", file("../out")),
        format!("[{}]", file("/etc/out")),
        format!("[{}]", file("a/../../out")),
        format!("[{link},{}]", file("a/out")),
        format!("[{},{}]", file("a"), file("a")),
        "nonsense".to_owned(),
    ] {
        let digest = service.put(json.as_bytes());
        let problem = files.tree(digest).await.expect_err(&json);
        assert_eq!(problem.kind, problem::BAD_REQUEST, "{json}");
    }
    let trees = std::fs::read_dir(directory.path().join("files/trees")).expect("readable");
    assert_eq!(trees.count(), 0);
    assert!(!directory.path().join("out").exists());
}

#[tokio::test]
async fn what_nobody_holds_goes_first_used_first() {
    let (directory, service, files) = open(100);
    let put = |byte: u8| service.put(&[byte; 40]);
    let (a, b, c) = (put(1), put(2), put(3));
    let held = files.file(a, false).await.expect("fetched");
    drop(files.file(b, false).await.expect("fetched"));
    drop(files.file(c, false).await.expect("fetched"));
    // `a` is the oldest, but held.
    assert!(held.path().exists() && files.usage() == 80);
    let there =
        |digest: Digest| table::blob_path(&directory.path().join("files"), digest, false).exists();
    assert_eq!((there(a), there(b), there(c)), (true, false, true));

    // Blobs of a tree stay as long as the tree does.
    let json = format!(r#"[{{"digest":"{c}","mode":"0644","path":"c","type":"file"}}]"#);
    let tree = files
        .tree(service.put(json.as_bytes()))
        .await
        .expect("made");
    drop(held);
    drop(files.file(b, false).await.expect("fetched"));
    assert_eq!((there(a), there(b), there(c)), (false, true, true));
    drop(tree);
    let path = directory.path().join("files/trees");
    drop(files.file(a, false).await.expect("fetched"));
    let trees = std::fs::read_dir(path).expect("readable").count();
    assert!(files.usage() <= 100, "{} {trees}", files.usage());

    // Another life finds the blobs, and makes trees anew.
    let usage = files.usage();
    drop(files);
    let files = Files::open(&directory.path().join("files"), 100, service).expect("opened");
    assert_eq!(files.usage(), usage);
}

#[tokio::test]
async fn many_who_want_the_same_fetch_it_once() {
    let (_directory, service, files) = open(1 << 20);
    let digest = service.put(&[7; 5000]);
    let all = (0..20).map(|_| files.file(digest, false));
    let held = futures_util::future::try_join_all(all)
        .await
        .expect("fetched");
    assert_eq!(held.len(), 20);
    assert_eq!(service.fetched.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn what_may_pass_is_tried_again() {
    let (directory, service, files) = open(1 << 20);
    let digest = service.put(b"at last");
    let all = [
        Fault::Status(503),
        Fault::Deaf,
        Fault::Stall,
        Fault::Cut,
        Fault::Status(429),
    ];
    service.faults.lock().expect("no panic").extend(all);
    let file = files.file(digest, false).await.expect("fetched");
    assert_eq!(std::fs::read(file.path()).expect("readable"), b"at last");
    assert_eq!(service.fetched.load(Ordering::Relaxed), all.len() + 1);

    // What does not pass is said at once, what does not in a long time is said then.
    for (fault, count, tries) in [(Fault::Status(403), 1, 1), (Fault::Cut, 50, 8)] {
        let digest = service.put(&[tries]);
        let faults = std::iter::repeat_n(fault, count);
        service.faults.lock().expect("no panic").extend(faults);
        service.fetched.store(0, Ordering::Relaxed);
        files.file(digest, false).await.expect_err("never came");
        assert_eq!(service.fetched.load(Ordering::Relaxed), usize::from(tries));
    }
    let new = std::fs::read_dir(directory.path().join("files/new")).expect("readable");
    assert_eq!(new.count(), 0);
}

/// The list of a directory of plain files.
fn json(files: &[(Digest, &str)]) -> String {
    let entry = |(digest, name): &(Digest, &str)| {
        format!(r#"{{"digest":"{digest}","mode":"0644","path":"{name}","type":"file"}}"#)
    };
    let entries: Vec<String> = files.iter().map(entry).collect();
    format!("[{}]", entries.join(","))
}

#[tokio::test]
async fn what_an_idle_directory_has_may_go() {
    let (_directory, service, files) = open(1 << 20);
    let (a, b) = (service.put(&[1; 40]), service.put(&[2; 2]));
    let first = service.put(json(&[(a, "a"), (b, "b")]).as_bytes());
    let second = service.put(json(&[(b, "b")]).as_bytes());
    let first = files.tree(first).await.expect("made");
    let second = files.tree(second).await.expect("made");
    assert_eq!((files.used(), files.held()), (42, 42));
    // Nothing of what is held goes.
    assert_eq!(files.free(42), []);
    drop(first);
    assert_eq!((files.used(), files.held()), (42, 2));
    let gone = files.free(42);
    assert_eq!(gone.iter().map(|item| item.bytes).sum::<u64>(), 40);
    assert_eq!((files.used(), files.held()), (2, 2));
    assert_eq!(
        std::fs::read(second.path().join("b")).expect("there"),
        [2; 2]
    );
    drop(second);
    assert_eq!((files.used(), files.held()), (2, 0));
    assert!(files.items().iter().all(|item| item.evictable));
    files.free(1);
    assert_eq!(files.used(), 0);
}
