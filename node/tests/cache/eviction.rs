//! Room: limits, last use, leases and pins.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use chalk_core::Digest;
use chalk_core::wire::{GcRequest, Problem};
use chalk_node::CacheForm;
use chalk_node::cache::{Cache, CacheError, CacheSettings, LayerMounts};
use chalk_node::files::{BlobSource, BlobStream, Files};

use crate::registry::{Image, Layer, Packing, Registry};
use crate::{assert_whole, settings, silent, source};

const MIB: usize = 1 << 20;

fn image(name: &str, seeds: &[u64]) -> Image {
    let layers: Vec<Layer> = seeds
        .iter()
        .map(|seed| Layer::noise(*seed, MIB, Packing::Plain))
        .collect();
    Image::new(name, &layers)
}

fn limited(dir: &std::path::Path, half_mebibytes: u64) -> CacheSettings {
    CacheSettings {
        size_limit: half_mebibytes << 19,
        ..settings(dir)
    }
}

async fn pull(cache: &Cache, registry: &Registry, image: &Image) -> Result<(), CacheError> {
    let done = cache
        .ensure(&source(registry, image), None, &silent())
        .await;
    done.map(|_| ())
}

fn names(cache: &Cache) -> Vec<String> {
    let images = cache.listing().images.into_iter();
    images.map(|image| image.image).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_unused_goes_first_and_shared_layers_stay() {
    let temp = tempfile::tempdir().unwrap();
    let images = [
        image("a", &[1, 2]),
        image("b", &[1, 3]),
        image("c", &[4, 5]),
    ];
    let registry = Registry::start(&images.each_ref()).await;
    let cache = crate::open(limited(temp.path(), 13));
    pull(&cache, &registry, &images[0]).await.unwrap();
    pull(&cache, &registry, &images[1]).await.unwrap();
    // Shared layers count once.
    let used = cache.usage().used;
    assert!((3 * MIB as u64..4 * MIB as u64).contains(&used), "{used}");
    drop(cache.lease(&images[0].digest));
    pull(&cache, &registry, &images[2]).await.unwrap();
    assert_eq!(names(&cache), ["c", "a", "b"]);
    let more = image("d", &[6, 7]);
    let other = Registry::start(&[&more]).await;
    pull(&cache, &other, &more).await.unwrap();
    // `b` went with its own layer only; `a` has the other one.
    assert_eq!(names(&cache), ["d", "c", "a"]);
    assert_whole(&cache, &images[0]);
    assert!(cache.usage().used <= 13 << 19);
    assert_eq!((cache.usage().layers, cache.usage().evictions), (6, 1));

    // The order of last use outlives a restart.
    drop(cache);
    let cache = crate::open(limited(temp.path(), 13));
    assert_eq!(names(&cache), ["a", "d", "c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_is_never_taken() {
    let temp = tempfile::tempdir().unwrap();
    let images = [
        image("leased", &[1, 2]),
        image("pinned", &[3]),
        image("new", &[4, 5]),
    ];
    let registry = Registry::start(&images.each_ref()).await;
    let cache = crate::open(limited(temp.path(), 8));
    pull(&cache, &registry, &images[0]).await.unwrap();
    let lease = cache.lease(&images[0].digest).unwrap();
    let pinned = source(&registry, &images[1]);
    cache
        .ensure(&pinned, Some("mine"), &silent())
        .await
        .unwrap();
    let error = pull(&cache, &registry, &images[2]).await.unwrap_err();
    let CacheError::TooSmall {
        needed,
        limit,
        available,
        held,
        ..
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!((limit, available), (4 << 20, limit - held));
    assert!(needed > 2 << 20 && needed > available);
    // It was refused before anything was fetched or evicted.
    assert!(registry.asked(&images[2].layers[0].digest).is_empty());
    assert_eq!(cache.usage().images, 2);
    for digest in [images[0].digest, images[1].digest] {
        let error = cache.remove(digest, false).await.unwrap_err();
        assert!(matches!(error, CacheError::Kept { .. }), "{error}");
    }
    drop(lease);
    pull(&cache, &registry, &images[2]).await.unwrap();
    assert_eq!(names(&cache), ["new", "pinned"]);
    cache.unpin(images[1].digest, "mine").await.unwrap();
    cache.unpin(images[1].digest, "not there").await.unwrap();
    let report = cache.remove(images[1].digest, false).await.unwrap();
    assert_eq!(report.freed.len(), 1);
    let error = cache.remove(images[1].digest, false).await.unwrap_err();
    assert!(matches!(error, CacheError::NotFound(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_larger_than_the_cache_is_refused_even_when_its_size_shows_late() {
    let temp = tempfile::tempdir().unwrap();
    // 300 bytes in the registry, 8 MiB on the disk.
    let content: Vec<u8> = (0..8 * MIB).map(|i| (i / 65536) as u8 | 1).collect();
    let late = Layer::of(crate::registry::tar(&[("late", &content)]), Packing::Zstd);
    let late = Image::new("late", &[late]);
    let kept = image("kept", &[1]);
    let registry = Registry::start(&[&late, &kept]).await;
    let cache = crate::open(limited(temp.path(), 8));
    cache
        .ensure(&source(&registry, &kept), Some("pin"), &silent())
        .await
        .unwrap();
    let error = pull(&cache, &registry, &late).await.unwrap_err();
    assert!(matches!(error, CacheError::TooSmall { .. }), "{error}");
    assert_eq!(crate::layer_names(temp.path()).len(), 1);
    assert_eq!(cache.usage().used, cache.listing().images[0].bytes);
    assert_whole(&cache, &kept);
}

/// Bytes of all files below `dir`.
fn bytes_below(dir: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => bytes_below(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    });
    bytes.sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_take_room_as_they_are_unpacked() {
    let temp = tempfile::tempdir().unwrap();
    let bomb = Layer::of(
        crate::registry::tar(&[("bomb", &vec![7; 64 * MIB])]),
        Packing::Zstd,
    );
    let bomb = Image::new("bomb", &[bomb]);
    let registry = Registry::start(&[&bomb]).await;
    let cache = crate::open(CacheSettings {
        form: CacheForm::Directory,
        ..limited(temp.path(), 8)
    });
    let done = Arc::new(AtomicBool::new(false));
    let watcher = {
        let (dir, done) = (temp.path().join("layers"), done.clone());
        std::thread::spawn(move || {
            let mut most = 0;
            while !done.load(Ordering::Relaxed) {
                most = most.max(bytes_below(&dir));
            }
            most
        })
    };
    let error = pull(&cache, &registry, &bomb).await.unwrap_err();
    done.store(true, Ordering::Relaxed);
    assert!(matches!(error, CacheError::TooSmall { .. }), "{error}");
    let most = watcher.join().unwrap();
    assert!(most <= 4 << 20, "{most}");
    assert_eq!(cache.usage().used, 0);
}

/// Remembers what it was told.
#[derive(Default)]
struct Told(Mutex<Vec<(PathBuf, bool)>>);

impl LayerMounts for Told {
    fn let_go(&self, layers: &[PathBuf]) {
        let gone = layers.iter().map(|path| (path.clone(), !path.exists()));
        self.0.lock().unwrap().extend(gone);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn evicted_layers_are_unmounted() {
    let temp = tempfile::tempdir().unwrap();
    let images = [image("a", &[1]), image("b", &[2])];
    let registry = Registry::start(&images.each_ref()).await;
    let cache = crate::open(limited(temp.path(), 3));
    let told = Arc::new(Told::default());
    cache.attach_mounts(told.clone());
    pull(&cache, &registry, &images[0]).await.unwrap();
    let path = cache.lease(&images[0].digest).unwrap().layers()[0]
        .path
        .clone();
    pull(&cache, &registry, &images[1]).await.unwrap();
    assert_eq!(*told.0.lock().unwrap(), [(path, true)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pins_go_with_an_image_or_stay_with_it() {
    let temp = tempfile::tempdir().unwrap();
    let image = image("pinned", &[1]);
    let (_registry, cache, source) =
        crate::pulled(temp.path(), settings(temp.path()), &image).await;
    for pin in ["prewarm", "warm"] {
        cache.ensure(&source, Some(pin), &silent()).await.unwrap();
    }
    let lease = cache.lease(&image.digest).unwrap();
    let error = cache.remove(image.digest, true).await.unwrap_err();
    assert!(matches!(error, CacheError::Kept { .. }), "{error}");
    assert_eq!(cache.listing().images[0].pins, ["prewarm", "warm"]);
    drop(lease);
    let error = cache.remove(image.digest, false).await.unwrap_err();
    assert!(error.to_string().contains("`prewarm`, `warm`"), "{error}");
    let report = cache.remove(image.digest, true).await.unwrap();
    assert_eq!((report.freed.len(), report.usage.images), (1, 0));
    drop(cache);
    assert!(!crate::open(settings(temp.path())).has(&image.digest));
}

/// Blobs as the service has them.
struct Blobs(Vec<Vec<u8>>);

#[async_trait::async_trait]
impl BlobSource for Blobs {
    async fn fetch(&self, digest: Digest) -> Result<BlobStream, Problem> {
        let found = self.0.iter().find(|bytes| Digest::of(bytes) == digest);
        let chunks = found.unwrap().chunks(16 << 10);
        let chunks: Vec<_> = chunks
            .map(|chunk| Ok(bytes::Bytes::copy_from_slice(chunk)))
            .collect();
        Ok(Box::pin(futures_util::stream::iter(chunks)))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mounted_files_take_their_room_from_the_cache() {
    let temp = tempfile::tempdir().unwrap();
    let large = vec![1; 5 * MIB];
    let fits = vec![2; 3 * MIB];
    let (too_large, digest) = (Digest::of(&large), Digest::of(&fits));
    let image = image("image", &[1, 2]);
    let registry = Registry::start(&[&image]).await;
    let cache = crate::open(limited(&temp.path().join("cache"), 8));
    let blobs = Arc::new(Blobs(vec![large, fits]));
    let dir = temp.path().join("files");
    let files = Files::open(&dir, u64::MAX, blobs).unwrap();
    cache.attach_files(Arc::new(files.clone()));

    let problem = files.file(too_large, false).await.unwrap_err();
    assert_eq!(problem.kind, "urn:chalk:cache-too-small", "{problem:?}");
    assert_eq!((bytes_below(&dir), cache.usage().used), (0, 0));

    // An image goes for a file.
    pull(&cache, &registry, &image).await.unwrap();
    let held = files.file(digest, false).await.unwrap();
    assert!(!cache.has(&image.digest));
    assert_eq!((cache.usage().used, cache.usage().held), (3 << 20, 3 << 20));
    // A file in use stays.
    let error = pull(&cache, &registry, &image).await.unwrap_err();
    assert!(matches!(error, CacheError::TooSmall { .. }), "{error}");
    assert!(held.path().exists());
    // And one that is not goes for an image.
    drop(held);
    pull(&cache, &registry, &image).await.unwrap();
    assert_eq!((bytes_below(&dir), files.usage()), (0, 0));
    assert_whole(&cache, &image);
    // One that an image in use leaves no room for is refused.
    let lease = cache.lease(&image.digest).unwrap();
    let problem = files.file(digest, false).await.unwrap_err();
    assert_eq!(problem.kind, "urn:chalk:cache-too-small", "{problem:?}");
    assert_whole(&cache, &image);
    drop(lease);
}

/// Leases and evictions at once: what was leased is there as long as the lease.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn leases_and_evictions_race() {
    let temp = tempfile::tempdir().unwrap();
    let images: Vec<Image> = (0..4).map(|n| image(&format!("i{n}"), &[n, 90])).collect();
    let all: Vec<&Image> = images.iter().collect();
    let registry = Registry::start(&all).await;
    let cache = crate::open(limited(temp.path(), 8));
    let mut tasks = Vec::new();
    for worker in 0..4 {
        let (cache, registry, images) = (cache.clone(), registry.clone(), images.clone());
        tasks.push(tokio::spawn(async move {
            let mut held = 0;
            for round in 0..25 {
                let image = &images[(worker + round) % images.len()];
                let source = source(&registry, image);
                match cache.acquire(&source, &silent()).await {
                    Ok((lease, _)) => {
                        for layer in lease.layers() {
                            assert!(layer.path.exists(), "evicted under a lease");
                        }
                        tokio::task::yield_now().await;
                        for layer in lease.layers() {
                            assert!(layer.path.exists(), "evicted under a lease");
                        }
                        held += 1;
                    }
                    // All four at once do not fit.
                    Err(CacheError::TooSmall { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            held
        }));
    }
    let collector = {
        let cache = cache.clone();
        tokio::spawn(async move {
            loop {
                cache.collect(GcRequest::default()).await.unwrap();
                tokio::time::sleep(std::time::Duration::from_millis(3)).await;
            }
        })
    };
    let mut held = 0;
    for task in tasks {
        held += task.await.unwrap();
    }
    collector.abort();
    assert!(held > 20, "{held}");
    // Pulls that were given up clean up behind them.
    while cache.usage().used > 0 || !crate::layer_names(temp.path()).is_empty() {
        cache.collect(GcRequest::default()).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(cache.usage().images, 0);
}
