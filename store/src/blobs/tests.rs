use super::*;

fn store() -> (tempfile::TempDir, BlobStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = BlobStore::open(dir.path().join("store")).unwrap();
    (dir, store)
}

fn temp_files(store: &BlobStore) -> usize {
    fs::read_dir(store.temp_dir()).unwrap().count()
}

#[test]
fn writes_verify_and_dedupe() {
    let (_dir, store) = store();
    for bytes in [&b""[..], b"hello", &[7; 300_000]] {
        let digest = Digest::of(bytes);
        let size = bytes.len() as u64;
        assert!(!store.contains(digest).unwrap());
        for _ in 0..2 {
            let blob = store.put_reader(bytes, Some(digest)).unwrap();
            assert_eq!(blob, Blob { digest, size });
        }
        assert_eq!(store.read_small(digest, size).unwrap(), bytes);
        assert_eq!(store.put(bytes).unwrap(), Blob { digest, size });
    }
    assert_eq!(store.list().unwrap().count(), 3);
    assert_eq!(temp_files(&store), 0);
}

#[test]
fn wrong_bytes_get_no_name() {
    let (_dir, store) = store();
    let expected = Digest::of(b"right");
    let error = store.put_reader(&b"wrong"[..], Some(expected)).unwrap_err();
    assert!(matches!(error, BlobError::Mismatch { size: 5, .. }));
    assert!(!store.contains(expected).unwrap());
    assert!(!store.contains(Digest::of(b"wrong")).unwrap());
    drop(store.writer().unwrap());
    assert_eq!(temp_files(&store), 0);
}

#[test]
fn what_rotted_is_mended_by_whoever_brings_it_again() {
    let (_dir, store) = store();
    let digest = Digest::of(b"hello");
    let by_put = |store: &BlobStore| store.put(b"hello").unwrap();
    let by_reader = |store: &BlobStore| {
        let expected = Some(Digest::of(b"hello"));
        store.put_reader(&b"hello"[..], expected).unwrap()
    };
    for bring in [by_put as fn(&BlobStore) -> Blob, by_reader] {
        store.put(b"hello").unwrap();
        // Rot leaves the length as it was, and nobody has read it yet.
        fs::write(store.path(&digest), b"hellO").unwrap();
        bring(&store);
        assert_eq!(store.read_small(digest, 10).unwrap(), b"hello");
        assert_eq!(temp_files(&store), 0);
    }
}

#[test]
fn damage_is_found_and_set_aside() {
    let (_dir, store) = store();
    for damage in [&b"hellO"[..], b"hell", b"hello!", b""] {
        let blob = store.put(b"hello").unwrap();
        fs::write(store.path(&blob.digest), damage).unwrap();
        let error = store.read_small(blob.digest, 100).unwrap_err();
        assert!(matches!(error, BlobError::Mismatch { expected, .. } if expected == blob.digest));
        assert!(!store.contains(blob.digest).unwrap());
        assert!(matches!(
            store.read_small(blob.digest, 100),
            Err(BlobError::NotFound(_))
        ));
    }
    let blob = store.put(b"hello").unwrap();
    assert_eq!(store.read_small(blob.digest, 100).unwrap(), b"hello");
}

#[test]
fn size_limit_holds_and_removal_says_whether() {
    let (_dir, store) = store();
    let blob = store.put(b"hello").unwrap();
    assert!(matches!(
        store.read_small(blob.digest, 4),
        Err(BlobError::TooLarge {
            size: 5,
            limit: 4,
            ..
        })
    ));
    assert!(store.remove(&blob.digest).unwrap());
    assert!(!store.remove(&blob.digest).unwrap());
}

#[test]
fn opening_sweeps_only_dead_writers() {
    let (_dir, store) = store();
    fs::write(store.temp_dir().join("blob-dead"), b"half").unwrap();
    let mut alive = store.writer().unwrap();
    alive.write_all(b"alive").unwrap();
    BlobStore::open(store.root()).unwrap();
    assert_eq!(temp_files(&store), 1);
    let blob = alive.commit(None).unwrap();
    assert_eq!(store.read_small(blob.digest, 9).unwrap(), b"alive");
}

#[tokio::test]
async fn runs_on_blocking_threads() {
    let (_dir, store) = store();
    let blob = store.run(|s| s.put(b"x")).await.unwrap();
    assert_eq!(blob.size, 1);
}

/// Few blobs are synced one by one, many together.
#[test]
fn batches_are_whole_or_nothing() {
    for count in [0, 3, 50] {
        let (_dir, store) = store();
        let texts: Vec<String> = (0..count).map(|n| format!("blob {n}")).collect();
        let mut batch = store.batch().unwrap();
        // What is there, what rotted, and what comes twice.
        store.put(b"there").unwrap();
        store.put(b"rots").unwrap();
        fs::write(store.path(&Digest::of(b"rots")), b"rotS").unwrap();
        for bytes in [&b"there"[..], b"rots", b"", b""] {
            batch.add(Digest::of(bytes), bytes).unwrap();
        }
        for text in &texts {
            batch
                .add(Digest::of(text.as_bytes()), text.as_bytes())
                .unwrap();
        }
        let error = batch.add(Digest::of(b"right"), b"wrong").unwrap_err();
        assert!(matches!(error, BlobError::Mismatch { size: 5, .. }));
        for text in &texts {
            assert!(!store.contains(Digest::of(text.as_bytes())).unwrap());
        }
        batch.commit().unwrap();
        for bytes in texts
            .iter()
            .map(String::as_bytes)
            .chain([&b"rots"[..], b""])
        {
            assert_eq!(store.read_small(Digest::of(bytes), 9).unwrap(), bytes);
        }
        assert_eq!(store.list().unwrap().count(), texts.len() + 3);
        assert_eq!(temp_files(&store), 0);

        let mut given_up = store.batch().unwrap();
        given_up.add(Digest::of(b"gone"), b"gone").unwrap();
        assert_eq!(temp_files(&store), 1);
        drop(given_up);
        assert!(!store.contains(Digest::of(b"gone")).unwrap());
        assert_eq!(temp_files(&store), 0);
    }
}

#[test]
fn opening_sweeps_only_dead_batches() {
    let (_dir, store) = store();
    let dead = store.temp_dir().join("blob-dead");
    fs::create_dir(&dead).unwrap();
    fs::write(dead.join("half"), b"half").unwrap();
    let mut alive = store.batch().unwrap();
    alive.add(Digest::of(b"alive"), b"alive").unwrap();
    BlobStore::open(store.root()).unwrap();
    assert_eq!(temp_files(&store), 1);
    alive.commit().unwrap();
    assert!(store.contains(Digest::of(b"alive")).unwrap());
}

#[test]
fn only_what_nobody_uses_is_collected() {
    let (_dir, store) = store();
    let old = SystemTime::now() - Duration::from_secs(7200);
    let blobs: Vec<Blob> = [b"a", b"b", b"c", b"d"]
        .iter()
        .map(|bytes| {
            let blob = store.put(*bytes).unwrap();
            let file = File::open(store.path(&blob.digest)).unwrap();
            file.set_modified(old).unwrap();
            blob
        })
        .collect();
    // As after a restart: what is known is on the disk.
    let store = BlobStore::open(store.root()).unwrap();
    let horizon = store.horizon(Duration::from_secs(3600), None);
    assert!(store.contains(blobs[0].digest).unwrap());
    store.open_verified(blobs[1].digest).unwrap();
    store.put(b"c").unwrap();
    store.inspect(&blobs[3].digest, 10).unwrap();
    let collect = |store: &BlobStore| {
        let all = blobs.iter().map(|blob| &blob.digest);
        all.map(|digest| store.remove_unused(digest, &horizon).unwrap())
            .collect::<Vec<_>>()
    };
    let expect = [Unused::Used, Unused::Used, Unused::Used, Unused::Removed(1)];
    assert_eq!(collect(&store), expect);
    // The uses are on the disk, too.
    let store = BlobStore::open(store.root()).unwrap();
    let expect = [Unused::Used, Unused::Used, Unused::Used, Unused::Absent];
    assert_eq!(collect(&store), expect);
}

#[test]
fn nobody_is_told_of_a_blob_that_then_goes() {
    let (_dir, store) = store();
    let digest = store.put(b"wanted").unwrap().digest;
    for round in 0..200 {
        let horizon = store.horizon(Duration::ZERO, None);
        std::thread::scope(|scope| {
            let told = scope.spawn(|| store.contains(digest).unwrap());
            let collected = scope.spawn(|| store.remove_unused(&digest, &horizon).unwrap());
            let (told, collected) = (told.join().unwrap(), collected.join().unwrap());
            let there = store.path(&digest).exists();
            assert_eq!(there, told, "round {round}: {collected:?}");
        });
        store.put(b"wanted").unwrap();
    }
}
