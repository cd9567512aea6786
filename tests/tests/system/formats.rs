//! Bases in every form that people have them in, and images for every tool that reads them.

use std::fs;
use std::path::{Path, PathBuf};

use chalk_tests::{Layout, Project, Service, World, run, tool, unique};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("imports_every_form", imports_every_form),
    ("imports_from_standard_input", imports_from_standard_input),
    (
        "import_of_nonsense_is_refused",
        import_of_nonsense_is_refused,
    ),
    ("layers_in_every_compression", layers_in_every_compression),
];

/// Builds on an imported base, to see that it is whole.
#[track_caller]
fn build_on(service: &Service, reference: &str) {
    let project = Project::toml(&format!(
        "[image]\nbase = \"{reference}\"\n[[step]]\nrun_commands = [\"test -L /bin/sh && test $(id -u worker) = 1000 && echo {}\"]\n",
        unique()
    ));
    let built = service.build(&project.arg("image.toml"));
    assert_eq!(built["status"], "built", "{reference}: {built:#}");
}

/// The root filesystem of the small base as a plain tar.
fn rootfs(world: &World, folder: &Path) -> PathBuf {
    let path = folder.join("rootfs.tar");
    let layers = Layout::open(world.busybox_layout()).layers();
    fs::write(&path, &layers[0]).unwrap();
    path
}

fn imports_every_form(world: &World) {
    let service = world.service();
    let folder = world.folder("forms");
    let layout = format!("oci:{}", world.busybox_layout().display());
    let path = |name: &str| folder.join(name).display().to_string();
    for target in [
        format!("oci-archive:{}:busybox:1", path("oci.tar")),
        format!("docker-archive:{}:busybox:1", path("docker.tar")),
        format!("oci:{}", path("layout")),
    ] {
        run(&mut tool(
            "skopeo",
            ["--insecure-policy", "copy", &layout, &target],
        ))
        .ok();
    }
    rootfs(world, &folder);
    for (compress, name) in [
        ("gzip", "rootfs.tar.gz"),
        ("zstd", "rootfs.tar.zst"),
        ("gzip", "oci.tar.gz"),
    ] {
        let source = path(name.rsplit_once('.').unwrap().0);
        let shell = format!("{compress} -c {source} > {}", path(name));
        run(&mut tool("sh", ["-c", &shell])).ok();
    }
    for (number, name) in [
        "layout",
        "oci.tar",
        "docker.tar",
        "rootfs.tar",
        "rootfs.tar.gz",
        "rootfs.tar.zst",
        "oci.tar.gz",
    ]
    .into_iter()
    .enumerate()
    {
        let reference = format!("example.com/forms/form{number}:1");
        let imported = service
            .image(&["import", &path(name), "--as", &reference, "--json"])
            .ok()
            .json();
        assert_eq!(imported["ref"], reference.as_str(), "{name}");
        assert_eq!(imported["platform"], "linux/amd64", "{name}");
        assert!(
            imported["digest"].as_str().unwrap().starts_with("sha256:"),
            "{name}"
        );
        build_on(service, &reference);
    }
}

fn imports_from_standard_input(world: &World) {
    let service = world.service();
    let bytes = fs::read(rootfs(world, &world.folder("stdin"))).unwrap();
    let import = [
        "compute",
        "image",
        "import",
        "-",
        "--as",
        "example.com/stdin:1",
    ];
    service.chalk().args(import).input(bytes).run().ok();
    build_on(service, "example.com/stdin:1");
}

fn import_of_nonsense_is_refused(world: &World) {
    let service = world.service();
    let project = Project::new(&[("notes.txt", "no archive at all\n"), ("empty", "")]);
    let import = |path: &str| service.image(&["import", path, "--as", "example.com/nonsense:1"]);
    import(&project.arg("notes.txt"))
        .code(2)
        .says(&["notes.txt"]);
    import(&project.arg("empty")).code(2).says(&["empty"]);
    import(&project.arg("absent.tar"))
        .code(2)
        .says(&["absent.tar"]);
    let layout = world.busybox_layout().display().to_string();
    let badly = service.image(&["import", &layout, "--as", "Not A Reference"]);
    badly.code(2).says(&["Not A Reference"]);

    // An archive cut in the middle, and a blob that is not what its name says.
    let bytes = fs::read(rootfs(world, &world.folder("cut"))).unwrap();
    project.write("cut.tar", &bytes[..bytes.len() / 2]);
    import(&project.arg("cut.tar")).code(2);
    let folder = world.folder("forged");
    run(tool("cp", ["--archive"])
        .arg(world.busybox_layout().join("."))
        .arg(&folder))
    .ok();
    let manifest = Layout::open(&folder).manifest();
    let layer = manifest["layers"][0]["digest"]
        .as_str()
        .unwrap()
        .replace(':', "/");
    let layer = folder.join("blobs").join(layer);
    let mut bytes = fs::read(&layer).unwrap();
    bytes[2000] ^= 1;
    fs::write(&layer, bytes).unwrap();
    import(&folder.display().to_string())
        .code(2)
        .says(&["sha256:"]);
    let plan = Project::toml("[image]\nbase = \"example.com/nonsense:1\"\n");
    // Nothing was imported under that name, so its registry is asked.
    service.image(&["build", &plan.arg("image.toml")]).code(3);
}

fn layers_in_every_compression(world: &World) {
    let service = world.service();
    for (word, media_type) in [
        ("zstd", "application/vnd.oci.image.layer.v1.tar+zstd"),
        ("gzip", "application/vnd.oci.image.layer.v1.tar+gzip"),
        ("none", "application/vnd.oci.image.layer.v1.tar"),
    ] {
        let project = Project::toml(&format!(
            "[image]\nbase = \"busybox\"\n[[step]]\nrun_commands = [\"echo {} > /made\"]\n",
            unique()
        ));
        let build = [
            "build",
            &project.arg("image.toml"),
            "--json",
            "--compression",
            word,
        ];
        let built = service.image(&build).ok().result();
        let folder = world.folder(word);
        let mut skopeo = service.skopeo("copy");
        skopeo.arg(format!("docker://{}", built["image"].as_str().unwrap()));
        run(skopeo.arg(format!("oci:{}", folder.display()))).ok();
        let layout = Layout::open(&folder);
        let manifest = layout.manifest();
        let layers = manifest["layers"].as_array().unwrap();
        assert_eq!(
            layers.last().unwrap()["mediaType"],
            media_type,
            "{manifest:#}"
        );
        assert!(layout.files().entries.contains_key("made"));
        let config = layout.config();
        assert_eq!(
            config["rootfs"]["diff_ids"].as_array().unwrap().len(),
            layers.len()
        );
    }
    let project = Project::toml("[image]\nbase = \"busybox\"\n");
    let odd = ["build", &project.arg("image.toml"), "--compression", "lzma"];
    service.image(&odd).code(2).says(&["lzma", "zstd"]);
}
