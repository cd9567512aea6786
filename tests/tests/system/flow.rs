//! From a declaration with mounted files to a sandbox that sees them.

use std::os::unix::fs::symlink;
use std::path::Path;

use chalk_tests::{Project, World, run, tool};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    (
        "the_example_of_the_whole_flow",
        the_example_of_the_whole_flow,
    ),
    (
        "an_edit_of_a_mounted_file_changes_no_hash",
        an_edit_changes_no_hash,
    ),
    (
        "mounted_directories_keep_modes_and_links",
        mounted_directories,
    ),
    ("mounts_that_cannot_be", mounts_that_cannot_be),
];

fn the_example_of_the_whole_flow(world: &World) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/mounts/run.sh");
    // The script makes its base by `cargo xtask base` where none can be pulled; the suite has one.
    let shim = Project::new(&[(
        "cargo",
        &format!("#!/bin/sh\necho '{}'\n", world.python_layout().display()),
    )]);
    shim.chmod("cargo", 0o755);
    let path = std::env::var("PATH").unwrap();
    let mut command = tool("sh", [script]);
    command.env("PATH", format!("{}:{path}", shim.path().display()));
    command.env("CHALK", std::env::var("CHALK_TEST_BIN").unwrap());
    command.env("TMPDIR", world.folder("flow"));
    let ran = run(&mut command).ok();
    for words in [
        "first version in /app",
        "second version in /app",
        "Done: image",
    ] {
        assert!(ran.stdout.contains(words), "`{words}` is missing: {ran}");
    }
}

fn an_edit_changes_no_hash(world: &World) {
    let fleet = world.fleet();
    let service = &fleet.service;
    let project = Project::new(&[
        (
            "image.toml",
            "[image]\nbase = \"busybox\"\nworkdir = \"/app\"\nenv = { PLACE = \"/app\" }\n\
             [[step]]\nadd_local_file = { src = \"copied\", dest = \"/app/copied\", strategy = \"copy\" }\n\
             [[step]]\nadd_local_file = { src = \"mounted\", dest = \"/app/mounted\" }\n\
             [[step]]\nadd_local_dir = { src = \"src\", dest = \"/app/src\" }\n",
        ),
        ("copied", "copied one\n"),
        ("mounted", "mounted one\n"),
        ("src/deep/file", "deep one\n"),
    ]);
    let file = project.arg("image.toml");
    let built = service.build(&file);
    let hash = built["image_hash"].as_str().unwrap();
    service.warm(&["--image", hash, "--all", "--wait"]).ok();
    let show = "pwd; cat copied mounted src/deep/file; echo $PLACE";
    let seen = || {
        service
            .sandbox(&file, &["--", "sh", "-c", show])
            .run()
            .ok()
            .stdout
    };
    assert_eq!(seen(), "/app\ncopied one\nmounted one\ndeep one\n/app\n");

    project.write("mounted", "mounted two\n");
    project.write("src/deep/file", "deep two\n");
    project.write("src/new", "new\n");
    let again = service.build(&file);
    assert_eq!(again["status"], "reused", "{again:#}");
    assert_eq!(again["image_hash"], built["image_hash"]);
    assert_eq!(seen(), "/app\ncopied one\nmounted two\ndeep two\n/app\n");
    let words = ["--", "cat", "/app/src/new"];
    assert_eq!(service.sandbox(&file, &words).run().ok().stdout, "new\n");

    // Over the image, and read-only.
    let words = ["--", "sh", "-c", "echo changed > /app/mounted"];
    let refused = service.sandbox(&file, &words).run();
    assert!(!refused.status.success(), "{refused}");
    assert_eq!(seen(), "/app\ncopied one\nmounted two\ndeep two\n/app\n");
    // The image alone has no mounted files.
    let words = ["--", "ls", "/app"];
    let plain = service.sandbox(hash, &words).run().ok();
    assert!(plain.stdout.contains("copied"), "{plain}");
    let inside = service.sandbox(hash, &["--", "cat", "/app/mounted"]).run();
    assert!(!inside.stdout.contains("mounted"), "{inside}");
}

fn mounted_directories(world: &World) {
    let fleet = world.fleet();
    let project = Project::new(&[
        ("tree/run.sh", "#!/bin/sh\necho ran\n"),
        ("tree/plain", "plain\n"),
        ("tree/.gitignore", "ignored\n"),
        ("tree/ignored", "ignored\n"),
        ("tree/sub/x", "x\n"),
        ("single", "#!/bin/sh\necho single\n"),
    ]);
    project.chmod("tree/run.sh", 0o755);
    project.chmod("single", 0o755);
    symlink("run.sh", project.file("tree/link")).unwrap();
    symlink("/etc/hostname", project.file("tree/away")).unwrap();
    let tree = format!("{}:/opt/tree", project.arg("tree"));
    let single = format!("{}:/bin/single", project.arg("single"));
    let script = "cd /opt/tree && ./link && single && test ! -x plain && cat sub/x && \
                  readlink away && ls -A && ! touch new 2>/dev/null";
    let words = [
        "--mount", &tree, "--mount", &single, "--", "sh", "-ec", script,
    ];
    let ran = fleet.sandbox(&words).run().ok();
    assert!(
        ran.stdout.starts_with("ran\nsingle\nx\n/etc/hostname\n"),
        "{ran}"
    );

    // Writable where it is asked for; the change is gone with the sandbox and never reaches us.
    let writable = format!("{tree}:rw");
    let script =
        "echo changed > /opt/tree/plain && echo new > /opt/tree/sub/new && cat /opt/tree/plain";
    for _ in 0..2 {
        let words = ["--mount", &writable, "--", "sh", "-ec", script];
        assert_eq!(fleet.sandbox(&words).run().ok().stdout, "changed\n");
        let words = ["--mount", &tree, "--", "cat", "/opt/tree/plain"];
        assert_eq!(fleet.sandbox(&words).run().ok().stdout, "plain\n");
    }
    assert_eq!(
        std::fs::read_to_string(project.file("tree/plain")).unwrap(),
        "plain\n"
    );
}

fn mounts_that_cannot_be(world: &World) {
    let fleet = world.fleet();
    let project = Project::new(&[("file", "x")]);
    let file = project.arg("file");
    for (mount, words) in [
        (format!("{}/absent:/x", project.path().display()), "absent"),
        (format!("{file}:relative"), "absolute"),
        (format!("{file}:/tmp/../x"), ".."),
        (format!("{file}:/proc/x"), "/proc"),
        (file.clone(), "SRC:DEST"),
    ] {
        let ran = fleet.sandbox(&["--mount", &mount, "--", "true"]).run();
        ran.code(2).says(&[words]);
    }
    // A symbolic link of the image leads nowhere outside it.
    let mount = format!("{file}:/tmp/link/file");
    let ran = fleet
        .sandbox(&["--mount", &mount, "--", "cat", "/tmp/link/file"])
        .run();
    assert_eq!(ran.ok().stdout, "x");
}
