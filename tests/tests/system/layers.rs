//! Hostile base images: whatever their layers hold, nothing outside of the root is touched.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use chalk_tests::{Chalk, Layout, Project, World, unique};
use serde_json::json;
use tar::{EntryType, Header};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("paths_with_dots_are_refused", paths_with_dots_are_refused),
    ("links_lead_nowhere_outside", links_lead_nowhere_outside),
    ("device_nodes_give_no_device", device_nodes_give_no_device),
    ("a_gzip_bomb_is_stopped", a_gzip_bomb_is_stopped),
    (
        "a_layer_that_is_not_what_the_config_says_is_refused",
        diff_id_mismatch,
    ),
];

/// An entry of a layer, its path unchecked, as an attacker would write it.
struct Evil<'a> {
    path: &'a str,
    kind: EntryType,
    link: &'a str,
    text: &'a str,
    device: (u32, u32),
}

fn file<'a>(path: &'a str, text: &'a str) -> Evil<'a> {
    Evil {
        path,
        kind: EntryType::Regular,
        link: "",
        text,
        device: (0, 0),
    }
}

fn link<'a>(path: &'a str, kind: EntryType, link: &'a str) -> Evil<'a> {
    Evil {
        path,
        kind,
        link,
        text: "",
        device: (0, 0),
    }
}

fn layer(entries: &[Evil<'_>]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = Header::new_ustar();
        let name = &mut header.as_old_mut().name;
        name[..entry.path.len()].copy_from_slice(entry.path.as_bytes());
        let target = &mut header.as_old_mut().linkname;
        target[..entry.link.len()].copy_from_slice(entry.link.as_bytes());
        header.set_entry_type(entry.kind);
        header.set_mode(0o666);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(entry.text.len() as u64);
        header.set_device_major(entry.device.0).unwrap();
        header.set_device_minor(entry.device.1).unwrap();
        header.set_cksum();
        tar.append(&header, entry.text.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

/// The small base with hostile layers on top, as a layout.
fn hostile(world: &World, layers: &[Vec<u8>]) -> std::path::PathBuf {
    let folder = world.folder("hostile");
    let mut all = Layout::open(world.busybox_layout()).layers();
    all.extend_from_slice(layers);
    Layout::write(&folder, &json!({"Env": ["PATH=/bin"]}), &all);
    folder
}

/// What came of importing a base and building on it.
struct Tried {
    ran: chalk_tests::Ran,
    imported: bool,
}

/// Imports a base and runs a step on it, which reads and writes what the layers set up.
fn attempt(world: &World, layers: &[Vec<u8>], step: &str) -> Tried {
    let service = world.service();
    let reference = format!("example.com/evil/base:{}", unique());
    let folder = hostile(world, layers).display().to_string();
    let ran = service.image(&["import", &folder, "--as", &reference]);
    if !ran.status.success() {
        return Tried {
            ran,
            imported: false,
        };
    }
    let project = Project::toml(&format!(
        "[image]\nbase = \"{reference}\"\n[[step]]\nrun_commands = ['''{step}''']\n"
    ));
    let ran = service.image(&["build", &project.arg("image.toml"), "--progress", "plain"]);
    Tried {
        ran,
        imported: true,
    }
}

fn paths_with_dots_are_refused(world: &World) {
    let canary = format!("canary-{}", unique());
    let climbs = [
        "../",
        "../../../../../../../../../../../../tmp/",
        "etc/../../../",
        "/../",
        "./../../",
    ];
    for climb in climbs {
        let path = format!("{climb}{canary}");
        let tried = attempt(world, &[layer(&[file(&path, "escaped")])], "true");
        assert!(
            !tried.ran.status.success(),
            "{path} was taken: {}",
            tried.ran
        );
        assert!(tried.ran.stderr.contains(".."), "{}", tried.ran);
    }
    let state = world.service().state();
    for folder in [
        state,
        state.parent().unwrap(),
        Path::new("/"),
        Path::new("/tmp"),
        Path::new("/etc"),
    ] {
        assert!(
            !folder.join(&canary).exists(),
            "{} was written to",
            folder.display()
        );
    }
}

fn links_lead_nowhere_outside(world: &World) {
    let outside = world.folder("outside");
    let target = outside.display().to_string();
    assert!(target.len() < 90, "fits into a tar header: {target}");
    let secret = format!("host secret {}", unique());
    fs::write(outside.join("secret"), &secret).unwrap();
    let inside = fs::metadata(outside.join("secret")).unwrap();
    let secret_path = format!("{target}/secret");

    // A file written through a link of a lower layer, of the same layer, and by a relative way.
    let climbing = format!("../../../../../../../../../../../..{target}");
    for way in [&target, &climbing] {
        let escape = link("escape", EntryType::Symlink, way);
        let two = [
            layer(&[escape]),
            layer(&[file("escape/written", "escaped")]),
        ];
        attempt(world, &two, "true");
        let one = [layer(&[
            link("escape", EntryType::Symlink, way),
            file("escape/written", "escaped"),
        ])];
        attempt(world, &one, "true");
        // A step that follows the link stays in its own root.
        let only = [layer(&[link("escape", EntryType::Symlink, way)])];
        let read = attempt(
            world,
            &only,
            "cat /escape/secret; echo escaped > /escape/written; true",
        );
        assert!(!read.ran.stderr.contains(&secret), "{}", read.ran);
    }
    // Hard links to files of the host.
    for way in [
        secret_path.as_str(),
        &format!("../../../../../../../../../../../..{secret_path}"),
        "/etc/hostname",
    ] {
        let hard = [layer(&[link("hard", EntryType::Link, way)])];
        let tried = attempt(world, &hard, "cat /hard; echo escaped >> /hard");
        assert!(
            !tried.ran.status.success(),
            "a hard link to {way}: {}",
            tried.ran
        );
        assert!(!tried.ran.stderr.contains(&secret), "{}", tried.ran);
    }
    // A whiteout through a link.
    let whiteout = [
        layer(&[link("escape", EntryType::Symlink, &target)]),
        layer(&[file("escape/.wh.secret", "")]),
    ];
    attempt(world, &whiteout, "true");

    assert_eq!(fs::read_to_string(outside.join("secret")).unwrap(), secret);
    let now = fs::metadata(outside.join("secret")).unwrap();
    assert_eq!(now.nlink(), inside.nlink(), "nobody linked to it");
    let names: Vec<_> = fs::read_dir(&outside)
        .unwrap()
        .flatten()
        .map(|e| e.file_name())
        .collect();
    assert_eq!(names, ["secret"], "nothing was written outside");
    // A destination of ours that passes through a link stays in the root too.
    let service = world.service();
    let reference = format!("example.com/evil/base:{}", unique());
    let folder = hostile(
        world,
        &[layer(&[link("escape", EntryType::Symlink, &target)])],
    );
    service
        .image(&["import", &folder.display().to_string(), "--as", &reference])
        .ok();
    let project = Project::toml(&format!(
        "[image]\nbase = \"{reference}\"\nworkdir = \"/escape/deep\"\n[[step]]\n\
         add_local_file = {{ src = \"image.toml\", dest = \"/escape/copied\", strategy = \"copy\" }}\n\
         [[step]]\nrun_commands = [\"pwd\"]\n"
    ));
    service.image(&["build", &project.arg("image.toml")]);
    let names: Vec<_> = fs::read_dir(&outside)
        .unwrap()
        .flatten()
        .map(|e| e.file_name())
        .collect();
    assert_eq!(names, ["secret"], "nothing was copied outside");
}

fn device_nodes_give_no_device(world: &World) {
    let disk = fs::metadata("/").unwrap().dev();
    let (major, minor) = (
        (disk >> 8 & 0xfff) as u32,
        (disk & 0xff | disk >> 12 & 0xfff00) as u32,
    );
    let device = |path, kind, device| Evil {
        path,
        kind,
        link: "",
        text: "",
        device,
    };
    let layers = [layer(&[
        device("disk", EntryType::Block, (major, minor)),
        device("memory", EntryType::Char, (1, 1)),
        device("kmsg", EntryType::Char, (1, 11)),
    ])];
    let step = "for node in /disk /memory /kmsg; do if head -c 1 $node > /dev/null 2>&1; \
                then echo OPENED $node; fi; done";
    let tried = attempt(world, &layers, step);
    assert!(!tried.ran.stderr.contains("OPENED /"), "{}", tried.ran);
    assert!(
        tried.imported,
        "device nodes are left out or inert, as in Docker: {}",
        tried.ran
    );
    tried.ran.ok();
}

fn a_gzip_bomb_is_stopped(world: &World) {
    // One file of 40 GB of zeros: a gzip member of 64 MiB, again and again.
    let member = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let size: u64 = 40 << 30;
    let mut header = Header::new_gnu();
    header.set_path("zeros").unwrap();
    header.set_mode(0o644);
    header.set_size(size);
    header.set_cksum();
    let mut bomb = member(header.as_bytes());
    let zeros = member(&vec![0; 64 << 20]);
    let members = size / (64 << 20);
    for _ in 0..members {
        bomb.extend_from_slice(&zeros);
    }
    bomb.extend(member(&[0; 1024]));
    let project = Project::new(&[]);
    project.write("bomb.tar.gz", &bomb);
    let state = world.folder("bomb");
    let import = [
        "compute",
        "image",
        "import",
        &project.arg("bomb.tar.gz"),
        "--as",
        "bomb:1",
    ];
    Chalk::on(&state)
        .args(import)
        .run()
        .code(2)
        .says(&["limit"]);
    let used =
        chalk_tests::run(chalk_tests::tool("du", ["--summarize", "--block-size=1M"]).arg(&state))
            .ok();
    let used: u64 = used
        .stdout
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(
        used < 300,
        "{used} MiB stay of a bomb of {} bytes",
        bomb.len()
    );
}

fn diff_id_mismatch(world: &World) {
    let folder = hostile(world, &[layer(&[file("fine", "fine")])]);
    let layout = Layout::open(&folder);
    // The config of another image: the layers are whole, but not those that it names.
    let other = hostile(world, &[layer(&[file("other", "other")])]);
    let other = Layout::open(&other);
    let mut manifest = layout.manifest();
    manifest["config"] = other.manifest()["config"].clone();
    let from = other.manifest()["config"]["digest"]
        .as_str()
        .unwrap()
        .replace(':', "/");
    let config = serde_json::to_vec(&other.config()).unwrap();
    fs::write(folder.join("blobs").join(&from), config).unwrap();
    let bytes = manifest.to_string();
    let digest = chalk_core::Digest::of(bytes.as_bytes());
    fs::write(folder.join("blobs/sha256").join(digest.hex()), &bytes).unwrap();
    let index = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": bytes.len(),
    }]});
    fs::write(folder.join("index.json"), index.to_string()).unwrap();
    let service = world.service();
    let reference = format!("example.com/evil/base:{}", unique());
    let imported = service.image(&["import", &folder.display().to_string(), "--as", &reference]);
    if imported.status.success() {
        let project = Project::toml(&format!(
            "[image]\nbase = \"{reference}\"\n[[step]]\nrun_commands = [\"true\"]\n"
        ));
        let built = service.image(&["build", &project.arg("image.toml")]);
        assert!(!built.status.success(), "{built}");
        built.says(&["sha256:"]);
    } else {
        imported.says(&["sha256:"]);
    }
}
