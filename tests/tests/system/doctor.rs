//! `chalk doctor`, as root and as an ordinary user, and what that user is told who builds.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use chalk_tests::{Chalk, Project, World, run, tool, unique};
use serde_json::Value;

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("root_can_build_here", root_can_build),
    ("an_ordinary_user_is_told_what_to_change", ordinary_user),
    ("what_is_wrong_is_named", what_is_wrong),
];

/// Who owns nothing.
const NOBODY: &str = "65534";

fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let checks = report["checks"].as_array().expect("checks");
    let found = checks.iter().find(|check| check["name"] == name);
    found.unwrap_or_else(|| panic!("no check {name}: {report:#}"))
}

fn root_can_build(world: &World) {
    let state = world.folder("doctor");
    let report = Chalk::on(&state).args(["doctor", "--json"]).run().json();
    for name in [
        "kernel",
        "overlay",
        "namespaces",
        "user",
        "sandbox",
        "control groups",
        "limits",
    ] {
        assert_eq!(check(&report, name)["status"], "ok", "{report:#}");
    }
    assert_eq!(check(&report, "registry")["status"], "ok", "{report:#}");
    let table = Chalk::on(&state).args(["doctor"]).run();
    assert!(table.stdout.contains("STATE"), "{table}");
    // It leaves nothing, and starts nothing.
    assert_eq!(fs::read_dir(&state).unwrap().count(), 0);
}

fn ordinary_user(world: &World) {
    let folder = world.folder("ordinary");
    // Programs and folders of the checkout may be closed to others.
    let home = tempfile::tempdir().unwrap();
    fs::set_permissions(home.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let program = home.path().join("chalk");
    fs::copy(std::env::var("CHALK_TEST_BIN").unwrap(), &program).unwrap();
    let state = home.path().join("state");
    let chalk = |words: &[&str]| {
        let mut command = tool(
            "setpriv",
            ["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"],
        );
        command.arg(&program).arg("--state").arg(&state).args(words);
        command.current_dir(home.path()).env("HOME", home.path());
        command.env("TMPDIR", home.path());
        run(&mut command)
    };
    let ran = chalk(&["doctor", "--json"]).code(1);
    let report = ran.json();
    assert_eq!(report["ok"], false);
    let user = check(&report, "user");
    assert_eq!(user["status"], "fail", "{report:#}");
    for words in [
        "usermod --add-subuids",
        "sudo chalk serve",
        "`server`",
        "CHALK_API_SERVER",
    ] {
        assert!(user["todo"].as_str().unwrap().contains(words), "{user:#}");
    }
    assert!(
        user["found"].as_str().unwrap().contains("quickstart"),
        "{user:#}"
    );
    assert_eq!(check(&report, "kernel")["status"], "ok", "{report:#}");
    assert_eq!(check(&report, "newuidmap")["status"], "fail", "{report:#}");
    assert_eq!(check(&report, "fsync")["status"], "ok", "{report:#}");
    // The build says the same, before it begins.
    let project = home.path().join("image.toml");
    let text = "[image]\nbase = \"scratch\"\n[[step]]\nrun_commands = [\"true\"]\n";
    fs::write(&project, text).unwrap();
    let built = chalk(&["image", "build", "image.toml", "--progress", "quiet"]);
    assert!(!built.status.success(), "{built}");
    built.says(&["need root", "/etc/subuid gives", "usermod --add-subuids"]);
    // What needs no root works.
    chalk(&["image", "hash", "image.toml"]).ok();
    drop(folder);
}

fn what_is_wrong(world: &World) {
    let state = world.folder("wrong");
    let bundle = state.join(unique());
    fs::write(&bundle, "no certificate").unwrap();
    let bundle = format!("build.ca_bundle={}", bundle.display());
    // Nobody listens on port 1.
    let words = [
        "--set",
        "registry.url=127.0.0.1:1",
        "--set",
        &bundle,
        "doctor",
        "--json",
    ];
    let ran = Chalk::on(&state).args(words).run().code(1);
    let report = ran.json();
    for (name, setting) in [
        ("registry", "`registry.url`"),
        ("CA bundle", "`build.ca_bundle`"),
    ] {
        let found = check(&report, name);
        assert_eq!(found["status"], "fail", "{report:#}");
        assert!(
            found["todo"].as_str().unwrap().contains(setting),
            "{found:#}"
        );
    }
    let project = Project::new(&[]);
    let file = project.arg("file");
    fs::write(&file, "").unwrap();
    let report = Chalk::on(std::path::Path::new("/proc/nothing"))
        .args(["doctor", "--json"])
        .run()
        .code(1)
        .json();
    let found = check(&report, "fsync");
    assert_eq!(found["status"], "fail", "{report:#}");
    assert!(
        found["todo"].as_str().unwrap().contains("`state.dir`"),
        "{found:#}"
    );
}
