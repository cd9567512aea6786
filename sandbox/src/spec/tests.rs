use super::*;

fn spec() -> RunSpec {
    RunSpec::new(Root::Plain(PathBuf::from("/srv/root")), ["true"])
}

fn check(change: impl FnOnce(&mut RunSpec), expect: Option<&str>) {
    let mut spec = spec();
    change(&mut spec);
    let found = spec.validate().err().map(|error| error.to_string());
    match (&found, expect) {
        (None, None) => {}
        (Some(found), Some(expect)) if found.contains(expect) => {}
        _ => panic!("expected {expect:?}, found {found:?}"),
    }
}

#[test]
fn bad_specs_are_told_by_field() {
    check(|_| {}, None);
    check(|s| s.args.clear(), Some("args: no command"));
    check(|s| s.args = vec![String::new()], Some("args: no command"));
    check(|s| s.args.push("a\0b".into()), Some("NUL"));
    check(
        |s| s.env.push(("A=B".into(), "c".into())),
        Some("\"A=B\" is no name"),
    );
    check(
        |s| s.env.push(("TOKEN".into(), "hun\0ter2".into())),
        Some("the value of TOKEN"),
    );
    check(
        |s| s.cwd = "app".into(),
        Some("cwd: \"app\" is not an absolute path"),
    );
    check(|s| s.hostname = "x".repeat(65), Some("hostname"));
    check(|s| s.max_processes = 10, Some("max_processes"));
    check(
        |s| {
            s.mounts.push(Mount::Tmpfs {
                target: "/".into(),
                size: None,
                mode: 0o755,
            });
        },
        Some("/ itself"),
    );
    check(
        |s| {
            s.mounts.push(Mount::Tmpfs {
                target: "/t".into(),
                size: None,
                mode: 0o10755,
            });
        },
        Some("bits beyond 7777"),
    );
    check(
        |s| {
            s.root = Root::Overlay {
                lower: vec!["/l".into(); 501],
                upper: "/u".into(),
                work: "/w".into(),
                volatile: false,
            };
        },
        Some("501 lower directories"),
    );
    check(
        |s| s.stdin = Stdin::Bytes(Contents(vec![0; MAX_CONTENTS + 1])),
        Some("at most 67108864 fit"),
    );
}

#[test]
fn debug_and_errors_print_no_secret() {
    let mut spec = spec();
    spec.env.push(("TOKEN".into(), "hunter2".into()));
    spec.mounts.push(Mount::File {
        contents: Contents(b"hunter2".to_vec()),
        target: "/run/secrets/token".into(),
        uid: 0,
        gid: 0,
        mode: 0o400,
    });
    let text = format!("{spec:?}");
    assert!(
        text.contains("TOKEN") && text.contains("/run/secrets/token"),
        "{text}"
    );
    assert!(!text.contains("hunter2"), "{text}");
    spec.env.push(("X".into(), "hunter2\0".into()));
    assert!(
        !spec
            .validate()
            .expect_err("NUL")
            .to_string()
            .contains("hunter2")
    );
}

#[test]
fn specs_survive_the_wire() {
    let mut spec = spec();
    spec.stdin = Stdin::Bytes(Contents(vec![0, 255, 10]));
    let text = serde_json::to_string(&spec).expect("serialises");
    let back: RunSpec = serde_json::from_str(&text).expect("parses");
    assert_eq!(format!("{back:?}"), format!("{spec:?}"));
    assert!(matches!(back.stdin, Stdin::Bytes(Contents(bytes)) if bytes == [0, 255, 10]));
}
