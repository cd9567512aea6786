//! Not part of the suite: how long a pull takes, against its parts.
//! `CHALK_LAYER=layer.tar cargo test -p chalk-node --test cache measure -- --ignored --nocapture`

use std::time::Instant;

use chalk_node::CacheForm;
use chalk_node::cache::CacheSettings;

use crate::registry::{Image, Layer, Packing, Registry};
use crate::{settings, silent, source};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn pull() {
    let tar = std::fs::read(std::env::var_os("CHALK_LAYER").unwrap()).unwrap();
    for (name, packing) in [
        ("plain", Packing::Plain),
        ("zstd", Packing::Zstd),
        ("gzip", Packing::Gzip),
    ] {
        let image = Image::new(name, &[Layer::of(tar.clone(), packing)]);
        let registry = Registry::start(&[&image]).await;
        for form in [CacheForm::Erofs, CacheForm::Directory] {
            for mirror_bytes in [0, 1 << 30] {
                let mut times = Vec::new();
                for _ in 0..3 {
                    let temp = tempfile::tempdir().unwrap();
                    let settings = CacheSettings {
                        form,
                        mirror_bytes,
                        ..settings(temp.path())
                    };
                    let cache = crate::open(settings);
                    let begin = Instant::now();
                    let source = source(&registry, &image);
                    cache.ensure(&source, None, &silent()).await.unwrap();
                    times.push(begin.elapsed());
                }
                times.sort();
                let size = image.size();
                println!(
                    "{name} {size} {form:?} mirror {mirror_bytes}: {:?}",
                    times[1]
                );
            }
        }
    }
}
