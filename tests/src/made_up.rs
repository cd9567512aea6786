//! Images of made-up layers in a service's registry.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::image::Layout;
use crate::service::Service;
use crate::world::{World, unique};

/// An image in a registry that holds the small base and made-up files above it.
#[derive(Debug)]
pub struct MadeUp {
    /// Image hash.
    pub hash: String,
    /// Digest of its manifest.
    pub digest: String,
    /// What it is pulled by.
    pub image: String,
    /// Bytes of its layers as stored.
    pub size: u64,
    /// OCI layout with the blobs of its layers.
    pub layout: PathBuf,
}

/// A layer with one file `/NAME` of as many bytes, which nothing compresses; they differ from name
/// to name and are the same each time.
pub fn noise(name: &str, bytes: usize) -> Vec<u8> {
    let mut seed: u64 = name.bytes().fold(0x9e37_79b9_7f4a_7c15, |sum, byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let noise = std::iter::repeat_with(|| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed.to_le_bytes()
    });
    let noise: Vec<u8> = noise
        .take(bytes.div_ceil(8))
        .flatten()
        .take(bytes)
        .collect();
    let mut tar = tar::Builder::new(Vec::with_capacity(bytes + 4096));
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(bytes as u64);
    header.set_mtime(1_700_000_000);
    tar.append_data(&mut header, name, &*noise)
        .expect("in memory");
    tar.into_inner().expect("in memory")
}

impl MadeUp {
    /// Imports and builds the small base with further layers.
    #[track_caller]
    pub fn new(world: &World, service: &Service, layers: &[Vec<u8>]) -> Self {
        Self::with_config(world, service, layers, &json!({"Env": ["PATH=/bin"]}))
    }

    /// The same with an image config of the test's own.
    #[track_caller]
    pub fn with_config(
        world: &World,
        service: &Service,
        layers: &[Vec<u8>],
        config: &Value,
    ) -> Self {
        let layout = world.folder("made-up");
        let mut all = Layout::open(world.busybox_layout()).layers();
        all.extend_from_slice(layers);
        Layout::write(&layout, config, &all);
        drop(all);
        let reference = format!("example.com/made-up:{}", unique());
        let path = layout.display().to_string();
        service.image(&["import", &path, "--as", &reference]).ok();
        let declaration = layout.join("image.toml");
        fs::write(&declaration, format!("[image]\nbase = \"{reference}\"\n")).expect("write");
        let built = service.build(&declaration.display().to_string());
        let text = |key: &str| built[key].as_str().expect("a built image").to_owned();
        let hash = text("image_hash");
        let detail = service.get(&format!("/v1/images/{hash}"));
        Self {
            digest: text("digest"),
            image: text("image"),
            size: detail["size"].as_u64().expect("a size"),
            hash,
            layout,
        }
    }
}
