//! Roots, mounts and their traces.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, symlink};
use std::path::Path;

use chalk_sandbox::{Contents, Mount, Root, SandboxError, Stage};

use crate::support::{Fixture, run};

fn file(target: &str, contents: &str) -> Mount {
    Mount::File {
        contents: Contents(contents.as_bytes().to_vec()),
        target: target.into(),
        uid: 0,
        gid: 0,
        mode: 0o444,
    }
}

/// Every path below `root` with mode, owner, size and modification time.
fn listing(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let meta = path.symlink_metadata().expect("metadata");
        let size = if meta.is_dir() { 0 } else { meta.size() };
        let text = format!(
            "{:o} {}:{} {size} {}.{}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec()
        );
        found.insert(path.display().to_string(), text);
        if meta.is_dir() {
            todo.extend(
                std::fs::read_dir(&path)
                    .expect("readable")
                    .map(|e| e.expect("e").path()),
            );
        }
    }
    found
}

#[tokio::test]
async fn mounts_are_what_they_say() {
    let fixture = Fixture::new();
    let shared = fixture.path("shared");
    std::fs::create_dir(&shared).expect("directory");
    std::fs::write(shared.join("in"), "from outside").expect("file");
    let bind = |target: &str, read_only| Mount::Bind {
        source: shared.clone(),
        target: target.into(),
        read_only,
    };
    let mut spec = fixture.spec(
        "cat /rw/in; echo; echo inside > /rw/out; echo x > /ro/out || echo refused; \
         cat /one; echo; stat -c '%a %u:%g' /secret; cat /secret; echo; \
         echo x >> /secret || echo refused; stat -c %a /memory; \
         head -c 2M /dev/zero > /memory/big || stat -c %s /memory/big; \
         mknod /rw/null c 1 3; echo > /rw/null || echo no device",
    );
    spec.mounts.extend([
        bind("/rw", false),
        bind("/ro", true),
        Mount::Bind {
            source: shared.join("in"),
            target: "/one".into(),
            read_only: true,
        },
        Mount::Tmpfs {
            target: "/memory".into(),
            size: Some(1 << 20),
            mode: 0o1777,
        },
        Mount::File {
            contents: Contents(b"hunter2".to_vec()),
            target: "/secret".into(),
            uid: 1000,
            gid: 1234,
            mode: 0o440,
        },
    ]);
    let ran = run(&spec).await.expect("runs");
    assert_eq!(
        ran.stdout,
        "from outside\nrefused\nfrom outside\n440 1000:1234\nhunter2\nrefused\n1777\n1048576\n\
         no device",
        "{}",
        ran.stderr
    );
    assert_eq!(
        std::fs::read_to_string(shared.join("out")).expect("written"),
        "inside\n"
    );
    assert!(fixture.changes().is_empty(), "{:?}", fixture.changes());
}

#[tokio::test]
async fn made_mount_points_leave_no_trace_in_an_overlay() {
    let fixture = Fixture::new();
    let mounts = [
        file("/etc/resolv.conf", "nameserver 192.0.2.1\n"),
        file("/run/secrets/deep/down/token", "hunter2"),
        Mount::Tmpfs {
            target: "/var/cache/apt/archives".into(),
            size: None,
            mode: 0o755,
        },
        Mount::Tmpfs {
            target: "/opt/deep/er".into(),
            size: None,
            mode: 0o755,
        },
    ];
    let mut spec = fixture.spec("cat /etc/resolv.conf /run/secrets/deep/down/token");
    spec.mounts.extend(mounts.clone());
    assert_eq!(
        run(&spec).await.expect("runs").stdout,
        "nameserver 192.0.2.1\nhunter2"
    );
    assert_eq!(fixture.changes(), [""; 0]);

    // What the command does itself stays, next to what is taken away.
    let fixture = Fixture::new();
    let mut spec = fixture.spec(
        "echo x > /etc/mine; mkdir -p /var/cache/apt/mine; chmod 700 /opt/deep; \
         echo y > /var/cache/apt/archives/gone",
    );
    spec.mounts.extend(mounts);
    assert!(run(&spec).await.expect("runs").exit.status.success());
    let expect = [
        "etc",
        "etc/mine",
        "opt",
        "opt/deep",
        "var",
        "var/cache",
        "var/cache/apt",
        "var/cache/apt/mine",
    ];
    assert_eq!(fixture.changes(), expect);
}

#[tokio::test]
async fn made_mount_points_leave_no_trace_when_the_set_up_or_the_command_fails() {
    let fixture = Fixture::new();
    for (mount, script) in [
        (file("/etc/passwd/x", ""), "true"),
        (file("/etc/fine", ""), "exit 1"),
        (file("/etc/fine", ""), "kill -9 -1; kill -9 $$"),
    ] {
        let mut spec = fixture.spec(script);
        spec.mounts
            .extend([file("/etc/resolv.conf", ""), file("/new/place", ""), mount]);
        let result = run(&spec).await;
        assert!(
            !result.is_ok_and(|ran| ran.exit.status.success()),
            "{script}"
        );
        assert_eq!(fixture.changes(), [""; 0], "{script}");
    }
}

#[tokio::test]
async fn made_mount_points_leave_no_trace_in_a_plain_root() {
    let fixture = Fixture::new();
    let root = fixture.path("lower");
    let before = listing(&root);
    let mut spec = fixture.spec("cat /etc/resolv.conf");
    spec.root = Root::Plain(root.clone());
    spec.mounts
        .extend([file("/etc/resolv.conf", "x"), file("/a/b/c", "y")]);
    assert_eq!(run(&spec).await.expect("runs").stdout, "x");
    assert_eq!(listing(&root), before);
}

#[tokio::test]
async fn a_mount_point_over_a_whiteout_gives_the_whiteout_back() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path("lower/etc/resolv.conf"), "of the image").expect("file");
    assert!(
        fixture
            .run("rm /etc/resolv.conf")
            .await
            .exit
            .status
            .success()
    );
    let whiteout = fixture.path("upper/etc/resolv.conf");
    assert!(
        whiteout
            .symlink_metadata()
            .expect("there")
            .file_type()
            .is_char_device()
    );
    let mut spec = fixture.spec("cat /etc/resolv.conf");
    spec.mounts.push(file("/etc/resolv.conf", "mounted"));
    assert_eq!(run(&spec).await.expect("runs").stdout, "mounted");
    let meta = whiteout.symlink_metadata().expect("there");
    assert!(meta.file_type().is_char_device() && meta.rdev() == 0);
}

#[tokio::test]
async fn existing_mount_points_are_not_touched() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path("lower/etc/resolv.conf"), "of the image").expect("file");
    let before = listing(&fixture.path("lower"));
    let mut spec = fixture.spec("cat /etc/resolv.conf");
    spec.mounts.push(file("/etc/resolv.conf", "mounted"));
    assert_eq!(run(&spec).await.expect("runs").stdout, "mounted");
    assert_eq!(listing(&fixture.path("lower")), before);
    assert_eq!(fixture.changes(), [""; 0]);
}

#[tokio::test]
async fn links_of_the_image_lead_nowhere_else() {
    let outside = tempfile::tempdir().expect("temporary directory");
    let victim = outside.path().join("victim");
    std::fs::write(&victim, "untouched").expect("file");
    let before = listing(outside.path());
    for link in [
        victim.display().to_string(),
        format!("../../../../../../../..{}", victim.display()),
        outside.path().join("new/file").display().to_string(),
        "/run/systemd/resolve/stub-resolv.conf".to_owned(),
    ] {
        let fixture = Fixture::new();
        symlink(&link, fixture.path("lower/etc/resolv.conf")).expect("link");
        let mut spec = fixture.spec("cat /etc/resolv.conf");
        spec.mounts.push(file("/etc/resolv.conf", "mounted"));
        assert_eq!(run(&spec).await.expect("runs").stdout, "mounted", "{link}");
        assert_eq!(listing(outside.path()), before, "{link}");
        assert_eq!(fixture.changes(), [""; 0], "{link}");
    }
}

#[tokio::test]
async fn bad_roots_and_mounts_are_named() {
    let check = async |prepare: &dyn Fn(&Fixture), mount: Option<Mount>, stage, words: &str| {
        let fixture = Fixture::new();
        prepare(&fixture);
        let mut spec = fixture.spec("true");
        spec.mounts.extend(mount);
        match run(&spec).await {
            Err(SandboxError::Setup(error)) => {
                assert!(
                    error.stage == stage && error.to_string().contains(words),
                    "{error:?}"
                );
            }
            other => panic!("{words}: {other:?}"),
        }
    };
    let nothing = |_: &Fixture| {};
    let bind = |source: &str, target: &str| {
        Some(Mount::Bind {
            source: source.into(),
            target: target.into(),
            read_only: true,
        })
    };
    let at = Stage::AttachMount;
    check(
        &nothing,
        bind("/no/such/source", "/x"),
        Stage::PrepareMount,
        "/no/such/source",
    )
    .await;
    check(
        &nothing,
        bind("/usr", "/etc/passwd"),
        at,
        "a directory is needed",
    )
    .await;
    check(
        &nothing,
        bind("/etc/passwd", "/home"),
        at,
        "a file is to be mounted",
    )
    .await;
    check(
        &nothing,
        bind("/usr", "/etc/passwd/x"),
        at,
        "Not a directory",
    )
    .await;
    let looped = |fixture: &Fixture| {
        symlink("loop", fixture.path("lower/etc/loop")).expect("link");
    };
    check(&looped, bind("/usr", "/etc/loop"), at, "Too many levels").await;
    for name in ["proc", "sys", "dev"] {
        let linked = |fixture: &Fixture| {
            std::fs::remove_dir(fixture.path("lower").join(name)).expect("removed");
            symlink("tmp", fixture.path("lower").join(name)).expect("link");
        };
        check(&linked, None, at, "symbolic link").await;
    }
    let gone = |fixture: &Fixture| std::fs::remove_dir_all(fixture.path("lower")).expect("removed");
    check(&gone, None, Stage::MountRoot, "/lower: No such file").await;
    let no_work = |fixture: &Fixture| std::fs::remove_dir(fixture.path("work")).expect("removed");
    check(&no_work, None, Stage::MountRoot, "/work: No such file").await;
}

#[tokio::test]
async fn five_hundred_layers_and_odd_names() {
    for count in [300, 500] {
        let fixture = Fixture::new();
        let odd = format!("a:b,c\\d e\u{e9}{}", "x".repeat(200));
        let mut lower = Vec::new();
        for number in 1..count {
            let layer = fixture.path(&odd).join(number.to_string());
            std::fs::create_dir_all(&layer).expect("layer");
            std::fs::write(layer.join(format!("f{number}")), "").expect("file");
            std::fs::write(layer.join("top"), number.to_string()).expect("file");
            lower.push(layer);
        }
        lower.push(fixture.path("lower"));
        let mut spec = fixture.spec("ls -d /f* | wc -l; cat /top; echo x > /top");
        let Root::Overlay { lower: layers, .. } = &mut spec.root else {
            panic!("an overlay")
        };
        *layers = lower;
        let ran = run(&spec).await.expect("runs");
        assert_eq!(ran.stdout, format!("{}\n1", count - 1), "{}", ran.stderr);
        assert_eq!(fixture.changes(), ["top"]);
    }
}

#[tokio::test]
async fn the_upper_directory_holds_whole_files_and_no_redirects() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path("lower/opt/deep/file"), "contents").expect("file");
    let ran = fixture
        .run("chmod 600 /opt/deep/file; mv /opt /moved; ls /moved/deep")
        .await;
    assert_eq!(ran.stdout, "file", "{}", ran.stderr);
    let moved = std::fs::read_to_string(fixture.path("upper/moved/deep/file")).expect("there");
    assert_eq!(moved, "contents");
    let mut names = vec![0; 4096];
    let length = rustix::fs::listxattr(fixture.path("upper/moved"), &mut names).expect("listed");
    let names = String::from_utf8_lossy(&names[..length]).into_owned();
    assert!(
        !names.contains("redirect") && !names.contains("metacopy"),
        "{names}"
    );
}
