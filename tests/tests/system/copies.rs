//! Local files: what of them counts, and how they arrive.

use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use chalk_tests::{Layout, Project, Service, World, run, unique};
use serde_json::Value;

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    (
        "contents_and_mode_count_time_and_place_do_not",
        contents_and_mode_count_time_and_place_do_not,
    ),
    (
        "directories_arrive_as_selected",
        directories_arrive_as_selected,
    ),
    ("mounts_do_not_count_and_warn", mounts_do_not_count_and_warn),
    (
        "a_file_of_some_size_goes_up_once",
        a_file_of_some_size_goes_up_once,
    ),
];

fn with_file() -> Project {
    let text = format!(
        r#"
[image]
base = "busybox"
[[step]]
run_commands = ["echo before {0}"]
[[step]]
add_local_file = {{ src = "app.sh", dest = "/app/app.sh", strategy = "copy" }}
[[step]]
run_commands = ["echo after {0}"]
"#,
        unique()
    );
    Project::new(&[("image.toml", &text), ("app.sh", "#!/bin/sh\necho hello\n")])
}

fn states(result: &Value) -> Vec<&str> {
    let steps = result["steps"].as_array().expect("steps");
    steps
        .iter()
        .map(|step| step["state"].as_str().unwrap_or_default())
        .collect()
}

fn contents_and_mode_count_time_and_place_do_not(world: &World) {
    let service = world.service();
    let project = with_file();
    let file = project.arg("image.toml");
    let first = service.build(&file);
    assert_eq!(states(&first), ["ran", "ran", "ran"], "{first:#}");

    let old = SystemTime::now() - Duration::from_secs(1_000_000);
    File::options()
        .write(true)
        .open(project.file("app.sh"))
        .unwrap()
        .set_modified(old)
        .unwrap();
    let touched = service.build(&file);
    assert_eq!(touched["status"], "reused", "another mtime: {touched:#}");

    let group_writable = 0o664;
    project.chmod("app.sh", group_writable);
    assert_eq!(service.build(&file)["status"], "reused", "another umask");

    let moved = Project::new(&[]);
    for name in ["image.toml", "app.sh"] {
        fs::copy(project.file(name), moved.file(name)).unwrap();
    }
    assert_eq!(
        service.build(&moved.arg("image.toml"))["status"],
        "reused",
        "another path"
    );

    project.chmod("app.sh", 0o755);
    let executable = service.build(&file);
    assert_eq!(
        states(&executable),
        ["cached", "ran", "ran"],
        "executable: {executable:#}"
    );
    assert_ne!(executable["image_hash"], first["image_hash"]);

    project.write("app.sh", "#!/bin/sh\necho goodbye\n");
    project.chmod("app.sh", 0o755);
    let rewritten = service.build(&file);
    assert_eq!(
        states(&rewritten),
        ["cached", "ran", "ran"],
        "contents: {rewritten:#}"
    );
}

fn fetched(world: &World, service: &Service, result: &Value) -> Layout {
    let folder = world.folder("copy");
    let mut skopeo = service.skopeo("copy");
    skopeo.arg(format!("docker://{}", result["image"].as_str().unwrap()));
    run(skopeo.arg(format!("oci:{}", folder.display()))).ok();
    Layout::open(&folder)
}

fn directories_arrive_as_selected(world: &World) {
    let text = format!(
        r#"
[image]
base = "busybox"
labels = {{ run = "{}" }}
[[step]]
add_local_dir = {{ src = "src", dest = "/srv/app", strategy = "copy", exclude = ["*.log"] }}
"#,
        unique()
    );
    let project = Project::new(&[
        ("image.toml", &text),
        ("src/main.py", "print(1)\n"),
        ("src/run.sh", "#!/bin/sh\n"),
        ("src/debug.log", "noise\n"),
        ("src/.gitignore", "secret.txt\nbuild/\n"),
        ("src/secret.txt", "hidden\n"),
        ("src/build/out.o", "junk\n"),
        ("src/.git/HEAD", "ref: refs/heads/main\n"),
        ("src/deep/er/.chalkignore", "*.tmp\n"),
        ("src/deep/er/a.tmp", "junk\n"),
        ("src/deep/er/a.txt", "kept\n"),
    ]);
    project.chmod("src/run.sh", 0o755);
    std::os::unix::fs::symlink("main.py", project.file("src/link")).unwrap();
    fs::create_dir(project.file("src/empty")).unwrap();
    let service = world.service();
    let result = service.build(&project.arg("image.toml"));
    let files = fetched(world, service, &result).files();
    let below: Vec<String> = files
        .entries
        .iter()
        .filter_map(|(path, entry)| {
            let path = path.strip_prefix("srv/app/")?;
            Some(match entry.kind {
                "symlink" => format!("{path} -> {}", entry.contents),
                kind => format!("{path} {kind} {:o} {:?}", entry.mode, entry.owner),
            })
        })
        .collect();
    assert_eq!(
        below,
        [
            ".gitignore file 644 (0, 0)",
            "deep dir 755 (0, 0)",
            "deep/er dir 755 (0, 0)",
            "deep/er/.chalkignore file 644 (0, 0)",
            "deep/er/a.txt file 644 (0, 0)",
            "empty dir 755 (0, 0)",
            "link -> main.py",
            "main.py file 644 (0, 0)",
            "run.sh file 755 (0, 0)",
        ]
    );
}

fn mounts_do_not_count_and_warn(world: &World) {
    let service = world.service();
    let text = format!(
        r#"
[image]
base = "busybox"
[[step]]
add_local_file = {{ src = "app.py", dest = "/srv/app.py" }}
[[step]]
run_commands = ["echo {} # cat /srv/app.py"]
"#,
        unique()
    );
    let project = Project::new(&[("image.toml", &text), ("app.py", "1\n")]);
    let file = project.arg("image.toml");
    let planned = service.image(&["plan", &file, "--json"]).ok();
    let plan = planned.json();
    assert!(
        plan.to_string().contains("/srv/app.py"),
        "the warning names the path: {plan:#}"
    );
    assert!(
        plan.to_string().contains("copy"),
        "and the way out: {plan:#}"
    );
    assert_eq!(
        plan["steps"].as_array().unwrap().len(),
        1,
        "a mount is no step: {plan:#}"
    );
    let first = service
        .image(&["build", &file, "--json"])
        .ok()
        .says(&["/srv/app.py", "copy"]);
    project.write("app.py", "2\n");
    let second = service.build(&file);
    assert_eq!(second["status"], "reused", "{second:#}");
    assert_eq!(second["image_hash"], first.result()["image_hash"]);
}

fn a_file_of_some_size_goes_up_once(world: &World) {
    let service = world.service();
    let text = format!(
        r#"
[image]
base = "busybox"
[[step]]
add_local_file = {{ src = "big", dest = "/big", strategy = "copy" }}
[[step]]
run_commands = ["test $(stat -c %s /big) = 20000000 && echo {}"]
"#,
        unique()
    );
    let project = Project::toml(&text);
    let contents: Vec<u8> = (0..20_000_000_u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    project.write("big", &contents);
    let file = project.arg("image.toml");
    let upload = |service: &Service| {
        service.image(&["plan", &file, "--json"]).ok().json()["upload_bytes"].clone()
    };
    assert_eq!(upload(service), 20_000_000);
    assert_eq!(service.build(&file)["status"], "built");
    assert_eq!(upload(service), 0, "the service has it");
}
