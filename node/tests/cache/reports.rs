//! What the cache says of itself.

use std::sync::{Arc, Mutex};

use chalk_core::wire::{CacheItem, CacheItemKind, GcRequest};
use chalk_node::cache::{CacheSettings, FileCache};

use crate::registry::{Image, Layer, Packing, Registry};
use crate::{settings, silent, source};

fn image(name: &str, seeds: &[u64]) -> Image {
    let layers: Vec<Layer> = seeds
        .iter()
        .map(|seed| Layer::noise(*seed, 100_000, Packing::Plain))
        .collect();
    Image::new(name, &layers)
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_has_a_reason() {
    let temp = tempfile::tempdir().unwrap();
    let images = [
        image("used", &[1, 2]),
        image("pinned", &[1, 3]),
        image("free", &[1, 4]),
    ];
    let registry = Registry::start(&images.each_ref()).await;
    let mirroring = CacheSettings {
        mirror_bytes: 1 << 30,
        ..settings(temp.path())
    };
    let cache = crate::open(mirroring);
    for image in &images {
        cache
            .ensure(&source(&registry, image), None, &silent())
            .await
            .unwrap();
    }
    cache.pin(images[1].digest, "base").await.unwrap();
    cache.pin(images[1].digest, "base").await.unwrap();
    let lease = cache.lease(&images[0].digest).unwrap();
    let listing = cache.listing();
    let why = |image: usize, layer: usize| {
        let digest = images[image].layers[layer].digest;
        let item = listing
            .items
            .iter()
            .find(|item| item.kind == CacheItemKind::Layer && item.digest == digest)
            .unwrap();
        (item.why.clone(), item.evictable)
    };
    assert_eq!(why(0, 0), ("1 sandbox of used use it".into(), false));
    assert_eq!(why(0, 1), ("1 sandbox of used use it".into(), false));
    assert_eq!(why(1, 1), ("pinned is pinned as `base`".into(), false));
    let (free, evictable) = why(2, 1);
    assert!(
        free.starts_with("part of free, last used 20") && evictable,
        "{free}"
    );
    let blobs = listing
        .items
        .iter()
        .filter(|i| i.kind == CacheItemKind::Blob);
    assert_eq!(blobs.count(), 4);
    let usage = listing.usage;
    assert_eq!(
        (usage.images, usage.layers, usage.hits, usage.misses),
        (3, 4, 1, 3)
    );
    assert!(usage.held < usage.used);

    // What a dry run says is what happens.
    let before = cache.listing();
    assert!(before.images.iter().all(|image| image.blobs_kept));
    let revision = cache.since(None).revision;
    let dry = cache
        .collect(GcRequest {
            dry_run: true,
            target_bytes: None,
        })
        .await
        .unwrap();
    assert_eq!(cache.listing(), before);
    let wet = cache.collect(GcRequest::default()).await.unwrap();
    assert_eq!((dry.freed_bytes, &dry.freed), (wet.freed_bytes, &wet.freed));
    assert_eq!(wet.freed.len(), 5);
    // The service hears that others cannot have from here what stays.
    let kept: Vec<bool> = cache
        .since(Some(revision))
        .put
        .iter()
        .map(|image| image.blobs_kept)
        .collect();
    assert_eq!(kept, [false, false]);
    let names: Vec<String> = cache
        .listing()
        .images
        .into_iter()
        .map(|i| i.image)
        .collect();
    assert_eq!(names, ["used", "pinned"]);
    drop(lease);
    // Down to a target, and no further.
    let target = GcRequest {
        dry_run: false,
        target_bytes: Some(cache.usage().used - 1),
    };
    let report = cache.collect(target).await.unwrap();
    assert_eq!(report.freed.len(), 1);
    assert_eq!(report.usage.images, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_come_as_deltas() {
    let temp = tempfile::tempdir().unwrap();
    let images = [image("a", &[1]), image("b", &[2])];
    let registry = Registry::start(&images.each_ref()).await;
    let cache = crate::open(settings(temp.path()));
    let mut revision = cache.revision();
    let first = cache.since(None);
    assert!(first.whole && first.put.is_empty() && first.revision == *revision.borrow_and_update());
    cache
        .ensure(&source(&registry, &images[0]), None, &silent())
        .await
        .unwrap();
    assert!(revision.has_changed().unwrap());
    let second = cache.since(Some(first.revision));
    assert!(!second.whole);
    assert_eq!(second.put[0].digest, images[0].digest);
    cache
        .ensure(&source(&registry, &images[1]), Some("x"), &silent())
        .await
        .unwrap();
    cache.remove(images[0].digest, false).await.unwrap();
    let third = cache.since(Some(second.revision));
    assert_eq!(
        (third.put.len(), third.gone.as_slice()),
        (1, &[images[0].digest][..])
    );
    assert_eq!(third.put[0].pins, ["x"]);
    // Nothing new, then a pin.
    let none = cache.since(Some(third.revision));
    assert!(none.put.is_empty() && none.gone.is_empty() && !none.whole);
    cache.unpin(images[1].digest, "x").await.unwrap();
    assert!(cache.since(Some(third.revision)).put[0].pins.is_empty());
    // A revision of another life.
    let foreign = cache.since(Some(u64::MAX));
    assert!(foreign.whole && foreign.put.len() == 1 && foreign.gone.is_empty());
}

/// Mounted files of `bytes` each, all of which may go.
struct Mounted(Mutex<Vec<u64>>);

impl FileCache for Mounted {
    fn used(&self) -> u64 {
        self.0.lock().unwrap().iter().sum()
    }

    fn held(&self) -> u64 {
        0
    }

    fn items(&self) -> Vec<CacheItem> {
        let sizes = self.0.lock().unwrap().clone();
        let item = |(i, bytes): (usize, &u64)| CacheItem {
            kind: CacheItemKind::File,
            digest: chalk_core::Digest::of(&i.to_le_bytes()),
            bytes: *bytes,
            why: "mounted file".into(),
            evictable: true,
        };
        sizes.iter().enumerate().map(item).collect()
    }

    fn free(&self, bytes: u64) -> Vec<CacheItem> {
        let all = self.items();
        let mut freed = 0;
        let mut gone = Vec::new();
        while freed < bytes {
            let Some(size) = self.0.lock().unwrap().pop() else {
                break;
            };
            freed += size;
            gone.push(all[all.len() - 1 - gone.len()].clone());
        }
        gone
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mounted_files_share_the_room() {
    let temp = tempfile::tempdir().unwrap();
    let images = [image("a", &[1]), image("b", &[2])];
    let registry = Registry::start(&images.each_ref()).await;
    let small = CacheSettings {
        size_limit: 350_000,
        ..settings(temp.path())
    };
    let cache = crate::open(small);
    let files = Arc::new(Mounted(Mutex::new(vec![100_000, 100_000])));
    cache.attach_files(files.clone());
    assert_eq!(cache.usage().used, 200_000);
    let pinned = async |image: &Image| {
        let source = source(&registry, image);
        cache.ensure(&source, Some("pin"), &silent()).await.unwrap();
    };
    pinned(&images[0]).await;
    assert_eq!(files.used(), 200_000);
    // Pinned images stay; files make room.
    pinned(&images[1]).await;
    assert_eq!(files.used(), 100_000);
    assert!(cache.usage().used <= 350_000);
    let kinds = |items: &[CacheItem]| items.iter().map(|item| item.kind).collect::<Vec<_>>();
    let listed = kinds(&cache.listing().items);
    assert_eq!(
        listed,
        [
            CacheItemKind::Layer,
            CacheItemKind::Layer,
            CacheItemKind::File
        ]
    );
    let gc = |dry_run| GcRequest {
        dry_run,
        target_bytes: None,
    };
    let dry = cache.collect(gc(true)).await.unwrap();
    assert_eq!(
        (kinds(&dry.freed), files.used()),
        (vec![CacheItemKind::File], 100_000)
    );
    let wet = cache.collect(gc(false)).await.unwrap();
    assert_eq!((wet.freed_bytes, files.used()), (dry.freed_bytes, 0));
}
