use std::sync::atomic::{AtomicBool, Ordering};

use chalk_core::wire::BuildStatus;

use super::*;
use crate::builds::record::tests::build;
use crate::ledger::tests::failing;

fn known(text: &str) -> Known {
    Known {
        digest: Digest::of(text.as_bytes()),
        platform: Platform::default(),
        size: 1,
        layers: 2,
        created: "2026-01-01T00:00:00Z".into(),
    }
}

#[test]
fn everything_is_there_again_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("chalk.redb");
    let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
    {
        let (index, found) = Index::open(&path).unwrap();
        assert_eq!(found, Found::Missing);
        index.put_image(&a, &known("a")).unwrap();
        index.put_image(&b, &known("b")).unwrap();
        index.put_name("app:v1", Some(&a)).unwrap();
        index.put_name("app:v2", Some(&a)).unwrap();
        index.put_name("app:v2", Some(&b)).unwrap();
        index.put_name("gone:x", Some(&b)).unwrap();
        index.put_name("gone:x", None).unwrap();
        for id in ["1", "3", "2"] {
            index.put_build(&build(id)).unwrap();
        }
        let done = Build {
            status: BuildStatus::Built,
            ..build("3")
        };
        index.put_build(&done).unwrap();
    }
    let (index, found) = Index::open(&path).unwrap();
    assert_eq!(found, Found::Whole);
    assert_eq!(index.image(&a), Some(known("a")));
    assert_eq!(index.names_of(&a), ["app:v1"]);
    assert_eq!(index.named("app:v2"), Some(b));
    assert_eq!(index.named("gone:x"), None);
    let ids = |builds: Vec<Build>| builds.into_iter().map(|b| b.id).collect::<Vec<_>>();
    assert_eq!(ids(index.builds(2, None, Some).unwrap()), ["3", "2"]);
    let queued = |b: Build| (b.status == BuildStatus::Queued).then_some(b);
    assert_eq!(ids(index.builds(9, None, queued).unwrap()), ["2", "1"]);
    index.remove_builds(&["1".into()]).unwrap();
    assert_eq!(index.build_ids().unwrap(), ["2", "3"]);
    // A name that goes to another image is that one's only.
    index.put_name("app:v1", Some(&b)).unwrap();
    assert!(index.names_of(&a).is_empty());
    assert_eq!(index.names_of(&b), ["app:v1", "app:v2"]);
    index.put_name("app:v1", Some(&a)).unwrap();
    index.remove_image(&b).unwrap();
    assert_eq!((index.named("app:v2"), index.images().len()), (None, 1));
    assert_eq!(index.names_of(&a), ["app:v1"]);
    assert!(index.names_of(&b).is_empty());
}

#[test]
fn a_damaged_file_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("chalk.redb");
    let check = |damage: &dyn Fn(&mut Vec<u8>)| {
        let _ = std::fs::remove_file(&path);
        let (index, _) = Index::open(&path).unwrap();
        index.put_image(&Digest::of(b"a"), &known("a")).unwrap();
        drop(index);
        let mut bytes = std::fs::read(&path).unwrap();
        damage(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        let (index, found) = Index::open(&path).unwrap();
        assert_eq!(found, Found::Damaged);
        assert!(index.images().is_empty());
        index.put_image(&Digest::of(b"b"), &known("b")).unwrap();
        assert!(path.with_extension("redb.damaged").exists());
    };
    check(&|bytes| bytes.clear());
    check(&|bytes| bytes.truncate(100));
    check(&|bytes| bytes.fill(0x5a));
    check(&|bytes| {
        let half = bytes.len() / 2;
        bytes.truncate(half);
    });
}

#[test]
fn prefixes() {
    let dir = tempfile::tempdir().unwrap();
    let (index, _) = Index::open(&dir.path().join("chalk.redb")).unwrap();
    let hash = |hex: &str| format!("sha256:{hex:0<64}").parse::<Digest>().unwrap();
    for hex in ["aaaa0000aa", "aaaa0000bb", "cc"] {
        index.put_image(&hash(hex), &known(hex)).unwrap();
    }
    let check = |prefix: &str, expect: &[Digest]| {
        assert_eq!(index.with_prefix(prefix, |_| true), expect, "{prefix}");
    };
    check("aaaa0000", &[hash("aaaa0000aa"), hash("aaaa0000bb")]);
    check("aaaa0000b", &[hash("aaaa0000bb")]);
    check("cc000000", &[hash("cc")]);
    check("dddddddd", &[]);
    check("zz", &[]);
    check(&"a".repeat(65), &[]);
}

#[test]
fn a_disk_that_failed_for_a_while_is_used_again() {
    static FAILS: AtomicBool = AtomicBool::new(false);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("chalk.redb");
    let (index, _) = Index::open_by(&path, |path| failing(path, &FAILS)).unwrap();
    let [first, second, third] = ["1", "2", "3"].map(|n| Digest::of(n.as_bytes()));
    index.put_image(&first, &known("first")).unwrap();
    FAILS.store(true, Ordering::Relaxed);
    assert!(index.put_image(&second, &known("second")).is_err());
    assert_eq!(index.image(&second), None);
    FAILS.store(false, Ordering::Relaxed);
    index.put_image(&third, &known("third")).unwrap();
    assert!(index.build_ids().unwrap().is_empty());
    drop(index);
    let (index, found) = Index::open(&path).unwrap();
    assert_eq!(found, Found::Whole);
    assert_eq!(index.image(&first), Some(known("first")));
    assert_eq!(index.image(&third), Some(known("third")));
}
