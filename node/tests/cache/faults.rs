//! Registries that break, and disks that are full.

use std::time::Duration;

use chalk_node::cache::CacheError;
use chalk_store::registry::RegistryError;

use crate::registry::{Fault, Image, Layer, Packing, Registry};
use crate::{assert_whole, layer_names, settings, silent, source};

fn one_layer(seed: u64) -> Image {
    Image::new("one", &[Layer::noise(seed, 1_000_000, Packing::Zstd)])
}

/// Pulls through `faults` of the layer, and gives the ranges that were asked for.
async fn through(seed: u64, faults: &[Fault]) -> (Result<(), CacheError>, Vec<Option<String>>) {
    let temp = tempfile::tempdir().unwrap();
    let image = one_layer(seed);
    let registry = Registry::start(&[&image]).await;
    let layer = image.layers[0].digest;
    registry.fail(layer, faults);
    let cache = crate::open(settings(temp.path()));
    let done = cache
        .ensure(&source(&registry, &image), None, &silent())
        .await;
    match &done {
        Ok(_) => assert_whole(&cache, &image),
        Err(_) => {
            assert!(layer_names(temp.path()).is_empty());
            assert_eq!(cache.usage().used, 0);
            assert!(!cache.has(&image.digest));
            // The next try finds nothing in its way.
            registry.fail(layer, &[]);
            cache
                .ensure(&source(&registry, &image), None, &silent())
                .await
                .unwrap();
            assert_whole(&cache, &image);
        }
    }
    (done.map(|_| ()), registry.asked(&layer))
}

fn ranges(asked: &[Option<String>]) -> Vec<&str> {
    asked
        .iter()
        .map(|r| r.as_deref().unwrap_or("all"))
        .collect()
}

/// One request for all, then others that each begin behind the last one.
fn assert_resumed(asked: &[Option<String>], count: usize) {
    let starts: Vec<u64> = asked
        .iter()
        .map(|range| match range {
            None => 0,
            Some(range) => range["bytes=".len()..range.len() - 1].parse().unwrap(),
        })
        .collect();
    assert_eq!((starts.len(), starts[0]), (count, 0), "{asked:?}");
    assert!(starts.windows(2).all(|pair| pair[0] < pair[1]), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_connections_are_resumed() {
    let (done, asked) = through(1, &[Fault::Cut(300_000), Fault::Cut(400_000)]).await;
    done.unwrap();
    assert_resumed(&asked, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_without_ranges_are_read_again() {
    let (done, asked) = through(2, &[Fault::Cut(300_000), Fault::NoRange]).await;
    done.unwrap();
    assert_resumed(&asked, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn stalls_end_after_the_idle_time() {
    let (done, asked) = through(3, &[Fault::Stall(200_000)]).await;
    done.unwrap();
    assert_resumed(&asked, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_fetched_again_from_the_start() {
    for at in [0, 40, 500_000] {
        let (done, asked) = through(4, &[Fault::Wrong(at)]).await;
        done.unwrap();
        assert_eq!(ranges(&asked), ["all", "all"]);
    }
    let (done, asked) = through(5, &[Fault::Wrong(9), Fault::Wrong(9)]).await;
    let error = done.unwrap_err();
    assert!(matches!(error, CacheError::Damaged { .. }), "{error}");
    // Everybody was asked again already.
    assert!(!error.is_transient());
    assert_eq!(ranges(&asked), ["all", "all", "all"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn truncated_and_oversized_blobs() {
    let (done, _) = through(6, &[Fault::Truncated(1000)]).await;
    done.unwrap();
    let (done, _) = through(7, &[Fault::Truncated(1000), Fault::Status(416)]).await;
    let error = done.unwrap_err();
    assert!(error.to_string().contains("416"), "{error}");
    let (done, _) = through(8, &[Fault::Oversized(1000)]).await;
    let error = done.unwrap_err();
    assert!(
        matches!(&error, CacheError::Registry(e) if matches!(**e, RegistryError::TooLarge { .. })),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_gone_in_the_middle_and_comes_back() {
    let temp = tempfile::tempdir().unwrap();
    let image = Image::new("slow", &[Layer::noise(9, 2_000_000, Packing::Plain)]);
    let registry = Registry::start(&[&image]).await;
    registry.slow_to(10_000);
    let mut settings = settings(temp.path());
    settings.attempts = 30;
    settings.first_delay = Duration::from_millis(5);
    let cache = crate::open(settings);
    let progress = silent();
    let mut seen = progress.subscribe();
    let pull = {
        let (cache, source) = (cache.clone(), source(&registry, &image));
        tokio::spawn(async move { cache.ensure(&source, None, &progress).await })
    };
    seen.wait_for(|p| p.done > 200_000).await.unwrap();
    registry.up.send_replace(false);
    tokio::time::sleep(Duration::from_millis(100)).await;
    registry.up.send_replace(true);
    let receipt = pull.await.unwrap().unwrap();
    assert_eq!(receipt.bytes_fetched, image.size());
    let asked = registry.asked(&image.layers[0].digest);
    assert!(asked.len() == 2 && asked[1].is_some(), "{asked:?}");
    assert_whole(&cache, &image);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_fails_says_what_it_cost() {
    let temp = tempfile::tempdir().unwrap();
    let layers = [
        Layer::noise(20, 100_000, Packing::Zstd),
        Layer::noise(21, 1_000_000, Packing::Zstd),
    ];
    let image = Image::new("two", &layers);
    let registry = Registry::start(&[&image]).await;
    let mut faults = vec![Fault::Cut(300_000)];
    faults.resize(20, Fault::Status(503));
    registry.fail(layers[1].digest, &faults);
    let mut settings = settings(temp.path());
    // Long enough for the other layer to end.
    settings.attempts = 8;
    let cache = crate::open(settings);
    let source = source(&registry, &image);
    let progress = silent();
    cache.ensure(&source, None, &progress).await.unwrap_err();
    let cost = progress.borrow().cost;
    let small = (image.manifest.len() + image.config.len()) as u64;
    let whole = layers[0].blob.len() as u64;
    assert_eq!((cost.layers, cost.verified), (whole, 4));
    // A connection that breaks may take the last bytes with it.
    let most = small + whole + 300_000;
    assert!(
        (small + whole + 1..=most).contains(&cost.fetched),
        "{cost:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_stays_away_is_said() {
    let temp = tempfile::tempdir().unwrap();
    let image = one_layer(10);
    let registry = Registry::start(&[&image]).await;
    let faults = [Fault::Status(503); 20];
    registry.fail(image.layers[0].digest, &faults);
    let cache = crate::open(settings(temp.path()));
    let error = cache
        .ensure(&source(&registry, &image), None, &silent())
        .await
        .unwrap_err();
    assert!(
        error.is_transient() && error.to_string().contains("503"),
        "{error}"
    );
    assert_eq!(registry.asked(&image.layers[0].digest).len(), 4);
    assert_eq!(error.problem().kind, "urn:chalk:registry-unreachable");
}

/// Runs `work` where `dir` is a file system of its own (ext4: tmpfs has no EROFS images), of which
/// all but `left` bytes are taken by the file `ballast`.
fn on_a_small_disk<F: Future<Output = ()>>(
    dir: &std::path::Path,
    left: u64,
    work: impl FnOnce() -> F + Send,
) {
    use rustix::mount::MountPropagationFlags;
    use rustix::thread::UnshareFlags;
    let run = |command: &mut std::process::Command| {
        assert!(command.status().unwrap().success(), "{command:?}");
    };
    let disk = dir.with_extension("disk");
    std::fs::File::create(&disk)
        .unwrap()
        .set_len(32 << 20)
        .unwrap();
    run(std::process::Command::new("mkfs.ext4").arg("-q").arg(&disk));
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: this thread and those that it starts get other mounts; all end with the test.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }
                .unwrap();
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            rustix::mount::mount_change("/", private).unwrap();
            run(std::process::Command::new("mount")
                .args(["-o", "loop"])
                .arg(&disk)
                .arg(dir));
            let room = rustix::fs::statvfs(dir).unwrap();
            let taken = room.f_bavail * room.f_frsize - left;
            std::fs::write(dir.join("ballast"), vec![1; taken as usize]).unwrap();
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .worker_threads(2)
                .build()
                .unwrap();
            runtime.block_on(work());
        });
        thread.join().unwrap();
    });
    std::fs::remove_file(disk).unwrap();
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().to_owned();
    on_a_small_disk(temp.path(), 3 << 20, || async move {
        let image = Image::new("large", &[Layer::noise(11, 5_000_000, Packing::Plain)]);
        let small = one_layer(12);
        let registry = Registry::start(&[&image, &small]).await;
        let cache = crate::open(settings(&dir.join("cache")));
        let large = source(&registry, &image);
        let error = cache.ensure(&large, None, &silent()).await.unwrap_err();
        assert!(matches!(error, CacheError::DiskFull { .. }), "{error}");
        assert_eq!(error.problem().kind, "urn:chalk:disk-full");
        assert!(layer_names(&dir.join("cache")).is_empty());
        assert_eq!(cache.usage().used, 0);
        cache
            .ensure(&source(&registry, &small), None, &silent())
            .await
            .unwrap();
        assert_whole(&cache, &small);
        std::fs::remove_file(dir.join("ballast")).unwrap();
        cache.ensure(&large, None, &silent()).await.unwrap();
        assert_whole(&cache, &image);
    });
}
