//! Files read and written in a running sandbox, and a sandbox that runs nothing of its root.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt, symlink};
use std::path::Path;

use chalk_sandbox::{
    ExecSpec, Exit, FileInput, FileWork, Handle, RunSpec, Running, SandboxError, Status, Stream,
    User,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::Fixture;

/// A sandbox in which nothing happens.
struct Idle {
    handle: Handle,
    cancel: CancellationToken,
    task: JoinHandle<Result<Exit, SandboxError>>,
}

impl Idle {
    fn start(spec: &RunSpec) -> Idle {
        let running = Running::start(spec).expect("starts");
        let (handle, cancel) = (running.handle(), CancellationToken::new());
        let token = cancel.clone();
        let task = tokio::spawn(async move {
            let mut sink = |_: Stream, _: &[u8]| ();
            running.wait(&mut sink, &token).await
        });
        Idle {
            handle,
            cancel,
            task,
        }
    }

    async fn end(self) -> Exit {
        self.cancel.cancel();
        self.task.await.expect("no panic").expect("ran")
    }

    async fn read(&self, path: &str, user: &str) -> Result<Vec<u8>, SandboxError> {
        let work = FileWork::Read { path: path.into() };
        let user = User::Named(user.into());
        let running = self.handle.file(work, Path::new("/tmp"), user).await?;
        let mut bytes = Vec::new();
        let mut sink = |_: Stream, piece: &[u8]| bytes.extend_from_slice(piece);
        running.wait(&mut sink, &CancellationToken::new()).await?;
        Ok(bytes)
    }

    async fn write(
        &self,
        path: &str,
        user: &str,
        mode: Option<u32>,
        bytes: &[u8],
        whole: bool,
    ) -> Result<(), SandboxError> {
        let work = FileWork::Write {
            path: path.into(),
            mode,
        };
        let user = User::Named(user.into());
        let mut running = self.handle.file(work, Path::new("/tmp"), user).await?;
        let mut input = FileInput::new(running.take_input().expect("an input"));
        let give = async {
            // What could not be opened takes nothing; its end says why.
            if input.write(bytes).await.is_ok() && whole {
                let _ = input.commit().await;
            }
        };
        let mut sink = |_: Stream, _: &[u8]| ();
        let cancel = CancellationToken::new();
        let (result, ()) = tokio::join!(running.wait(&mut sink, &cancel), give);
        result.map(drop)
    }
}

/// Errno of a failure with a file; 0 when it went well.
fn errno<T>(result: Result<T, SandboxError>) -> i32 {
    match result {
        Ok(_) => 0,
        Err(SandboxError::File { source, .. }) => source.raw_os_error().unwrap_or(-1),
        Err(error) => panic!("{error}"),
    }
}

fn idle(fixture: &Fixture) -> RunSpec {
    let mut spec = fixture.spec("");
    spec.args.clear();
    spec.idle = true;
    spec
}

#[tokio::test]
async fn an_idle_sandbox_needs_nothing_of_its_root_and_ends_by_a_signal() {
    let fixture = Fixture::new();
    let mut spec = idle(&fixture);
    // Not even a shell.
    spec.mounts.clear();
    let sandbox = Idle::start(&spec);
    assert!(sandbox.handle.started().await);
    sandbox.handle.signal(15);
    let exit = sandbox.task.await.expect("no panic").expect("ran");
    assert_eq!(exit.status, Status::Signal(15));

    let sandbox = Idle::start(&idle(&fixture));
    let mut command = ExecSpec::new(["/bin/sh", "-c", "echo here; cat /proc/2/maps"]);
    command.user = User::Named("0".into());
    let running = sandbox.handle.exec(&command).await.expect("starts");
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut sink = |stream: Stream, bytes: &[u8]| match stream {
        Stream::Stdout => out.extend_from_slice(bytes),
        Stream::Stderr => err.extend_from_slice(bytes),
    };
    let exit = running.wait(&mut sink, &CancellationToken::new()).await;
    assert_eq!(String::from_utf8_lossy(&out), "here\n");
    // The process is the host's program, and nobody inside may look into it.
    assert_ne!(exit.expect("ran").status, Status::Code(0));
    assert!(String::from_utf8_lossy(&err).contains("Permission denied"));
    assert_eq!(sandbox.end().await.status, Status::Cancelled);
}

#[tokio::test]
async fn files_are_written_whole_or_not_at_all() {
    let fixture = Fixture::new();
    let sandbox = Idle::start(&idle(&fixture));
    let upper = |path: &str| fixture.path("upper").join(path);
    let mode = |path: &str| std::fs::metadata(upper(path)).expect("there").mode() & 0o7777;

    // More than any buffer on the way holds.
    let big: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    sandbox
        .write("/tmp/big", "0", None, &big, true)
        .await
        .expect("written");
    assert_eq!(
        (
            std::fs::read(upper("tmp/big")).expect("there"),
            mode("tmp/big")
        ),
        (big.clone(), 0o644)
    );
    assert_eq!(sandbox.read("/tmp/big", "0").await.expect("read"), big);
    // Relative to the working directory; odd names; modes, also of an empty file.
    sandbox
        .write("a\nb ü", "0", Some(0o4751), b"", true)
        .await
        .expect("written");
    assert_eq!(mode("tmp/a\nb ü"), 0o4751);
    // What stands there keeps its mode and owner, and is as it was when the writer dies.
    sandbox
        .write("/home/app/f", "app", Some(0o600), b"old", true)
        .await
        .expect_err("not theirs");
    let fixture_2 = Fixture::new();
    std::os::unix::fs::chown(fixture_2.path("lower/home/app"), Some(1000), Some(1000))
        .expect("owner");
    let second = Idle::start(&idle(&fixture_2));
    second
        .write("/home/app/f", "app", Some(0o600), b"old", true)
        .await
        .expect("written");
    assert_eq!(
        errno(second.write("/home/app/f", "0", None, b"half", false).await),
        125
    );
    assert_eq!(
        second.read("/home/app/f", "app").await.expect("read"),
        b"old"
    );
    second
        .write("/home/app/f", "0", None, b"new", true)
        .await
        .expect("written");
    let there = std::fs::metadata(fixture_2.path("upper/home/app/f")).expect("there");
    assert_eq!((there.uid(), there.mode() & 0o7777), (1000, 0o600));
    assert_eq!(fixture_2.changes(), ["home", "home/app", "home/app/f"]);
    second.end().await;
    sandbox.end().await;
}

#[tokio::test]
async fn paths_lead_where_they_lead_inside_and_rights_are_those_of_the_user() {
    let fixture = Fixture::new();
    let lower = |path: &str| fixture.path("lower").join(path);
    let outside = fixture.path("outside");
    std::fs::write(&outside, "secret of the host").expect("file");
    symlink(&outside, lower("tmp/out")).expect("link");
    symlink("../../../../etc/passwd", lower("tmp/up")).expect("link");
    symlink("/tmp/loop", lower("tmp/loop")).expect("link");
    symlink("new", lower("tmp/dangling")).expect("link");
    std::fs::write(lower("opt/private"), "x").expect("file");
    std::fs::set_permissions(lower("opt/private"), PermissionsExt::from_mode(0o600)).expect("mode");
    std::fs::write(lower("home/app/fixed"), "x").expect("file");
    std::os::unix::fs::chown(lower("home/app"), Some(1000), Some(1000)).expect("owner");
    let mut spec = idle(&fixture);
    std::fs::write(fixture.path("mounted"), "before").expect("file");
    spec.mounts.push(chalk_sandbox::Mount::Bind {
        source: fixture.path("mounted"),
        target: "/opt/mounted".into(),
        read_only: false,
    });
    let sandbox = Idle::start(&spec);

    let passwd = std::fs::read(lower("etc/passwd")).expect("there");
    assert_eq!(sandbox.read("up", "app").await.expect("read"), passwd);
    for (path, user, expect) in [
        ("out", "0", 2),
        ("/nope", "0", 2),
        ("/etc/passwd/x", "0", 20),
        ("/tmp", "0", 21),
        ("loop", "0", 40),
        ("/opt/private", "app", 13),
        ("/dev/zero", "0", 95),
        // Ways to the host by way of the process that reads.
        ("/proc/self/exe", "0", 40),
        ("/proc/self/fd/3", "0", 40),
        ("/proc/self/root/etc/passwd", "0", 40),
        ("/proc/1/root/etc/passwd", "0", 13),
    ] {
        let got = errno(sandbox.read(path, user).await);
        assert_eq!(got, expect, "reading {path}");
    }
    assert!(
        !sandbox
            .read("/proc/self/status", "app")
            .await
            .expect("read")
            .is_empty()
    );

    for (path, user, expect) in [
        ("/no/dir", "0", 2),
        ("/etc/passwd/x", "0", 20),
        ("/tmp/", "0", 21),
        ("/opt", "0", 21),
        ("loop", "0", 40),
        ("/dev/null", "0", 95),
        ("/opt/new", "app", 13),
        // Their directory, but not their file.
        ("/home/app/fixed", "app", 13),
        ("/proc/self/fd/3", "0", 2),
        ("/proc/self/root/tmp/x", "0", 40),
        ("/usr/x", "0", 30),
    ] {
        let got = errno(sandbox.write(path, user, None, b"y", true).await);
        assert_eq!(got, expect, "writing {path}");
    }
    // Through links, to where they lead inside; over what is mounted.
    sandbox
        .write("dangling", "0", None, b"linked", true)
        .await
        .expect("written");
    assert_eq!(
        sandbox.read("/tmp/new", "0").await.expect("read"),
        b"linked"
    );
    sandbox
        .write("/opt/mounted", "0", None, b"after", true)
        .await
        .expect("written");
    assert_eq!(
        std::fs::read(fixture.path("mounted")).expect("there"),
        b"after"
    );
    assert_eq!(
        std::fs::read(&outside).expect("there"),
        b"secret of the host"
    );
    sandbox.end().await;
    let left = fixture.changes();
    assert!(
        !left.iter().any(|path| path.contains(".chalk-upload")),
        "{left:?}"
    );
}
