//! What a command sees of itself: arguments, environment, streams, user, limits.

use std::os::unix::fs::PermissionsExt;

use chalk_sandbox::{Capabilities, Contents, SandboxError, Status, Stdin, User};

use crate::support::{Fixture, run};

#[tokio::test]
async fn exit_codes_and_signals_are_passed_on() {
    let fixture = Fixture::new();
    for (script, status, shell_code) in [
        ("true", Status::Code(0), 0),
        ("exit 3", Status::Code(3), 3),
        ("exit 255", Status::Code(255), 255),
        ("kill -TERM $$", Status::Signal(15), 143),
        ("kill -KILL $$", Status::Signal(9), 137),
        ("kill -ABRT $$", Status::Signal(6), 134),
    ] {
        let exit = fixture.run(script).await.exit;
        assert_eq!(
            (exit.status, exit.status.shell_code()),
            (status, shell_code),
            "{script}"
        );
    }
}

#[tokio::test]
async fn streams_are_kept_apart() {
    let fixture = Fixture::new();
    let ran = fixture
        .run("echo out; echo err >&2; echo out2; printf %s no-newline >&2")
        .await;
    assert_eq!(
        (ran.stdout.as_str(), ran.stderr.as_str()),
        ("out\nout2", "err\nno-newline")
    );
}

#[tokio::test]
async fn standard_input_is_null_or_the_given_bytes() {
    let fixture = Fixture::new();
    assert_eq!(fixture.run("wc -c").await.stdout, "0");
    let mut spec = fixture.spec("wc -c; wc -c < /dev/stdin");
    spec.stdin = Stdin::Bytes(Contents(vec![b'x'; 3 << 20]));
    spec.user = User::Named("app".into());
    // The second program opens the file anew, and so from its start.
    assert_eq!(run(&spec).await.expect("runs").stdout, "3145728\n3145728");
}

#[tokio::test]
async fn the_environment_is_exactly_the_given_one() {
    let fixture = Fixture::new();
    let mut spec = fixture.spec("");
    spec.args = vec!["/usr/bin/env".into()];
    spec.env = vec![
        ("B".into(), "1 'x'=\"\n".into()),
        ("A".into(), String::new()),
    ];
    assert_eq!(
        run(&spec).await.expect("runs").stdout,
        "B=1 'x'=\"\n\nA=\nHOME=/root"
    );
    spec.env = vec![("HOME".into(), "/else".into())];
    assert_eq!(run(&spec).await.expect("runs").stdout, "HOME=/else");
}

#[tokio::test]
async fn commands_that_cannot_be_executed_are_told_apart_from_the_set_up() {
    let fixture = Fixture::new();
    let file = |name: &str, text: &[u8], mode: u32| {
        let path = fixture.path("lower").join(name);
        std::fs::write(&path, text).expect("file");
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("mode");
    };
    file("plain", b"#!/bin/sh\n", 0o644);
    file("orphan", b"#!/no/such/interpreter\n", 0o755);
    file("garbage", b"\x7fELF and nothing more", 0o755);
    for (program, code, words) in [
        ("no-such-program", 127, "executable file not found in PATH"),
        ("/no/such/program", 127, "no such file"),
        ("/etc/passwd/x", 127, "Not a directory"),
        ("/plain", 126, "permission denied"),
        ("/etc", 126, "permission denied"),
        ("/orphan", 127, "interpreter"),
        ("/garbage", 126, "exec format error"),
    ] {
        let mut spec = fixture.spec("");
        spec.args = vec![program.into()];
        let error = run(&spec).await.expect_err(program);
        assert_eq!(error.exit_code(), Some(code), "{program}: {error}");
        assert!(error.to_string().contains(words), "{program}: {error}");
    }
    assert!(fixture.changes().is_empty(), "{:?}", fixture.changes());
}

#[tokio::test]
async fn users_are_looked_up_in_the_image() {
    let fixture = Fixture::new();
    for (user, expect) in [
        (User::Named(String::new()), "0 0 0 /root"),
        (User::Named("app".into()), "1000 1000 1000 1234 /home/app"),
        (User::Named("1000".into()), "1000 1000 1000 1234 /home/app"),
        (User::Named("app:extra".into()), "1000 1234 1234 /home/app"),
        (User::Named("4321:77".into()), "4321 77 77 /"),
        (
            User::Ids {
                uid: 1000,
                gid: 5,
                groups: vec![6, 7],
            },
            "1000 5 5 6 7 /home/app",
        ),
    ] {
        let mut spec = fixture.spec("echo $(id -u) $(id -g) $(id -G) $HOME");
        spec.user = user.clone();
        assert_eq!(run(&spec).await.expect("runs").stdout, expect, "{user:?}");
    }
    let mut spec = fixture.spec("true");
    spec.user = User::Named("ghost".into());
    let error = run(&spec).await.expect_err("no such user");
    assert!(matches!(error, SandboxError::User { .. }), "{error}");
    assert!(error.to_string().contains("no user \"ghost\""), "{error}");
}

#[tokio::test]
async fn other_users_may_open_the_output_anew() {
    let fixture = Fixture::new();
    let mut spec = fixture.spec("echo a > /dev/stdout; echo b > /dev/stderr; echo c > /dev/null");
    spec.user = User::Named("app".into());
    let ran = run(&spec).await.expect("runs");
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("a", "b"));
    assert!(ran.exit.status.success());
}

#[tokio::test]
async fn the_working_directory_is_made_when_it_is_missing() {
    let fixture = Fixture::new();
    let mut spec = fixture.spec("pwd; stat -c '%a %u' .");
    spec.cwd = "/opt/deep/../new/one".into();
    spec.user = User::Named("app".into());
    assert_eq!(
        run(&spec).await.expect("runs").stdout,
        "/opt/new/one\n755 0"
    );
    assert_eq!(fixture.changes(), ["opt", "opt/new", "opt/new/one"]);

    let mut spec = fixture.spec("pwd");
    spec.cwd = "/etc/passwd".into();
    let error = run(&spec).await.expect_err("a file");
    assert!(
        error
            .to_string()
            .contains("the working directory /etc/passwd"),
        "{error}"
    );
}

#[tokio::test]
async fn the_process_starts_clean() {
    let fixture = Fixture::new();
    let script = "sed -En '/^(Sig(Blk|Ign|Cgt)|Cap|NoNew)/p' /proc/self/status | tr -s '\\t\\n' ' '; \
                  umask; ulimit -c; ulimit -n; hostname; cat /proc/self/oom_score_adj";
    let mut spec = fixture.spec(script);
    let default = "00000000a80425fb";
    let clean = "SigBlk: 0000000000000000 SigIgn: 0000000000000000 SigCgt: 0000000000000000";
    let rest = "NoNewPrivs: 0 0022\n0\n1024\nsandbox\n500";
    let none = "0000000000000000";
    let capabilities = |own: &str, bounding: &str| {
        format!(
            "{clean} CapInh: {none} CapPrm: {own} CapEff: {own} CapBnd: {bounding} \
             CapAmb: {none} {rest}"
        )
    };
    assert_eq!(
        run(&spec).await.expect("runs").stdout,
        capabilities(default, default)
    );
    spec.user = User::Named("app".into());
    assert_eq!(
        run(&spec).await.expect("runs").stdout,
        capabilities(none, default)
    );
    spec.user = User::default();
    spec.capabilities = Capabilities::None;
    assert_eq!(
        run(&spec).await.expect("runs").stdout,
        capabilities(none, none)
    );
}

#[tokio::test]
async fn set_user_id_programs_work() {
    let fixture = Fixture::new();
    let program = fixture.path("lower/asroot");
    std::fs::copy("/usr/bin/id", &program).expect("copy");
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o4755)).expect("mode");
    let mut spec = fixture.spec("id -u; /asroot -u");
    spec.user = User::Named("app".into());
    assert_eq!(run(&spec).await.expect("runs").stdout, "1000\n0");
}

#[tokio::test]
async fn no_descriptor_of_the_parent_gets_in() {
    let fixture = Fixture::new();
    let leaked = std::fs::File::open("/etc/passwd").expect("file");
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).expect("flag cleared");
    // 3 is the listing's own.
    assert_eq!(fixture.run("ls /proc/self/fd").await.stdout, "0\n1\n2\n3");
}

#[tokio::test]
async fn usage_is_counted() {
    let fixture = Fixture::new();
    let ran = fixture
        .run("i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done")
        .await;
    assert!(
        !ran.exit.usage.user.is_zero() && ran.exit.usage.max_rss_bytes > 0,
        "{ran:?}"
    );
}

#[tokio::test]
async fn a_read_only_root_takes_no_change() {
    let fixture = Fixture::new();
    let mut spec = fixture.spec("touch /x && echo written; touch /dev/shm/x && echo memory");
    spec.read_only_root = true;
    assert_eq!(run(&spec).await.expect("runs").stdout, "memory");
    assert!(fixture.changes().is_empty(), "{:?}", fixture.changes());
}
