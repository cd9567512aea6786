use super::commit::Diff;
use super::*;

struct Place {
    volumes: Volumes,
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let volumes = Self::load(&dir);
        Self { volumes, dir }
    }

    fn load(dir: &tempfile::TempDir) -> Volumes {
        let ledger = Arc::new(Ledger::open(&dir.path().join("ledger")).unwrap());
        let blobs = BlobStore::open(dir.path().join("store")).unwrap();
        Volumes::load(ledger, blobs, dir.path().join("objects")).unwrap()
    }

    /// The same after a restart.
    fn again(self) -> Self {
        let Self { volumes, dir } = self;
        drop(volumes);
        let volumes = Self::load(&dir);
        Self { volumes, dir }
    }

    fn get(&self, name: &str) -> Result<Arc<Volume>> {
        self.volumes.get(&named(name))
    }

    async fn put(&self, volume: &Arc<Volume>, commit: Commit) -> Result<VersionRecord> {
        match self.volumes.commit(volume, commit).await? {
            Committed::Version(version) => Ok(version),
            Committed::Rebase(_) => panic!("rebase"),
        }
    }
}

fn named(name: &str) -> VolumeName {
    VolumeName {
        name: name.to_owned(),
        ..VolumeName::default()
    }
}

/// A commit of files with these contents.
fn commit(id: &str, files: &[(&str, &str)]) -> Commit {
    let change = |(path, data): &(&str, &str)| Change {
        path: (*path).to_owned(),
        mode: WriteMode::Upsert,
        node: CommitNode::File(Contents::Inline {
            data: data.as_bytes().to_vec().into(),
            hash: None,
        }),
        metadata: Metadata::default(),
    };
    Commit {
        id: id.to_owned(),
        on: String::new(),
        base: None,
        author: String::new(),
        removes: Vec::new(),
        changes: files.iter().map(change).collect(),
    }
}

async fn paths(volumes: &Volumes, version: &VersionRecord) -> Vec<String> {
    let listing = volumes.listing(version).await.unwrap();
    listing.iter().map(|(path, _)| path.to_owned()).collect()
}

#[tokio::test]
async fn versions_stay_and_refs_move() {
    let place = Place::new();
    let volume = place
        .volumes
        .create(&default_project(), "v", VolumeKind::Plain)
        .await
        .unwrap();
    assert_eq!(
        place
            .volumes
            .version(&volume, &Selector::Default)
            .await
            .unwrap(),
        None
    );
    let first = place
        .put(&volume, commit("c1", &[("a", "1")]))
        .await
        .unwrap();
    let second = place
        .put(&volume, commit("c2", &[("d/b", "2")]))
        .await
        .unwrap();
    assert_eq!((first.number, first.parent), (1, None));
    assert_eq!(
        (second.number, second.parent, second.sequence),
        (2, Some(1), 2)
    );
    assert_eq!(second.stats.files, 2);

    let fork = place.volumes.create_ref(&volume, "fork", 1).await.unwrap();
    assert_eq!(fork.version, 1);
    let on = |mut commit: Commit| {
        commit.on = "fork".into();
        commit
    };
    let third = place
        .put(&volume, on(commit("c3", &[("f", "3")])))
        .await
        .unwrap();
    assert_eq!(
        (third.number, third.parent, third.sequence),
        (3, Some(1), 2)
    );

    let place = place.again();
    let volume = place.get("v").unwrap();
    let head = place
        .volumes
        .version(&volume, &Selector::Default)
        .await
        .unwrap();
    assert_eq!(head.unwrap(), second);
    assert_eq!(paths(&place.volumes, &first).await, ["a"]);
    assert_eq!(paths(&place.volumes, &second).await, ["a", "d/b"]);
    assert_eq!(paths(&place.volumes, &third).await, ["a", "f"]);

    let lineage = async |selector: Selector, after, limit| {
        let page = place
            .volumes
            .versions(&volume, &selector, after, limit)
            .await
            .unwrap();
        let numbers: Vec<u64> = page.items.iter().map(|found| found.number).collect();
        (numbers, page.next)
    };
    assert_eq!(lineage(Selector::Default, 0, 10).await, (vec![1, 2], None));
    let fork = || Selector::Ref("fork".into());
    assert_eq!(lineage(fork(), 0, 10).await, (vec![1, 3], None));
    assert_eq!(lineage(fork(), 0, 1).await, (vec![1], Some("1".into())));
    assert_eq!(lineage(fork(), 1, 1).await, (vec![3], None));

    place.volumes.delete_ref(&volume, "fork").await.unwrap();
    let gone = place.volumes.version(&volume, &fork()).await;
    assert!(matches!(gone, Err(VolumeError::NoRef { .. })));
    let pinned = place.volumes.version(&volume, &Selector::Version(3)).await;
    assert_eq!(pinned.unwrap(), Some(third.clone()));
    // Numbers are never given twice, also after the ref with the highest one is gone.
    let fourth = place.put(&volume, commit("c4", &[])).await.unwrap();
    assert_eq!((fourth.number, fourth.parent), (4, Some(2)));
}

#[tokio::test]
async fn a_commit_makes_one_version_however_often_it_comes() {
    let place = Place::new();
    let volume = place
        .volumes
        .create(&default_project(), "v", VolumeKind::Plain)
        .await
        .unwrap();
    let first = place
        .put(&volume, commit("c", &[("a", "1")]))
        .await
        .unwrap();
    let place = place.again();
    let volume = place.get("v").unwrap();
    let again = place
        .put(&volume, commit("c", &[("a", "other")]))
        .await
        .unwrap();
    assert_eq!(again, first);
    let volumes = Arc::new(place.volumes);
    let racers = (0..8).map(|_| {
        let (volumes, volume) = (volumes.clone(), volume.clone());
        tokio::spawn(async move { volumes.commit(&volume, commit("d", &[("b", "2")])).await })
    });
    let mut made = Vec::new();
    for racer in racers.collect::<Vec<_>>() {
        made.push(racer.await.unwrap().unwrap());
    }
    assert!(made.iter().all(|one| *one == made[0]), "{made:?}");
    assert_eq!(volume.record().versions, 2);
    // The same identifier in another volume is another commit.
    let other = volumes
        .create(&default_project(), "w", VolumeKind::Plain)
        .await
        .unwrap();
    assert_eq!(volumes.commit_of(&other, "c").await.unwrap(), None);
}

#[tokio::test]
async fn a_stale_base_asks_for_a_rebase_and_changes_nothing() {
    let place = Place::new();
    let volume = place
        .volumes
        .create(&default_project(), "v", VolumeKind::Plain)
        .await
        .unwrap();
    let based = |id: &str, base| Commit {
        base: Some(base),
        ..commit(id, &[("a", id)])
    };
    let none = place.volumes.commit(&volume, based("c0", 1)).await.unwrap();
    assert_eq!(none, Committed::Rebase(None));
    let first = place
        .put(&volume, commit("c1", &[("a", "1")]))
        .await
        .unwrap();
    let second = place.put(&volume, based("c2", first.number)).await.unwrap();
    let stale = place
        .volumes
        .commit(&volume, based("c3", first.number))
        .await
        .unwrap();
    assert_eq!(stale, Committed::Rebase(Some(second.clone())));
    assert_eq!(place.volumes.commit_of(&volume, "c3").await.unwrap(), None);
    // The same commit may come again with the right base.
    let third = place
        .put(&volume, based("c3", second.number))
        .await
        .unwrap();
    assert_eq!(third.parent, Some(2));
}

#[tokio::test]
async fn what_is_refused_leaves_nothing() {
    let place = Place::new();
    let volume = place
        .volumes
        .create(&default_project(), "v", VolumeKind::Plain)
        .await
        .unwrap();
    place
        .put(&volume, commit("c1", &[("a", "1")]))
        .await
        .unwrap();
    for (files, invalid) in [
        (&[("x", "1"), ("a/b", "2")][..], false),
        (&[("x", "1"), ("../b", "2")], true),
        (&[("x", "1"), ("/", "2")], true),
    ] {
        let refused = place.volumes.commit(&volume, commit("c2", files)).await;
        match refused {
            Err(VolumeError::Invalid(_)) => assert!(invalid, "{files:?}"),
            Err(VolumeError::Conflict(_)) => assert!(!invalid, "{files:?}"),
            other => panic!("{files:?}: {other:?}"),
        }
    }
    let mut absent = commit("c2", &[]);
    absent.changes = vec![Change {
        path: "x".into(),
        mode: WriteMode::Upsert,
        node: CommitNode::File(Contents::Packed {
            hash: ContentHash::of(b"x"),
            size: 1,
            object: ContentHash::of(b"pack"),
            offset: 0,
        }),
        metadata: Metadata::default(),
    }];
    let refused = place.volumes.commit(&volume, absent).await;
    assert!(matches!(refused, Err(VolumeError::NoObject(_))));
    let strange = place.volumes.commit(&volume, commit("a/b", &[])).await;
    assert!(matches!(strange, Err(VolumeError::Invalid(_))));
    let other_ref = Commit {
        on: "none".into(),
        ..commit("c2", &[])
    };
    let refused = place.volumes.commit(&volume, other_ref).await;
    assert!(matches!(refused, Err(VolumeError::NoRef { .. })));
    assert_eq!(volume.record().versions, 1);
    let head = place
        .volumes
        .version(&volume, &Selector::Default)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(paths(&place.volumes, &head).await, ["a"]);
}

#[tokio::test]
async fn names_are_taken_once_and_freed_by_deletion() {
    let place = Place::new();
    let volume = place
        .volumes
        .create(&default_project(), "v", VolumeKind::SourceCode)
        .await
        .unwrap();
    let taken = place
        .volumes
        .create(&default_project(), "v", VolumeKind::Plain)
        .await;
    assert!(matches!(taken, Err(VolumeError::Exists { .. })));
    assert!(
        place
            .volumes
            .create(&default_project(), "../v", VolumeKind::Plain)
            .await
            .is_err()
    );
    place
        .put(&volume, commit("c1", &[("a", "1")]))
        .await
        .unwrap();
    let pinned = place
        .volumes
        .mount(&default_project(), "v", &Selector::Version(1))
        .await
        .unwrap();
    place.volumes.delete(&named("v")).await.unwrap();
    // One who still holds the volume makes nothing of it.
    let late = place
        .volumes
        .commit(&volume, commit("c2", &[("a", "2")]))
        .await;
    assert!(matches!(late, Err(VolumeError::NoVolume(_))));
    assert!(matches!(place.get("v"), Err(VolumeError::NoVolume(_))));
    let again = place.volumes.delete(&named("v")).await;
    assert!(matches!(again, Err(VolumeError::NoVolume(_))));
    let place = place.again();
    assert!(place.get("v").is_err());
    let ledger = &place.volumes.ledger;
    for table in [
        Table::VolumeRefs,
        Table::VolumeVersions,
        Table::VolumeCommits,
    ] {
        assert!(ledger.keys(table, "").unwrap().is_empty(), "{table:?}");
    }
    let new = place
        .volumes
        .create(&default_project(), "v", VolumeKind::Plain)
        .await
        .unwrap();
    assert_eq!(
        place
            .volumes
            .version(&new, &Selector::Default)
            .await
            .unwrap(),
        None
    );
    // What was mounted stays.
    assert!(place.volumes.blobs.contains(pinned).unwrap());
}

#[tokio::test]
async fn lists_by_name_in_pages() {
    let place = Place::new();
    for name in ["b-2", "a-1", "b-1", "b", "c"] {
        let kind = if name == "c" {
            VolumeKind::SourceCode
        } else {
            VolumeKind::Plain
        };
        place
            .volumes
            .create(&default_project(), name, kind)
            .await
            .unwrap();
    }
    let check = |prefix: &str, kind, after: &str, limit, expect: &[&str], next: Option<&str>| {
        let page = place.volumes.list(None, prefix, kind, after, limit);
        let names: Vec<&str> = page.items.iter().map(|found| &*found.name).collect();
        assert_eq!((names.as_slice(), page.next.as_deref()), (expect, next));
    };
    check("", None, "", 10, &["a-1", "b", "b-1", "b-2", "c"], None);
    check("", None, "", 2, &["a-1", "b"], Some("b"));
    check("", None, "b", 3, &["b-1", "b-2", "c"], None);
    check("b", None, "", 10, &["b", "b-1", "b-2"], None);
    check("b-", None, "b-1", 10, &["b-2"], None);
    check("", Some(VolumeKind::SourceCode), "", 10, &["c"], None);
    check("d", None, "", 10, &[], None);
}

#[tokio::test]
async fn a_mount_is_a_tree_whose_blobs_are_all_there() {
    let place = Place::new();
    let volume = place
        .volumes
        .create(&default_project(), "v", VolumeKind::Plain)
        .await
        .unwrap();
    let empty = place
        .volumes
        .mount(&default_project(), "v", &Selector::Default)
        .await;
    assert!(matches!(empty, Err(VolumeError::Empty { .. })));
    let mut first = commit("c1", &[("run.sh", "exit"), ("d/empty", "")]);
    first.changes[0].metadata.mode = Some(0o100_755);
    place.put(&volume, first).await.unwrap();
    let digest = place
        .volumes
        .mount(&default_project(), "v", &Selector::Default)
        .await
        .unwrap();
    let json = place.volumes.blobs.read_small(digest, 1 << 20).unwrap();
    let tree = chalk_core::tree::Tree::parse(&json).unwrap();
    assert_eq!(tree.digest(), digest);
    let mut modes = Vec::new();
    for entry in &tree.entries {
        if let chalk_core::tree::TreeNode::File { digest, mode } = &entry.node {
            assert!(place.volumes.blobs.contains(digest).unwrap());
            modes.push((&*entry.path, &**mode));
        }
    }
    assert_eq!(modes, [("d/empty", "0644"), ("run.sh", "0755")]);
    // Later commits leave a pinned version alone.
    place
        .put(&volume, commit("c2", &[("run.sh", "other")]))
        .await
        .unwrap();
    let again = place
        .volumes
        .mount(&default_project(), "v", &Selector::Version(1))
        .await
        .unwrap();
    assert_eq!(again, digest);
    assert_ne!(
        place
            .volumes
            .mount(&default_project(), "v", &Selector::Default)
            .await
            .unwrap(),
        digest
    );
}

#[tokio::test]
async fn a_diff_names_what_a_version_changed() {
    let place = Place::new();
    let volume = place
        .volumes
        .create(&default_project(), "v", VolumeKind::Plain)
        .await
        .unwrap();
    place
        .put(&volume, commit("c1", &[("a", "1"), ("b", "1"), ("c", "1")]))
        .await
        .unwrap();
    let mut second = commit("c2", &[("a", "1"), ("b", "2"), ("d", "1")]);
    second.removes.push(Remove {
        path: "/c".into(),
        recursive: false,
    });
    let second = place.put(&volume, second).await.unwrap();
    let diff = place.volumes.diff(&volume, &second).await.unwrap();
    let expect = Diff {
        added: vec!["d".into()],
        modified: vec!["b".into()],
        removed: vec!["c".into()],
    };
    assert_eq!(diff, expect);
}
