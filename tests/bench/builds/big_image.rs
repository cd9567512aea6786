//! A big image that is quickly made: its files repeat, but far enough apart that no compressor finds
//! out.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use chalk_core::Digest;
use chalk_tests::Layout;
use flate2::Compression;
use flate2::write::GzEncoder;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::copied::mixed;

/// Layers that the files are in.
pub(super) const LAYERS: usize = 8;
/// Bytes of one file, and how many different ones there are.
const FILE: usize = 16 << 20;
const DIFFERENT: usize = 4;
/// Bytes of a block of a tar.
const BLOCK: usize = 512;

/// Bytes, and the same as a member of a gzip stream.
struct Member {
    plain: Vec<u8>,
    packed: Vec<u8>,
}

impl Member {
    fn new(plain: Vec<u8>) -> Self {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
        encoder.write_all(&plain).unwrap();
        let packed = encoder.finish().unwrap();
        Self { plain, packed }
    }
}

/// Writes the layout of an image with the layers of another and that many bytes of files in `/data`.
/// Gives a command that succeeds where the files are what they should be.
pub(super) fn write(below: &Path, folder: &Path, bytes: usize) -> String {
    let mut random = StdRng::seed_from_u64(3);
    let files: Vec<Member> = (0..DIFFERENT)
        .map(|_| Member::new(mixed(&mut random, FILE)))
        .collect();
    let layout = Layout::write(
        folder,
        &json!({"Env": ["PATH=/bin"]}),
        &Layout::open(below).layers(),
    );
    let (mut config, mut manifest) = (layout.config(), layout.manifest());
    let each = (bytes / LAYERS).div_ceil(FILE);
    let (mut sums, mut count) = (String::new(), 0);
    for layer in 0..LAYERS {
        let mut out = Writer::new(folder);
        for number in 0..each {
            // Every layer begins with another file.
            let file = &files[(layer + number) % DIFFERENT];
            let path = format!("data/{layer}/{number}.bin");
            out.add(&header(&path));
            out.add(file);
            if number == 0 {
                let _ = write!(sums, " {} /{path}", Digest::of(&file.plain).hex());
            }
            count += 1;
        }
        out.add(&Member::new(vec![0; 2 * BLOCK]));
        let (diff_id, descriptor) = out.finish();
        push(
            &mut config["rootfs"]["diff_ids"],
            diff_id.to_string().into(),
        );
        push(&mut config["history"], json!({"created_by": "test"}));
        push(&mut manifest["layers"], descriptor);
    }
    let kind = manifest["config"]["mediaType"].clone();
    manifest["config"] = put(folder, &kind, &config);
    let index = folder.join("index.json");
    let mut entry: Value = serde_json::from_slice(&fs::read(&index).unwrap()).unwrap();
    let kind = manifest["mediaType"].clone();
    entry["manifests"] = json!([put(folder, &kind, &manifest)]);
    fs::write(index, entry.to_string()).unwrap();
    format!("test $(ls /data/*/*.bin | wc -l) = {count} && printf '%s  %s\\n'{sums} | sha256sum -c")
}

fn push(list: &mut Value, value: Value) {
    list.as_array_mut().unwrap().push(value);
}

/// Header of one of the files.
fn header(path: &str) -> Member {
    let mut header = tar::Header::new_ustar();
    header.set_path(path).unwrap();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(FILE as u64);
    header.set_mtime(1_700_000_000);
    header.set_cksum();
    Member::new(header.as_bytes().to_vec())
}

fn put(folder: &Path, media_type: &Value, document: &Value) -> Value {
    let bytes = document.to_string().into_bytes();
    let digest = Digest::of(&bytes);
    fs::write(blobs(folder).join(digest.hex()), &bytes).unwrap();
    json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
}

fn blobs(folder: &Path) -> std::path::PathBuf {
    folder.join("blobs/sha256")
}

/// A layer on its way into a layout.
struct Writer<'a> {
    folder: &'a Path,
    out: BufWriter<File>,
    plain: Sha256,
    packed: Sha256,
    size: usize,
}

impl<'a> Writer<'a> {
    fn new(folder: &'a Path) -> Self {
        Self {
            folder,
            out: BufWriter::new(File::create(folder.join("new")).unwrap()),
            plain: Sha256::new(),
            packed: Sha256::new(),
            size: 0,
        }
    }

    fn add(&mut self, member: &Member) {
        self.plain.update(&member.plain);
        self.packed.update(&member.packed);
        self.size += member.packed.len();
        self.out.write_all(&member.packed).unwrap();
    }

    /// Its `diff_id`, and its descriptor in a manifest.
    fn finish(mut self) -> (Digest, Value) {
        self.out.flush().unwrap();
        let digest = Digest::from_bytes(self.packed.finalize().into());
        let (from, to) = (self.folder.join("new"), blobs(self.folder));
        fs::rename(from, to.join(digest.hex())).unwrap();
        let descriptor = json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": digest, "size": self.size,
        });
        (Digest::from_bytes(self.plain.finalize().into()), descriptor)
    }
}
