//! Restarts, crashes, rot, and a database that is only an index.

use std::fs;
use std::path::{Path, PathBuf};

use chalk_tests::{Project, Service, World, run, unique, wait_until};
use serde_json::Value;

use crate::Test;
use crate::failures::wait_for_process;

pub(crate) const TESTS: &[Test] = &[
    (
        "images_builds_and_logs_outlive_a_restart",
        outlive_a_restart,
    ),
    (
        "the_database_is_rebuilt_from_the_registry",
        rebuilt_from_the_registry,
    ),
    (
        "a_killed_service_resumes_from_the_finished_steps",
        a_killed_service_resumes,
    ),
    (
        "a_killed_import_leaves_nothing",
        a_killed_import_leaves_nothing,
    ),
    (
        "a_rotten_blob_is_noticed_and_never_handed_out",
        a_rotten_blob_is_noticed,
    ),
    (
        "a_stopping_service_ends_its_builds",
        a_stopping_service_ends_its_builds,
    ),
];

fn project(commands: &[&str]) -> Project {
    let commands: Vec<String> = commands
        .iter()
        .map(|command| format!("'''{command}'''"))
        .collect();
    Project::toml(&format!(
        "[image]\nbase = \"busybox\"\n[[step]]\nrun_commands = [{}]\n",
        commands.join(", ")
    ))
}

fn states(result: &Value) -> Vec<&str> {
    let steps = result["steps"].as_array().expect("steps");
    steps
        .iter()
        .map(|step| step["state"].as_str().unwrap_or_default())
        .collect()
}

fn outlive_a_restart(world: &World) {
    let mut service = world.start("restart", &[]);
    let mark = unique();
    let project = project(&[&format!("echo {mark}"), "echo two"]);
    let file = project.arg("image.toml");
    let built = service
        .image(&["build", &file, "--json", "--name", "team/app:1"])
        .ok()
        .result();
    service.stop();
    service.assert_clean();
    service.start_again(&[]);
    assert_eq!(service.build(&file)["status"], "reused");
    let hash = built["image_hash"].as_str().unwrap();
    let shown = service.image(&["show", "team/app:1", "--json"]).ok().json();
    assert_eq!(shown["image_hash"], hash);
    let logs = service.image(&["logs", hash]).ok();
    assert!(logs.stdout.contains(&mark), "{logs}");
    let more = self::project(&[&format!("echo {mark}"), "echo three"]);
    assert_eq!(
        states(&service.build(&more.arg("image.toml"))),
        ["cached", "ran"]
    );
    service.stop();
}

/// Everything in the state directory that is neither registry nor token.
fn forget_all_but_the_registry(state: &Path) {
    let mut forgotten = Vec::new();
    for entry in fs::read_dir(state).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let database = name.ends_with(".redb") || name.ends_with(".db") || name == "index";
        if database {
            fs::remove_file(entry.path()).unwrap();
            forgotten.push(name);
        }
    }
    assert!(!forgotten.is_empty(), "the database was not found");
}

fn rebuilt_from_the_registry(world: &World) {
    let mut service = world.start("reindex", &[]);
    let mark = unique();
    let project = project(&[&format!("echo {mark}"), "echo two"]);
    let file = project.arg("image.toml");
    let built = service
        .image(&["build", &file, "--json", "--name", "team/app:1"])
        .ok()
        .result();
    let list = |service: &Service| service.image(&["ls", "--json"]).ok().json();
    let listed = list(&service);
    service.stop();
    forget_all_but_the_registry(service.state());
    service.start_again(&["--reindex"]);
    assert_eq!(list(&service), listed);
    let again = service.build(&file);
    assert_eq!(again["status"], "reused", "{again:#}");
    assert_eq!(again["digest"], built["digest"]);
    let more = self::project(&[&format!("echo {mark}"), "echo three"]);
    let more = service.build(&more.arg("image.toml"));
    assert_eq!(states(&more), ["cached", "ran"], "{more:#}");
    let shown = service.image(&["show", "team/app:1", "--json"]).ok().json();
    assert_eq!(shown["image_hash"], built["image_hash"]);
    assert!(
        shown["spec"].is_object(),
        "the spec is in the registry too: {shown:#}"
    );
    service.stop();
}

fn a_killed_service_resumes(world: &World) {
    let mut service = world.start("crash", &[]);
    let mark = unique().replace('-', "");
    let project = project(&[
        &format!("echo one {mark}"),
        "echo two > /two",
        &format!("sleep 600.{mark}"),
    ]);
    let file = project.arg("image.toml");
    let mut client = service
        .chalk()
        .args(["compute", "image", "build", &file])
        .start();
    wait_for_process(&format!("600.{mark}"), true);
    // The second step's layer is packed and kept while the third runs.
    wait_until("the second step is kept", || {
        service.get("/v1/builds")[0]["steps"][1]["state"] == "ran"
    });
    service.kill();
    // The step dies with the service, and the client gives up in words of its own.
    wait_for_process(&format!("600.{mark}"), false);
    assert_eq!(client.wait(), Some(3));
    service.start_again(&[]);
    let builds = service.get("/v1/builds");
    for build in builds.as_array().unwrap() {
        let status = build["status"].as_str().unwrap();
        assert!(
            !matches!(status, "queued" | "running"),
            "a build that nobody runs: {build:#}"
        );
    }
    // With another last step, which ends.
    let last = self::project(&[&format!("echo one {mark}"), "echo two > /two", "true"]);
    let built = service.build(&last.arg("image.toml"));
    assert_eq!(built["status"], "built", "{built:#}");
    assert_eq!(states(&built), ["cached", "cached", "ran"], "{built:#}");
    service.stop();
    service.assert_clean();
}

fn a_killed_import_leaves_nothing(world: &World) {
    let state = world.folder("import");
    let mut service = Service::start(&state, &[]);
    let mut import = service
        .chalk()
        .args(["compute", "image", "import", "--as", "python:3.12"]);
    import = import.arg(world.python_layout());
    let mut import = import.start();
    // Somewhere in the middle of 90 megabytes.
    std::thread::sleep(std::time::Duration::from_millis(150));
    service.kill();
    import.wait();
    service.start_again(&[]);
    service.assert_clean();
    let bytes = |path: &Path| fs::metadata(path).map_or(0, |data| data.len());
    for blob in blobs(&state) {
        let name = blob.file_name().unwrap().to_string_lossy().into_owned();
        let ran = run(chalk_tests::tool("sha256sum", [&blob]).arg("--")).ok();
        assert!(
            ran.stdout.starts_with(&name),
            "{} of {} bytes",
            blob.display(),
            bytes(&blob)
        );
    }
    let import = ["compute", "image", "import", "--as", "python:3.12"];
    service
        .chalk()
        .args(import)
        .arg(world.python_layout())
        .run()
        .ok();
    service.stop();
}

/// Blob files below a state directory.
fn blobs(state: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![state.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                if entry.file_name() != "snapshots" {
                    open.push(entry.path());
                }
            } else if entry
                .path()
                .parent()
                .is_some_and(|parent| parent.ends_with("blobs/sha256"))
            {
                found.push(entry.path());
            }
        }
    }
    found
}

fn a_rotten_blob_is_noticed(world: &World) {
    let mut service = world.start("rot", &[]);
    let project = project(&[&format!(
        "head -c 100000 /dev/urandom > /noise; echo {}",
        unique()
    )]);
    let file = project.arg("image.toml");
    let built = service.build(&file);
    let image = built["image"].as_str().unwrap().to_owned();
    let mut skopeo = service.skopeo("inspect");
    let manifest = run(skopeo.arg("--raw").arg(format!("docker://{image}")))
        .ok()
        .json();
    let layer = manifest["layers"].as_array().unwrap().last().unwrap();
    let digest = layer["digest"]
        .as_str()
        .unwrap()
        .strip_prefix("sha256:")
        .unwrap();
    service.stop();
    let rotten = blobs(service.state());
    let rotten = rotten
        .iter()
        .find(|blob| blob.ends_with(digest))
        .expect("the layer on disk");
    let mut bytes = fs::read(rotten).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(rotten, bytes).unwrap();
    service.start_again(&[]);

    let folder = world.folder("rotten");
    let mut skopeo = service.skopeo("copy");
    skopeo.arg(format!("docker://{image}"));
    let copied = run(skopeo.arg(format!("oci:{}", folder.display())));
    assert!(
        !copied.status.success(),
        "rotten bytes were handed out: {copied}"
    );
    // What was lost is made again.
    let again = service
        .image(&["build", &file, "--force", "--json"])
        .ok()
        .result();
    assert_eq!(again["status"], "built", "{again:#}");
    let folder = world.folder("whole");
    let mut skopeo = service.skopeo("copy");
    skopeo.arg(format!("docker://{}", again["image"].as_str().unwrap()));
    run(skopeo.arg(format!("oci:{}", folder.display()))).ok();
    service.stop();
}

fn a_stopping_service_ends_its_builds(world: &World) {
    let mut service = world.start("stopping", &[("serve.stop_timeout", "1s")]);
    let mark = unique().replace('-', "");
    let project = project(&[&format!("sleep 600.{mark}")]);
    let file = project.arg("image.toml");
    service.image(&["build", &file, "--detach"]).ok();
    wait_for_process(&format!("600.{mark}"), true);
    service.stop();
    wait_for_process(&format!("600.{mark}"), false);
    service.assert_clean();
}
