//! Pulls from a registry that is well.

use std::sync::atomic::{AtomicU64, Ordering};

use chalk_node::CacheForm;
use chalk_node::cache::{CacheError, CacheSettings, LayerForm};
use chalk_store::layer::{LayerError, Limits};

use crate::registry::{Image, Layer, Packing, Registry, tar};
use crate::{assert_whole, layer_names, settings, silent, source};

fn three_layers() -> Image {
    Image::new(
        "three",
        &[
            Layer::noise(1, 300_000, Packing::Gzip),
            Layer::noise(2, 2_000_000, Packing::Zstd),
            Layer::noise(3, 10_000, Packing::Plain),
        ],
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_come_whole_whatever_their_compression() {
    let temp = tempfile::tempdir().unwrap();
    let image = three_layers();
    let registry = Registry::start(&[&image]).await;
    let cache = crate::open(settings(temp.path()));
    let progress = silent();
    let source = source(&registry, &image);
    let receipt = cache
        .ensure(&source, Some("prewarm"), &progress)
        .await
        .unwrap();
    assert_eq!(receipt.bytes_fetched, image.size());
    assert_eq!((receipt.bytes_present, receipt.bytes_from_mirrors), (0, 0));
    assert_eq!(receipt.digests_verified, 8);
    assert_eq!(progress.borrow().done, progress.borrow().total);
    assert_whole(&cache, &image);
    let lease = cache.lease(&image.digest).unwrap();
    let env = lease
        .config()
        .config()
        .as_ref()
        .unwrap()
        .env()
        .clone()
        .unwrap();
    assert_eq!(env, ["NAME=three"]);
    let listed = &cache.listing().images[0];
    assert_eq!(
        (listed.pins.as_slice(), listed.in_use),
        (&["prewarm".to_owned()][..], 1)
    );

    // Once more costs nothing, now and after a restart.
    let again = cache.ensure(&source, None, &progress).await.unwrap();
    assert_eq!(
        (again.bytes_fetched, again.bytes_present),
        (0, image.size())
    );
    drop((lease, cache));
    let cache = crate::open(settings(temp.path()));
    registry.up.send_replace(false);
    let again = cache
        .ensure(&source, Some("other"), &progress)
        .await
        .unwrap();
    assert_eq!(
        (again.bytes_fetched, again.bytes_present),
        (0, image.size())
    );
    assert_eq!(cache.listing().images[0].pins, ["other", "prewarm"]);
    assert_whole(&cache, &image);
}

/// A node that pulls from another one would wait for layers that the other has not begun.
#[tokio::test(flavor = "multi_thread")]
async fn layers_are_fetched_in_the_order_of_the_image() {
    let layers: Vec<Layer> = (0..12)
        .map(|seed| Layer::noise(seed, 10_000, Packing::Plain))
        .collect();
    let image = Image::new("ordered", &layers);
    let registry = Registry::start(&[&image]).await;
    let temp = tempfile::tempdir().unwrap();
    let cache = crate::open(CacheSettings {
        parallel: 1,
        ..settings(temp.path())
    });
    let source = source(&registry, &image);
    cache.ensure(&source, None, &silent()).await.unwrap();
    let expect: Vec<_> = image.layers.iter().map(|layer| layer.digest).collect();
    // The config comes first.
    assert_eq!(registry.order()[1..], expect);
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_stand_in_where_there_is_no_erofs() {
    let temp = tempfile::tempdir().unwrap();
    let image = three_layers();
    let registry = Registry::start(&[&image]).await;
    let settings = CacheSettings {
        form: CacheForm::Directory,
        ..settings(temp.path())
    };
    let cache = crate::open(settings);
    let source = source(&registry, &image);
    let (lease, _) = cache.acquire(&source, &silent()).await.unwrap();
    for (i, layer) in lease.layers().iter().enumerate() {
        assert_eq!(layer.form, LayerForm::Directory);
        let file = layer.path.join(format!("file{}", i + 1));
        assert!(std::fs::metadata(file).unwrap().len() >= 10_000);
        assert_eq!(std::fs::read(layer.path.join("shared")).unwrap(), b"same");
    }
    assert!(cache.usage().used >= 2_310_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_at_once_share_the_work() {
    let temp = tempfile::tempdir().unwrap();
    let shared = Layer::noise(7, 3_000_000, Packing::Plain);
    let own = |n| Layer::noise(n, 200_000, Packing::Zstd);
    let first = Image::new("first", &[shared.clone(), own(8)]);
    let second = Image::new("second", &[shared.clone(), own(9)]);
    let registry = Registry::start(&[&first, &second]).await;
    registry.slow_to(20_000);
    let cache = crate::open(settings(temp.path()));
    let fetched = AtomicU64::new(0);
    let pull = async |image: &Image| {
        let receipt = cache
            .ensure(&source(&registry, image), None, &silent())
            .await;
        let receipt = receipt.unwrap();
        assert_eq!(receipt.bytes_fetched + receipt.bytes_present, {
            let small = (image.manifest.len() + image.config.len()) as u64;
            image.size().max(small)
        });
        fetched.fetch_add(receipt.bytes_fetched, Ordering::Relaxed);
    };
    tokio::join!(pull(&first), pull(&second), pull(&first), pull(&second));
    assert_eq!(registry.asked(&shared.digest).len(), 1);
    let layers =
        (shared.blob.len() + first.layers[1].blob.len() + second.layers[1].blob.len()) as u64;
    let small: u64 = [&first, &second]
        .iter()
        .map(|image| (image.manifest.len() + image.config.len()) as u64)
        .sum();
    // Manifests and configs may come once for each of the four.
    let fetched = fetched.load(Ordering::Relaxed);
    assert!(
        (layers + small..=layers + 2 * small).contains(&fetched),
        "{fetched}"
    );
    assert_whole(&cache, &first);
    assert_whole(&cache, &second);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_gives_up_does_not_end_the_other() {
    let temp = tempfile::tempdir().unwrap();
    let image = Image::new("slow", &[Layer::noise(4, 1_500_000, Packing::Plain)]);
    let registry = Registry::start(&[&image]).await;
    registry.slow_to(5_000);
    let cache = crate::open(settings(temp.path()));
    let source = source(&registry, &image);
    let progress = silent();
    let mut seen = progress.subscribe();
    let quitter = {
        let (cache, source) = (cache.clone(), source.clone());
        tokio::spawn(async move { cache.ensure(&source, None, &progress).await })
    };
    seen.wait_for(|p| p.done > 0).await.unwrap();
    let stayer = {
        let (cache, source) = (cache.clone(), source.clone());
        tokio::spawn(async move { cache.ensure(&source, None, &silent()).await })
    };
    // It sits in the same flight once the manifest is there.
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    quitter.abort();
    let receipt = stayer.await.unwrap().unwrap();
    assert!(receipt.bytes_fetched + receipt.bytes_present >= image.size());
    assert_whole(&cache, &image);

    // The last one that leaves ends it, and nothing is left.
    let other = Image::new("other", &[Layer::noise(5, 1_500_000, Packing::Plain)]);
    let registry = Registry::start(&[&other]).await;
    registry.slow_to(5_000);
    let source = crate::source(&registry, &other);
    let progress = silent();
    let mut seen = progress.subscribe();
    let only = {
        let (cache, source) = (cache.clone(), source.clone());
        tokio::spawn(async move { cache.ensure(&source, None, &progress).await })
    };
    seen.wait_for(|p| p.done > 0).await.unwrap();
    only.abort();
    while layer_names(temp.path()).len() > 1 || cache.usage().used > cache.listing().images[0].bytes
    {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_do_not_fit_themselves_are_refused() {
    let layer = Layer::noise(6, 50_000, Packing::Zstd);
    let good = Image::new("good", std::slice::from_ref(&layer));
    let lying = Image::with_diff_ids("lying", std::slice::from_ref(&layer), &[layer.digest]);
    let short = Image::with_diff_ids("short", std::slice::from_ref(&layer), &[]);
    let unsound = Image::new(
        "unsound",
        &[Layer::of(b"no tar at all".repeat(100), Packing::Zstd)],
    );
    let escaping = {
        let mut bytes = tar(&[("xx/evil", b"x")]);
        bytes[..2].copy_from_slice(b"..");
        let mut header = tar::Header::from_byte_slice(&bytes[..512]).clone();
        header.set_cksum();
        bytes[..512].copy_from_slice(header.as_bytes());
        Image::new("escaping", &[Layer::of(bytes, Packing::Gzip)])
    };
    let registry = Registry::start(&[&good, &lying, &short, &unsound, &escaping]).await;
    let temp = tempfile::tempdir().unwrap();
    let cache = crate::open(settings(temp.path()));
    for (image, words) in [
        (&lying, "config says"),
        (&short, "names 1 layers, but its config 0"),
        (&unsound, "no sound tar"),
        (&escaping, "`..` in its path"),
    ] {
        let error = cache
            .ensure(&source(&registry, image), None, &silent())
            .await
            .unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert!(!error.is_transient(), "{error}");
        assert!(layer_names(temp.path()).is_empty());
        // Its bytes were the right ones: nobody was asked twice.
        assert!(registry.asked(&image.layers[0].digest).len() <= 1);
    }
    let gone = Image::new("gone", std::slice::from_ref(&layer));
    let mut nowhere = source(&registry, &gone);
    nowhere.digest = layer.digest;
    let error = cache.ensure(&nowhere, None, &silent()).await.unwrap_err();
    assert!(matches!(error, CacheError::NoImage(_)), "{error}");
    cache
        .ensure(&source(&registry, &good), None, &silent())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_and_crowds_are_bounded() {
    let temp = tempfile::tempdir().unwrap();
    let bomb = Layer::of(tar(&[("zeros", &vec![0; 64 << 20])]), Packing::Zstd);
    let names: Vec<String> = (0..40_000)
        .map(|i| format!("some/rather/long/name/{i}"))
        .collect();
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b""[..])).collect();
    let crowd = Layer::of(tar(&files), Packing::Zstd);
    let bomb = Image::new("bomb", &[bomb]);
    let crowd = Image::new("crowd", &[crowd]);
    let registry = Registry::start(&[&bomb, &crowd]).await;
    let few = CacheSettings {
        limits: Limits {
            bytes: 16 << 20,
            ..Limits::default()
        },
        // So little that a crowd has no room even alone.
        memory: 18 << 20,
        ..settings(temp.path())
    };
    let cache = crate::open(few);
    for (image, words) in [(&bomb, "unpacked bytes"), (&crowd, "memory for its names")] {
        let error = cache
            .ensure(&source(&registry, image), None, &silent())
            .await
            .unwrap_err();
        assert!(
            matches!(&error, CacheError::Layer(e) if matches!(**e, LayerError::Limit { .. })),
            "{error}"
        );
        assert!(error.to_string().contains(words), "{error}");
        assert!(layer_names(temp.path()).is_empty());
    }
    drop(cache);
    // Where there is more memory than one pull's share, a crowd gets all of it for itself.
    let names = CacheSettings {
        memory: 64 << 20,
        ..settings(temp.path())
    };
    let cache = crate::open(names);
    cache
        .ensure(&source(&registry, &crowd), None, &silent())
        .await
        .unwrap();
    assert_whole(&cache, &crowd);
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_that_cannot_be_are_refused() {
    let layers = [
        Layer::noise(30, 50_000, Packing::Zstd),
        Layer::noise(31, 50_000, Packing::Zstd),
    ];
    let good = Image::new("good", &layers);
    let empty = Image::with_sizes("empty", &layers, &[0, layers[1].blob.len() as u64]);
    let huge = Image::with_sizes("huge", &layers, &[u64::MAX, u64::MAX]);
    let other = Image::with_sizes("other", &layers, &[u64::MAX, 1]);
    let lying = Image::with_diff_ids("lying", &layers, &[layers[1].diff_id, layers[1].diff_id]);
    let registry = Registry::start(&[&good, &empty, &huge, &other, &lying]).await;
    let temp = tempfile::tempdir().unwrap();
    let cache = crate::open(settings(temp.path()));
    let refused = async |image: &Image, words: &str| {
        let (source, progress) = (source(&registry, image), silent());
        let pull = cache.ensure(&source, None, &progress);
        let done = tokio::time::timeout(std::time::Duration::from_secs(20), pull).await;
        let error = done.unwrap().unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert!(!error.is_transient(), "{error}");
    };
    refused(&empty, "0 bytes").await;
    refused(&huge, "can be had").await;
    assert!(registry.asked(&layers[0].digest).is_empty());
    let source = source(&registry, &good);
    cache.ensure(&source, None, &silent()).await.unwrap();
    // Also when the layers are there: they are not what these images say.
    refused(&other, "but it has").await;
    refused(&lying, "diff_id").await;
    assert_whole(&cache, &good);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_of_nothing_needs_no_bytes() {
    let nothing = Layer::of(Vec::new(), Packing::Plain);
    let image = Image::new(
        "thin",
        &[nothing.clone(), Layer::noise(32, 1000, Packing::Zstd)],
    );
    let registry = Registry::start(&[&image]).await;
    let temp = tempfile::tempdir().unwrap();
    let cache = crate::open(settings(temp.path()));
    let source = source(&registry, &image);
    cache.ensure(&source, None, &silent()).await.unwrap();
    assert!(registry.asked(&nothing.digest).is_empty());
    assert_whole(&cache, &image);
}

/// Waits until a layer in `dir` is about to get its name; `false` when none is any more.
fn about_to_commit(dir: &std::path::Path, done: &std::sync::atomic::AtomicBool) -> bool {
    while !done.load(Ordering::Relaxed) {
        for name in layer_names(dir) {
            if name.starts_with(".new-")
                && dir.join("layers").join(name).join("layer.json").exists()
            {
                return true;
            }
        }
    }
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_pull_that_is_given_up_as_it_ends_does_not_break_the_next() {
    let temp = tempfile::tempdir().unwrap();
    let cache = crate::open(settings(temp.path()));
    let mut caught = 0;
    for seed in 0..12 {
        let image = Image::new(
            "late",
            &[Layer::noise(100 + seed, 3_000_000, Packing::Plain)],
        );
        let registry = Registry::start(&[&image]).await;
        let source = source(&registry, &image);
        let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let watcher = {
            let (dir, done) = (temp.path().to_owned(), done.clone());
            tokio::task::spawn_blocking(move || about_to_commit(&dir, &done))
        };
        let first = {
            let (cache, source, done) = (cache.clone(), source.clone(), done.clone());
            tokio::spawn(async move {
                let receipt = cache.ensure(&source, None, &silent()).await;
                done.store(true, Ordering::Relaxed);
                receipt
            })
        };
        caught += usize::from(watcher.await.unwrap());
        first.abort();
        let _ = first.await;
        cache.ensure(&source, None, &silent()).await.unwrap();
        assert_whole(&cache, &image);
        // What was as good as done is not fetched again.
        assert_eq!(registry.asked(&image.layers[0].digest).len(), 1);
        while cache.usage().used != cache.listing().images.iter().map(|i| i.bytes).sum::<u64>() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        assert_eq!(cache.usage().layers, seed as usize + 1);
    }
    assert!(caught > 0, "never gave up at the end");
}
