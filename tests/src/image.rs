//! Images on disk, made and read without any code of the project: OCI layouts, and the file tree
//! that their layers add up to.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use chalk_core::Digest;
use serde_json::{Value, json};
use tar::EntryType;

use crate::command::{run, tool};

/// An OCI layout directory with one image.
#[derive(Debug)]
pub struct Layout {
    folder: PathBuf,
}

impl Layout {
    /// A layout that is there.
    pub fn open(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// Its directory.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes a layout of plain tar layers with an image config (`config` of the OCI image
    /// configuration), for `linux/amd64`.
    pub fn write(folder: &Path, config: &Value, layers: &[Vec<u8>]) -> Self {
        let layout = Self::open(folder);
        let blobs = folder.join("blobs/sha256");
        fs::create_dir_all(&blobs).expect("make the layout");
        let diff_ids: Vec<String> = layers
            .iter()
            .map(|layer| Digest::of(layer).to_string())
            .collect();
        let layers: Vec<Value> = layers
            .iter()
            .map(|layer| layout.put("application/vnd.oci.image.layer.v1.tar", layer))
            .collect();
        let history: Vec<Value> = layers
            .iter()
            .map(|_| json!({"created_by": "test"}))
            .collect();
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids}, "history": history,
        });
        let config = layout.put(
            "application/vnd.oci.image.config.v1+json",
            config.to_string().as_bytes(),
        );
        let manifest_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": layers,
        });
        let manifest = layout.put(manifest_type, manifest.to_string().as_bytes());
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [manifest],
        });
        fs::write(folder.join("index.json"), index.to_string()).expect("write the index");
        let version = json!({"imageLayoutVersion": "1.0.0"}).to_string();
        fs::write(folder.join("oci-layout"), version).expect("write the version");
        layout
    }

    fn put(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        fs::write(self.folder.join("blobs/sha256").join(digest.hex()), bytes)
            .expect("write a blob");
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    fn blob(&self, descriptor: &Value) -> Vec<u8> {
        let digest = descriptor["digest"].as_str().expect("a digest");
        let path = self.folder.join("blobs").join(digest.replace(':', "/"));
        let bytes = fs::read(&path).expect("a blob");
        assert_eq!(Digest::of(&bytes).to_string(), digest, "{}", path.display());
        bytes
    }

    fn document(&self, descriptor: &Value) -> Value {
        serde_json::from_slice(&self.blob(descriptor)).expect("JSON")
    }

    /// The manifest.
    pub fn manifest(&self) -> Value {
        let index = fs::read(self.folder.join("index.json")).expect("an index");
        let index: Value = serde_json::from_slice(&index).expect("JSON");
        self.document(&index["manifests"][0])
    }

    /// The image configuration.
    pub fn config(&self) -> Value {
        self.document(&self.manifest()["config"])
    }

    /// Bytes of every layer, unpacked to plain tar.
    pub fn layers(&self) -> Vec<Vec<u8>> {
        let manifest = self.manifest();
        let layers = manifest["layers"].as_array().expect("layers");
        layers
            .iter()
            .map(|layer| unpacked(&self.blob(layer)))
            .collect()
    }

    /// What the layers add up to.
    pub fn files(&self) -> ImageFiles {
        let mut files = ImageFiles::default();
        for layer in self.layers() {
            files.add(&layer);
        }
        files
    }
}

/// Plain, gzip or zstd by its first bytes.
fn unpacked(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    match bytes {
        [0x1f, 0x8b, ..] => flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut plain),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            zstd::Decoder::new(bytes).and_then(|mut decoder| decoder.read_to_end(&mut plain))
        }
        _ => return bytes.to_vec(),
    }
    .expect("a layer that unpacks");
    plain
}

/// A file, directory, link or device of an image. Times are left out: they differ between builds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `file`, `dir`, `symlink`, `char`, `block` or `fifo`.
    pub kind: &'static str,
    /// Permission bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u64, u64),
    /// Digest of a file's contents, target of a symbolic link, else empty. A hard link is a file.
    pub contents: String,
    /// Extended attributes.
    pub attributes: BTreeMap<String, Vec<u8>>,
}

/// The tree of an image by path, without a leading `/` or `./`.
#[derive(Debug, Default)]
pub struct ImageFiles {
    /// Entries by path.
    pub entries: BTreeMap<String, Entry>,
}

impl ImageFiles {
    /// Applies a plain tar as the next layer (OCI image specification, `layer.md`).
    pub fn add(&mut self, layer: &[u8]) {
        let mut archive = tar::Archive::new(layer);
        // Whiteouts speak of the layers below, wherever they stand in their own.
        let mut fresh: BTreeMap<String, Entry> = BTreeMap::new();
        for entry in archive.entries().expect("a tar") {
            let mut entry = entry.expect("a tar entry");
            let path = clean(&entry.path_bytes());
            let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
            let inside = |name: &str| match folder {
                "" => name.to_owned(),
                folder => format!("{folder}/{name}"),
            };
            if name == ".wh..wh..opq" {
                self.remove_below(folder);
                continue;
            }
            if let Some(gone) = name.strip_prefix(".wh.") {
                let gone = inside(gone);
                self.remove_below(&gone);
                self.entries.remove(&gone);
                continue;
            }
            if path.is_empty() {
                continue;
            }
            let made = self.read(&mut entry, &fresh);
            if made.kind != "dir" {
                self.remove_below(&path);
            }
            fresh.insert(path, made);
        }
        self.entries.append(&mut fresh);
    }

    fn read(&self, entry: &mut tar::Entry<'_, &[u8]>, fresh: &BTreeMap<String, Entry>) -> Entry {
        let header = entry.header().clone();
        let link = entry
            .link_name_bytes()
            .map(std::borrow::Cow::into_owned)
            .unwrap_or_default();
        let mut attributes = BTreeMap::new();
        if let Some(extensions) = entry.pax_extensions().expect("pax headers") {
            for extension in extensions.flatten() {
                let name = extension.key().unwrap_or_default();
                if let Some(name) = name.strip_prefix("SCHILY.xattr.") {
                    attributes.insert(name.to_owned(), extension.value_bytes().to_vec());
                }
            }
        }
        let (kind, contents) = match header.entry_type() {
            EntryType::Directory => ("dir", String::new()),
            EntryType::Symlink => ("symlink", String::from_utf8_lossy(&link).into_owned()),
            EntryType::Char => ("char", String::new()),
            EntryType::Block => ("block", String::new()),
            EntryType::Fifo => ("fifo", String::new()),
            EntryType::Link => {
                let target = clean(&link);
                let target = fresh.get(&target).or_else(|| self.entries.get(&target));
                return target.expect("a hard link to what is there").clone();
            }
            _ => {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).expect("contents");
                ("file", Digest::of(&bytes).to_string())
            }
        };
        let owner = (header.uid().expect("uid"), header.gid().expect("gid"));
        Entry {
            kind,
            mode: header.mode().expect("mode") & 0o7777,
            owner,
            contents,
            attributes,
        }
    }

    fn remove_below(&mut self, folder: &str) {
        let inside = format!("{folder}/");
        self.entries
            .retain(|path, _| !(folder.is_empty() || path.starts_with(&inside)));
    }

    /// Expects the same tree, and says in which paths the two differ.
    #[track_caller]
    pub fn assert_same(&self, other: &Self) {
        let paths: std::collections::BTreeSet<&String> =
            self.entries.keys().chain(other.entries.keys()).collect();
        let differing: Vec<String> = paths
            .into_iter()
            .filter(|path| self.entries.get(*path) != other.entries.get(*path))
            .map(|path| {
                let (left, right) = (self.entries.get(path), other.entries.get(path));
                format!("{path}\n  left:  {left:?}\n  right: {right:?}")
            })
            .collect();
        assert!(
            differing.is_empty(),
            "the trees differ in\n{}",
            differing.join("\n")
        );
    }
}

fn clean(path: &[u8]) -> String {
    let path = String::from_utf8_lossy(path);
    let words = path
        .split('/')
        .filter(|word| !word.is_empty() && *word != ".");
    words.collect::<Vec<_>>().join("/")
}

/// Makes the layout of an image with a static busybox, its applets, and the files that a Linux
/// program looks for.
pub(crate) fn busybox_layout(folder: &Path) {
    let program = fs::read("/bin/busybox").expect("busybox-static is installed");
    let applets = run(&mut tool("/bin/busybox", ["--list"])).ok().stdout;
    let mut tar = tar::Builder::new(Vec::new());
    let mut put = |path: &str, kind: EntryType, mode: u32, bytes: &[u8], link: &str| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(bytes.len() as u64);
        if link.is_empty() {
            tar.append_data(&mut header, path, bytes)
                .expect("in memory");
        } else {
            tar.append_link(&mut header, path, link).expect("in memory");
        }
    };
    let dirs = [
        "bin", "dev", "etc", "home", "proc", "root", "sys", "usr", "usr/bin", "var",
    ];
    for dir in dirs {
        put(dir, EntryType::Directory, 0o755, b"", "");
    }
    put("tmp", EntryType::Directory, 0o1777, b"", "");
    put("bin/busybox", EntryType::Regular, 0o755, &program, "");
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        put(
            &format!("bin/{applet}"),
            EntryType::Symlink,
            0o777,
            b"",
            "busybox",
        );
    }
    let passwd = b"root:x:0:0:root:/root:/bin/sh\nworker:x:1000:1000::/home:/bin/sh\n";
    put("etc/passwd", EntryType::Regular, 0o644, passwd, "");
    put(
        "etc/group",
        EntryType::Regular,
        0o644,
        b"root:x:0:\nworker:x:1000:\n",
        "",
    );
    let layer = tar.into_inner().expect("in memory");
    let config = json!({"Env": ["PATH=/bin:/usr/bin"], "Cmd": ["sh"]});
    Layout::write(folder, &config, &[layer]);
}
