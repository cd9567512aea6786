//! Sandboxes that wait for commands and files, by the command.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use chalk_tests::{Project, World, noise, unique};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("an_idle_sandbox_is_found_by_its_name", idle),
    ("files_are_copied_in_and_out", copies),
];

fn idle(world: &World) {
    let fleet = world.fleet();
    let name = format!("box-{}", unique());
    let words = ["--idle", "--detach", "--name", &name, "--tag", "k=v"];
    let id = fleet.sandbox(&words).run().ok().stdout.trim().to_owned();
    let service = &fleet.service;
    let ran = service
        .sandboxes(&["exec", &name, "--", "echo", "in it"])
        .ok();
    assert_eq!(ran.stdout, "in it\n");
    let taken = fleet.sandbox(&words).run();
    assert_eq!(taken.status.code(), Some(4), "{taken}");
    taken.says(&[&name, &id]);
    let late = service.sandboxes(&["exec", "--timeout", "300ms", &name, "--", "sleep", "1000"]);
    assert_eq!(late.status.code(), Some(124), "{late}");
    service.sandboxes(&["stop", &name]).ok();
    let ended = service.get(&format!("/v1/sandboxes/{id}"));
    assert_eq!(ended["ended_by"], "stopped", "{ended:#}");
    assert_eq!(ended["tags"]["k"], "v", "{ended:#}");
    // The name is free; the sandbox is found by its identifier.
    assert_eq!(service.sandboxes(&["show", &name]).status.code(), Some(4));
    let both = fleet.sandbox(&["--idle", "--", "true"]).run();
    assert_eq!(both.status.code(), Some(2), "{both}");
}

fn copies(world: &World) {
    let fleet = world.fleet();
    let service = &fleet.service;
    let words = [
        "--idle",
        "--detach",
        "--workdir",
        "/tmp",
        "--user",
        "1000:1000",
    ];
    let id = fleet.sandbox(&words).run().ok().stdout.trim().to_owned();
    let files = Project::new(&[("run.sh", "#!/bin/sh\necho ran $0\n"), ("large", "")]);
    let large = noise("large", 20 << 20);
    fs::write(files.arg("large"), &large).expect("written");
    let script = files.arg("run.sh");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("mode");
    let inside = |path: &str| format!("{id}:{path}");
    let copy = |from: &str, to: &str| service.sandboxes(&["cp", from, to]);

    copy(&script, &inside("/tmp/")).ok();
    let ran = service.sandboxes(&["exec", &id, "--", "/tmp/run.sh"]).ok();
    assert_eq!(ran.stdout, "ran /tmp/run.sh\n");
    copy(&files.arg("large"), &inside("here")).ok();
    let back = files.arg("back");
    copy(&inside("/tmp/here"), &back).ok();
    assert!(fs::read(&back).expect("there") == large, "not the same");
    // Into a folder it keeps its name; from standard input and to standard output.
    let folder = files.arg("folder");
    fs::create_dir(&folder).expect("made");
    copy(&inside("/tmp/run.sh"), &folder).ok();
    assert!(
        fs::read(files.arg("folder/run.sh"))
            .expect("there")
            .starts_with(b"#!")
    );
    let text = fs::read(&script).expect("there");
    let cp = ["sandbox", "cp", "-", &inside("piped")];
    service.chalk().args(cp).input(text).run().ok();
    let out = copy(&inside("piped"), "-").ok();
    assert_eq!(out.stdout, "#!/bin/sh\necho ran $0\n");

    let missing = copy(&inside("/no/such/file"), &back);
    assert_eq!(missing.status.code(), Some(4), "{missing}");
    assert!(
        fs::read(&back).expect("kept") == large,
        "the file here is as it was"
    );
    for (from, to) in [
        (script.as_str(), inside("/etc/x")),
        (&script, inside("/tmp/../")),
        (&script, inside("/dev/null")),
    ] {
        let refused = copy(from, &to);
        assert_eq!(refused.status.code(), Some(1), "{refused}");
    }
    assert_eq!(copy(&script, &back).status.code(), Some(2));
    service.sandboxes(&["rm", "--force", &id]).ok();
}
