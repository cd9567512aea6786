//! State directories of other versions: those of before are opened and kept whole, those of later ones
//! refused and left as they are.

use std::fs;
use std::path::Path;

use chalk_tests::{Chalk, Project, Service, World, request, run, tool, wait_until};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("what_version_1_wrote_is_kept", what_version_1_wrote),
    ("what_a_newer_chalk_wrote_is_refused", what_a_newer_wrote),
];

/// A state directory as chalk 0.1.0 left it, whose nodes did not mark theirs: the base `local/tiny:1`, the
/// image `old/app:v1` built by the declaration below, a token, and a node that has the image, pinned, as
/// directories. Made by `chalk serve --node --set node.cache_form=directory` and `image import`, `image
/// build`, `token create`, `image warm --pin`. It is never made anew: a new layout gets one of its own.
const VERSION_1: &[u8] = include_bytes!("state-1.tar.zst");
const DECLARATION: &str = r#"
[image]
base = "local/tiny:1"

[[step]]
add_local_file = { src = "greeting", dest = "/etc/greeting", strategy = "copy" }
"#;
const IMAGE: &str = "sha256:ad6516a6dad87762afb69b050e2b1e2ed97ae62b9abf50e5e6c38533125b7713";
/// Of the role `read`; it opens nothing but that directory.
const TOKEN: &str = "cht_Ztn4a4zTKmns1S5KxMkmaytKfOU_o6NHX1MBe-TMoE0";

fn what_version_1_wrote(world: &World) {
    let folder = world.folder("version-1");
    let archive = folder.join("state.tar.zst");
    fs::write(&archive, VERSION_1).unwrap();
    let words = ["--extract", "--zstd", "--same-owner", "--file"];
    run(tool("tar", words)
        .arg(&archive)
        .arg("--directory")
        .arg(&folder))
    .ok();
    let state = folder.join("state");
    assert!(!state.join("node/version").exists());

    let settings = [("serve.node", "true"), ("node.cache_form", "directory")];
    let mut service = Service::start(&state, &settings);
    // Once more, on what the first start may have changed.
    for _ in 0..2 {
        everything_is_there(&service);
        service.stop();
        assert_eq!(mark(&state), "1");
        assert_eq!(mark(&state.join("node")), "1");
        service.start_again(&[]);
    }
}

fn everything_is_there(service: &Service) {
    let shown = service.image(&["show", "old/app:v1", "--json"]).ok().json();
    assert_eq!(shown["image_hash"], IMAGE, "{shown:#}");
    let project = Project::new(&[("image.toml", DECLARATION), ("greeting", "hello\n")]);
    let built = service.build(&project.arg("image.toml"));
    assert_eq!(built["status"], "reused", "{built:#}");
    assert_eq!(built["image_hash"], IMAGE, "{built:#}");
    let builds = service.get("/v1/builds");
    let of_then = |build: &serde_json::Value| build["id"] == "01a22aabe6a5-3e350df7";
    assert!(builds.as_array().unwrap().iter().any(of_then), "{builds:#}");
    let images = format!("{}/v1/images", service.url());
    let answer = request(&images, Some(TOKEN), &[]);
    assert_eq!(answer.status, 200, "{answer:?}");
    // Pinned layers are not fetched again.
    wait_until("the node is there", || {
        let ls = ["node", "cache", "ls", "--json"];
        let caches = service.chalk().args(ls).run().ok().json();
        let text = caches.to_string();
        text.contains(IMAGE) && text.contains(r#""pins":["warm"]"#)
    });
}

/// What a directory says of its version.
fn mark(dir: &Path) -> String {
    let text = fs::read_to_string(dir.join("version")).unwrap();
    text.trim().to_owned()
}

fn what_a_newer_wrote(world: &World) {
    let state = world.folder("newer");
    let node = state.join("node");
    fs::create_dir(&node).unwrap();
    let refused = |dir: &Path, words: &[&str]| {
        fs::write(dir.join("version"), "2\n").unwrap();
        let ran = Chalk::on(&state).args(words).run();
        let place = dir.display().to_string();
        let says = [
            "was written by a newer chalk",
            "layout 2",
            "upgrade",
            &place,
        ];
        ran.code(3).says(&says);
        assert_eq!(mark(dir), "2");
        fs::remove_file(dir.join("version")).unwrap();
    };
    // The service itself, and a command that would start one in its process.
    refused(&state, &["serve", "--listen", "127.0.0.1:0"]);
    refused(&state, &["image", "ls"]);
    let left: Vec<_> = fs::read_dir(&state).unwrap().flatten().collect();
    let names = left.iter().map(fs::DirEntry::file_name);
    let other = names.filter(|name| *name != "node" && *name != "lock");
    assert_eq!(other.count(), 0, "{left:?}");

    let service = "http://127.0.0.1:1";
    let words = ["node", "--server", service, "--join-token", "none"];
    refused(&node, &words);
}
