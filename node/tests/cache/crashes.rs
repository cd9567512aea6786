//! Nodes that are killed in the middle of anything.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use chalk_core::Digest;
use chalk_node::cache::{Cache, CacheError, CacheSettings};

use crate::registry::{Image, Layer, Packing, Registry};
use crate::{assert_whole, layer_names, settings, silent, source};

const DIR: &str = "CHALK_TEST_CRASH_DIR";
const REGISTRY: &str = "CHALK_TEST_CRASH_REGISTRY";

fn image() -> Image {
    let layers: Vec<Layer> = (0..6)
        .map(|seed| Layer::noise(seed, 700_000, Packing::Zstd))
        .collect();
    Image::new("crash", &layers)
}

fn crashing(dir: &Path) -> CacheSettings {
    CacheSettings {
        mirror_bytes: 64 << 20,
        parallel: 2,
        ..settings(dir)
    }
}

/// The process that is killed: pulls until its end comes.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by the test of kills"]
async fn child() {
    let (Ok(dir), Ok(registry)) = (std::env::var(DIR), std::env::var(REGISTRY)) else {
        return;
    };
    let image = image();
    let cache = crate::open(crashing(Path::new(&dir)));
    let stand_in = Registry::start(&[]).await;
    let mut source = source(&stand_in, &image);
    source.repository = registry.parse().unwrap();
    println!("begin");
    cache.ensure(&source, Some("pin"), &silent()).await.unwrap();
    println!("ready");
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_lose_no_finished_layer_and_leave_no_half_one() {
    let temp = tempfile::tempdir().unwrap();
    let image = image();
    let registry = Registry::start(&[&image]).await;
    registry.slow_to(20_000);
    let mut rounds = 0_u64;
    let mut finished = 0;
    while finished < image.layers.len() && rounds < 40 {
        rounds += 1;
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["crashes::child", "--exact", "--ignored", "--nocapture"])
            .env(DIR, temp.path())
            .env(REGISTRY, format!("{}/some/image", registry.address))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut out = child.stdout.take().unwrap();
        let begun = tokio::task::spawn_blocking(move || {
            let mut seen = String::new();
            let mut byte = [0];
            while !seen.contains("begin") {
                if out.read(&mut byte).unwrap() == 0 {
                    break;
                }
                seen.push(char::from(byte[0]));
            }
        });
        begun.await.unwrap();
        // Longer each time: where one layer takes longer than that, none would ever be finished.
        let delay = 20 + rand::random_range(0..180 + 25 * rounds);
        tokio::time::sleep(Duration::from_millis(delay)).await;
        child.kill().unwrap();
        child.wait().unwrap();

        let mut before = layer_names(temp.path());
        before.retain(|name| !name.starts_with('.'));
        assert!(
            before.len() >= finished,
            "a finished layer was lost by the kill"
        );
        let cache = crate::open(crashing(temp.path()));
        assert_eq!(layer_names(temp.path()), before, "round {rounds}");
        finished = before.len();
        for name in &before {
            let digest: Digest = format!("sha256:{name}").parse().unwrap();
            let layer = image
                .layers
                .iter()
                .find(|layer| layer.digest == digest)
                .unwrap();
            let found = std::fs::read(temp.path().join("layers").join(name).join("image.erofs"));
            assert!(
                found.unwrap() == layer.erofs(),
                "half a layer under its name"
            );
        }
        for entry in std::fs::read_dir(temp.path().join("blobs")).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let bytes = std::fs::read(entry.path()).unwrap();
            assert_eq!(Digest::of(&bytes).hex(), name, "half a blob under its name");
        }
        assert_eq!(cache.usage().layers, finished);
    }
    assert_eq!(
        finished,
        image.layers.len(),
        "never got anywhere in {rounds} rounds"
    );
    assert!(rounds > 1, "was never killed in the middle");
    // What came before the kills is not fetched again.
    let cache = crate::open(crashing(temp.path()));
    let layers: u64 = image.layers.iter().map(|l| l.blob.len() as u64).sum();
    let receipt = cache
        .ensure(&source(&registry, &image), None, &silent())
        .await
        .unwrap();
    assert!(receipt.bytes_present >= layers, "{receipt:?}");
    assert_whole(&cache, &image);
}

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_and_damage_are_swept_at_start() {
    let temp = tempfile::tempdir().unwrap();
    let image = Image::new("whole", &[Layer::noise(1, 50_000, Packing::Plain)]);
    let other = Image::new("torn", &[Layer::noise(2, 50_000, Packing::Plain)]);
    let (registry, cache, _) = crate::pulled(temp.path(), settings(temp.path()), &image).await;
    drop(registry);
    let registry = Registry::start(&[&other]).await;
    cache
        .ensure(&source(&registry, &other), None, &silent())
        .await
        .unwrap();
    let second = Cache::open(settings(temp.path()));
    assert!(matches!(second, Err(CacheError::Locked(_))), "{second:?}");
    drop(cache);
    let layers = temp.path().join("layers");
    std::fs::create_dir_all(layers.join(".new-dead/fs/x")).unwrap();
    std::fs::create_dir_all(layers.join("ffff")).unwrap();
    std::fs::write(temp.path().join("images/.new-dead"), "{").unwrap();
    std::fs::write(temp.path().join("blobs/.new-dead"), "").unwrap();
    let record = temp
        .path()
        .join(format!("images/{}.json", other.digest.hex()));
    let text = std::fs::read_to_string(&record).unwrap();
    std::fs::write(&record, text.replace("amd64", "arm64")).unwrap();
    let cache = crate::open(settings(temp.path()));
    assert!(cache.has(&image.digest) && !cache.has(&other.digest));
    assert_whole(&cache, &image);
    // The layer of the damaged record is whole and stays, to be used or evicted.
    assert_eq!(layer_names(temp.path()).len(), 2);
    let spare = cache
        .listing()
        .items
        .into_iter()
        .find(|i| i.digest == other.layers[0].digest);
    assert!(spare.unwrap().why.starts_with("no image has it"));
    let receipt = cache
        .ensure(&source(&registry, &other), None, &silent())
        .await
        .unwrap();
    assert_eq!(receipt.bytes_present, other.layers[0].blob.len() as u64);
    // An image whose layer is gone is no image.
    drop(cache);
    std::fs::remove_dir_all(layers.join(image.layers[0].digest.hex())).unwrap();
    let cache = crate::open(settings(temp.path()));
    assert!(!cache.has(&image.digest) && cache.has(&other.digest));
}
