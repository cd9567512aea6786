//! Images as files, in every format, by ourselves and by other programs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use chalk_core::{Digest, Platform};
use chalk_store::BlobStore;
use chalk_store::archive::{
    ArchiveError, Format, ImportOptions, Imported, export_docker, export_layout, export_oci,
    import, import_stream,
};
use chalk_store::layer::{Compression, LayerError, PackOptions, pack_to};
use serde_json::{Value, json};

struct Place {
    temp: tempfile::TempDir,
    store: BlobStore,
}

impl Place {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let store = BlobStore::open(temp.path().join("store")).unwrap();
        Self { temp, store }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    /// A small root as a tar, plain or compressed.
    fn rootfs(&self, compression: Compression) -> PathBuf {
        let dir = self.path("rootfs");
        fs::create_dir_all(dir.join("etc")).unwrap();
        fs::create_dir_all(dir.join("usr/bin")).unwrap();
        fs::write(dir.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
        fs::write(dir.join("usr/bin/tool"), vec![1; 100_000]).unwrap();
        let mut bytes = Vec::new();
        pack_to(&dir, &mut bytes, &PackOptions::default(), &mut |_| false).unwrap();
        let bytes = match compression {
            Compression::None => bytes,
            Compression::Zstd(_) => zstd::encode_all(&bytes[..], 3).unwrap(),
            Compression::Gzip(_) => {
                let mut out = flate2::read::GzEncoder::new(&bytes[..], flate2::Compression::fast());
                let mut packed = Vec::new();
                std::io::Read::read_to_end(&mut out, &mut packed).unwrap();
                packed
            }
        };
        let path = self.path("rootfs.tar");
        fs::write(&path, bytes).unwrap();
        path
    }

    fn image(&self) -> Imported {
        let path = self.rootfs(Compression::None);
        import(&self.store, &path, &ImportOptions::default()).unwrap()
    }

    fn json(&self, digest: &Digest) -> Value {
        serde_json::from_slice(&self.store.read_small(digest, 1 << 20).unwrap()).unwrap()
    }
}

fn diff_ids(image: &Imported) -> Vec<Digest> {
    image.layers.iter().map(|l| l.diff_id).collect()
}

fn names() -> Vec<String> {
    vec!["example.org/app:1".to_owned()]
}

#[test]
fn root_file_systems_become_images() {
    let mut found = Vec::new();
    for (given, media_type) in [
        (
            Compression::None,
            "application/vnd.oci.image.layer.v1.tar+zstd",
        ),
        (
            Compression::Gzip(1),
            "application/vnd.oci.image.layer.v1.tar+gzip",
        ),
        (
            Compression::Zstd(3),
            "application/vnd.oci.image.layer.v1.tar+zstd",
        ),
    ] {
        let place = Place::new();
        let path = place.rootfs(given);
        let options = ImportOptions {
            platform: "linux/arm64".parse().unwrap(),
            ..ImportOptions::default()
        };
        let image = import(&place.store, &path, &options).unwrap();
        assert_eq!(image.format, Format::RootFs);
        assert_eq!(image.layers[0].media_type, media_type);
        if given != Compression::None {
            assert_eq!(
                image.layers[0].blob.digest,
                Digest::of(&fs::read(&path).unwrap())
            );
        }
        let config = place.json(&image.config.digest);
        assert_eq!(config["architecture"], "arm64");
        assert_eq!(config["rootfs"]["diff_ids"], json!(diff_ids(&image)));
        assert_eq!(config["config"]["Cmd"], json!(["/bin/sh"]));
        found.push(diff_ids(&image));
        // The same from a stream.
        let file = File::open(&path).unwrap();
        let streamed = import_stream(&place.store, file, &options).unwrap();
        assert_eq!(streamed.manifest, image.manifest);
    }
    // Times differ, so do the trees; but within a place plain and packed are one tree.
    assert!(found.iter().all(|ids| ids.len() == 1));
}

#[test]
fn exports_come_back() {
    let place = Place::new();
    let image = place.image();
    let layout = place.path("layout");
    export_layout(&place.store, &image.manifest.digest, &names(), &layout).unwrap();
    let error = export_layout(&place.store, &image.manifest.digest, &[], &layout).unwrap_err();
    assert!(matches!(error, ArchiveError::NotEmpty(_)));

    let mut oci = Vec::new();
    export_oci(&place.store, &image.manifest.digest, &names(), &mut oci).unwrap();
    fs::write(place.path("oci.tar"), &oci).unwrap();
    fs::write(
        place.path("oci.tar.zst"),
        zstd::encode_all(&oci[..], 1).unwrap(),
    )
    .unwrap();
    let mut docker = Vec::new();
    export_docker(&place.store, &image.manifest.digest, &names(), &mut docker).unwrap();
    fs::write(place.path("docker.tar"), &docker).unwrap();

    for (name, format) in [
        ("layout", Format::Oci),
        ("oci.tar", Format::Oci),
        ("oci.tar.zst", Format::Oci),
        ("docker.tar", Format::Docker),
    ] {
        let other = Place::new();
        let back = import(&other.store, &place.path(name), &ImportOptions::default()).unwrap();
        assert_eq!((back.format, &back.names), (format, &names()), "{name}");
        assert_eq!(diff_ids(&back), diff_ids(&image), "{name}");
        assert_eq!(back.config, image.config, "{name}");
        if format == Format::Oci {
            assert_eq!(back.manifest, image.manifest, "{name}");
        }
        // What came in is whole: it can go out again.
        let mut again = Vec::new();
        export_docker(&other.store, &back.manifest.digest, &names(), &mut again).unwrap();
        assert!(again == docker, "{name}");
    }
}

/// Writes a layout whose index holds `manifests`, blobs from the place's store.
fn layout(place: &Place, name: &str, manifests: &[Value], blobs: &[Digest]) -> PathBuf {
    let dir = place.path(name);
    fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
    for digest in blobs {
        fs::copy(
            place.store.path(digest),
            dir.join("blobs/sha256").join(digest.hex()),
        )
        .unwrap();
    }
    let index = json!({ "schemaVersion": 2, "manifests": manifests });
    fs::write(dir.join("index.json"), index.to_string()).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    dir
}

fn descriptor(image: &Imported, platform: Option<&str>) -> Value {
    let mut value = json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": image.manifest.digest,
        "size": image.manifest.size,
    });
    if let Some((os, architecture)) = platform.and_then(|p| p.split_once('/')) {
        value["platform"] = json!({ "os": os, "architecture": architecture });
    }
    value
}

fn blobs(image: &Imported) -> Vec<Digest> {
    let layers = image.layers.iter().map(|l| l.blob.digest);
    [image.manifest.digest, image.config.digest]
        .into_iter()
        .chain(layers)
        .collect()
}

#[test]
fn the_platform_picks_the_image() {
    let place = Place::new();
    let amd = place.image();
    let arm_options = ImportOptions {
        platform: "linux/arm64".parse().unwrap(),
        ..ImportOptions::default()
    };
    let arm = import(&place.store, &place.path("rootfs.tar"), &arm_options).unwrap();
    let index = [
        descriptor(&amd, Some("linux/amd64")),
        descriptor(&arm, Some("linux/arm64")),
    ];
    let all = [blobs(&amd), blobs(&arm)].concat();
    let dir = layout(&place, "both", &index, &all);
    for (options, expect) in [
        (ImportOptions::default(), &amd),
        (arm_options.clone(), &arm),
    ] {
        let found = import(&Place::new().store, &dir, &options).unwrap();
        assert_eq!(found.manifest, expect.manifest);
        assert_eq!(found.platform, options.platform);
    }
    let riscv: Platform = "linux/riscv64".parse().unwrap();
    let options = ImportOptions {
        platform: riscv,
        ..ImportOptions::default()
    };
    let error = import(&Place::new().store, &dir, &options).unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no image for linux/riscv64, only for linux/amd64, linux/arm64"
    );
    // An index that does not say: the config does.
    let dir = layout(&place, "unsaid", &[descriptor(&amd, None)], &blobs(&amd));
    let error = import(&Place::new().store, &dir, &arm_options).unwrap_err();
    assert!(matches!(error, ArchiveError::Platform { .. }));
}

#[test]
fn names_pick_the_image() {
    let place = Place::new();
    let image = place.image();
    let mut index = [descriptor(&image, None), descriptor(&image, None)];
    index[1]["digest"] = json!(image.config.digest);
    for (entry, name) in index.iter_mut().zip(["one", "two"]) {
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
    }
    let dir = layout(&place, "named", &index, &blobs(&image));
    let with = |name: Option<&str>| {
        let name = name.map(str::to_owned);
        let options = ImportOptions {
            name,
            ..ImportOptions::default()
        };
        import(&Place::new().store, &dir, &options)
    };
    assert_eq!(with(Some("one")).unwrap().manifest, image.manifest);
    let error = with(Some("three")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no image called `three`, only one, two"
    );
    let error = with(None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "there are several images (one, two); say which"
    );
}

#[test]
fn dockers_types_become_ocis() {
    let place = Place::new();
    let image = place.image();
    let mut manifest = place.json(&image.manifest.digest);
    manifest["mediaType"] = json!("application/vnd.docker.distribution.manifest.v2+json");
    manifest["config"]["mediaType"] = json!("application/vnd.docker.container.image.v1+json");
    manifest["layers"][0]["mediaType"] = json!("application/vnd.docker.image.rootfs.diff.tar.zstd");
    let blob = place.store.put(manifest.to_string().as_bytes()).unwrap();
    let mut entry = descriptor(&image, None);
    entry["digest"] = json!(blob.digest);
    entry["size"] = json!(blob.size);
    entry["mediaType"] = manifest["mediaType"].clone();
    let all = [blobs(&image), vec![blob.digest]].concat();
    let dir = layout(&place, "docker", &[entry], &all);
    let found = import(&Place::new().store, &dir, &ImportOptions::default()).unwrap();
    assert_eq!(found.rewritten_from, Some(blob.digest));
    assert_eq!(found.manifest, image.manifest);
}

#[test]
fn damage_is_named() {
    let place = Place::new();
    let image = place.image();
    let check = |name: &str, change: &dyn Fn(&Path), expect: &str| {
        let dir = layout(&place, name, &[descriptor(&image, None)], &blobs(&image));
        change(&dir);
        let error = import(&Place::new().store, &dir, &ImportOptions::default()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(expect), "{name}: {text}");
    };
    let layer = format!("blobs/sha256/{}", image.layers[0].blob.digest.hex());
    let config = format!("blobs/sha256/{}", image.config.digest.hex());
    check(
        "no layer",
        &|d| fs::remove_file(d.join(&layer)).unwrap(),
        "which is not in the archive",
    );
    check(
        "bad layer",
        &|d| fs::write(d.join(&layer), "x").unwrap(),
        "but its 1 bytes hash to",
    );
    check(
        "bad config",
        &|d| fs::write(d.join(&config), "{}").unwrap(),
        "but its 2 bytes hash to",
    );
    check(
        "bad index",
        &|d| fs::write(d.join("index.json"), "{").unwrap(),
        "index.json is no image index",
    );
    check(
        "no index",
        &|d| fs::remove_file(d.join("index.json")).unwrap(),
        "holds no image",
    );
    check(
        "sha512",
        &|d| {
            let index = fs::read_to_string(d.join("index.json")).unwrap();
            fs::write(d.join("index.json"), index.replace("sha256:", "sha512:")).unwrap();
        },
        "index.json",
    );
    let empty = place.path("empty.tar");
    fs::write(&empty, [0; 1024]).unwrap();
    let error = import(&place.store, &empty, &ImportOptions::default()).unwrap_err();
    assert!(matches!(error, ArchiveError::NotAnImage { .. }));
    fs::write(&empty, "no tar at all").unwrap();
    let error = import(&place.store, &empty, &ImportOptions::default()).unwrap_err();
    assert!(matches!(
        error,
        ArchiveError::Layer(LayerError::Format { .. })
    ));
}

#[test]
fn config_and_layers_must_agree() {
    let place = Place::new();
    let image = place.image();
    for (ids, expect) in [
        (json!([Digest::of(b"other")]), "but the image's config says"),
        (json!([]), "another number of layers"),
        (
            json!([image.layers[0].diff_id, image.layers[0].diff_id]),
            "another number of layers",
        ),
    ] {
        let mut config = place.json(&image.config.digest);
        config["rootfs"]["diff_ids"] = ids;
        let config = place.store.put(config.to_string().as_bytes()).unwrap();
        let mut manifest = place.json(&image.manifest.digest);
        manifest["config"]["digest"] = json!(config.digest);
        manifest["config"]["size"] = json!(config.size);
        let blob = place.store.put(manifest.to_string().as_bytes()).unwrap();
        let mut entry = descriptor(&image, None);
        entry["digest"] = json!(blob.digest);
        entry["size"] = json!(blob.size);
        let all = [blobs(&image), vec![blob.digest, config.digest]].concat();
        let dir = layout(&place, &blob.digest.hex(), &[entry], &all);
        let error = import(&Place::new().store, &dir, &ImportOptions::default()).unwrap_err();
        assert!(error.to_string().contains(expect), "{error}");
    }
}

/// `skopeo` reads what we write, and we what it writes.
#[test]
#[ignore = "needs skopeo"]
fn skopeo_agrees() {
    let place = Place::new();
    let path = place.rootfs(Compression::None);
    // skopeo of Debian 12 cannot turn zstd layers into Docker's.
    let options = ImportOptions {
        compression: Compression::Gzip(6),
        ..ImportOptions::default()
    };
    let image = import(&place.store, &path, &options).unwrap();
    let manifest = image.manifest.digest;
    export_layout(&place.store, &manifest, &[], &place.path("layout")).unwrap();
    let mut file = File::create(place.path("oci.tar")).unwrap();
    export_oci(&place.store, &manifest, &names(), &mut file).unwrap();
    let mut file = File::create(place.path("docker.tar")).unwrap();
    export_docker(&place.store, &manifest, &names(), &mut file).unwrap();
    let copy = |from: &str, to: &str| {
        let (from_kind, from) = from.split_once(':').unwrap();
        let (to_kind, to) = to.split_once(':').unwrap();
        let output = Command::new("skopeo")
            .args(["--insecure-policy", "copy"])
            .arg(format!("{from_kind}:{}", place.path(from).display()))
            .arg(format!("{to_kind}:{}", place.path(to).display()))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    for (from, to) in [
        ("oci:layout", "docker-archive:from-layout.tar"),
        ("oci-archive:oci.tar", "oci:from-oci"),
        ("docker-archive:docker.tar", "oci:from-docker"),
        ("docker-archive:docker.tar", "oci-archive:from-docker.tar"),
    ] {
        copy(from, to);
        let path = place.path(to.split_once(':').unwrap().1);
        let back = import(&Place::new().store, &path, &ImportOptions::default()).unwrap();
        assert_eq!(diff_ids(&back), diff_ids(&image), "{from} to {to}");
    }
}
