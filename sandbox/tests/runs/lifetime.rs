//! Time limits, cancellation, and what is left afterwards: nothing.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use chalk_sandbox::{Mount, Running, Status, Stream};
use tokio_util::sync::CancellationToken;

use crate::support::{Fixture, run, run_until};

/// Has a test of this file, run by another process, use this directory.
const INNER: &str = "CHALK_SANDBOX_TEST_INNER";

/// A number of seconds to sleep that names one run's processes on this machine.
fn unique_sleep() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("98765.{}{number:03}", std::process::id())
}

/// How many processes of the machine, zombies left out, have `text` in their arguments.
fn processes_with(text: &str) -> usize {
    std::fs::read_dir("/proc")
        .expect("readable")
        .filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok())
        .filter(|arguments| {
            arguments
                .split(|byte| *byte == 0)
                .any(|argument| argument == text.as_bytes())
        })
        .count()
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never came: {what}");
}

/// Leaves processes behind in every way: background, new session, twice forked, signals ignored.
fn daemons(seconds: &str) -> String {
    format!(
        "sleep {seconds} & setsid sleep {seconds} & (setsid sh -c '(trap \"\" TERM HUP INT; \
         sleep {seconds}) &') & (sleep {seconds} < /dev/null > /dev/null 2>&1 &)"
    )
}

#[tokio::test]
async fn daemons_end_with_the_command() {
    let fixture = Fixture::new();
    let seconds = unique_sleep();
    let ran = fixture
        .run(&format!("{}; echo started", daemons(&seconds)))
        .await;
    assert_eq!(
        (ran.stdout.as_str(), ran.exit.status),
        ("started", Status::Code(0))
    );
    assert_eq!(processes_with(&seconds), 0);
}

#[tokio::test]
async fn the_time_limit_ends_everything_and_keeps_the_output() {
    let fixture = Fixture::new();
    let seconds = unique_sleep();
    let mut spec = fixture.spec(&format!(
        "trap '' TERM INT; {}; echo started; sleep {seconds}",
        daemons(&seconds)
    ));
    spec.timeout = Some(Duration::from_millis(500));
    let ran = run(&spec).await.expect("runs");
    assert_eq!(
        (ran.stdout.as_str(), ran.exit.status),
        ("started", Status::TimedOut)
    );
    assert_eq!(processes_with(&seconds), 0);
}

#[tokio::test]
async fn cancelling_ends_everything() {
    let fixture = Fixture::new();
    let seconds = unique_sleep();
    let spec = fixture.spec(&format!("{}; sleep {seconds}", daemons(&seconds)));
    let cancel = CancellationToken::new();
    let running = run_until(&spec, &cancel);
    let stop = async {
        until("the processes", || processes_with(&seconds) >= 5).await;
        cancel.cancel();
    };
    let (ran, ()) = tokio::join!(running, stop);
    assert_eq!(ran.expect("runs").exit.status, Status::Cancelled);
    assert_eq!(processes_with(&seconds), 0);

    // Cancelled before it began, or while it is set up.
    assert_eq!(
        run_until(&spec, &cancel).await.expect("runs").exit.status,
        Status::Cancelled
    );
    assert_eq!(processes_with(&seconds), 0);
}

#[tokio::test]
async fn dropping_the_future_ends_everything() {
    let fixture = Fixture::new();
    let seconds = unique_sleep();
    let spec = fixture.spec(&format!("{}; sleep {seconds}", daemons(&seconds)));
    tokio::select! {
        _ = run(&spec) => panic!("ended by itself"),
        () = until("the processes", || processes_with(&seconds) >= 5) => {}
    }
    until("the end", || processes_with(&seconds) == 0).await;
}

#[tokio::test]
async fn a_cancelled_run_does_not_wait_for_its_sink() {
    struct Stuck;
    impl chalk_sandbox::OutputSink for Stuck {
        async fn write(&mut self, _: Stream, _: &[u8]) {
            std::future::pending::<()>().await;
        }
    }
    let fixture = Fixture::new();
    let cancel = CancellationToken::new();
    let spec = fixture.spec("cat /dev/zero");
    let mut sink = Stuck;
    let stop = async {
        until("the command", || processes_with("cat /dev/zero") > 0).await;
        cancel.cancel();
    };
    let (exit, ()) = tokio::join!(chalk_sandbox::run(&spec, &mut sink, &cancel), stop);
    assert_eq!(exit.expect("runs").status, Status::Cancelled);
}

#[tokio::test]
async fn signals_are_passed_on_to_the_command_alone() {
    let fixture = Fixture::new();
    let spec =
        fixture.spec("trap 'echo got; exit 7' TERM; echo ready; while :; do sleep 0.05; done");
    let running = Running::start(&spec).expect("starts");
    let handle = running.handle();
    let mut output = Vec::new();
    let mut sink = |_: Stream, bytes: &[u8]| {
        output.extend_from_slice(bytes);
        if output == b"ready\n" {
            handle.signal(15);
        }
    };
    let exit = running
        .wait(&mut sink, &CancellationToken::new())
        .await
        .expect("runs");
    assert_eq!(
        (output.as_slice(), exit.status),
        (b"ready\ngot\n".as_slice(), Status::Code(7))
    );
}

#[tokio::test]
async fn signals_that_come_early_wait_for_the_command() {
    let fixture = Fixture::new();
    for _ in 0..20 {
        let running = Running::start(&fixture.spec("sleep 1000")).expect("starts");
        running.handle().signal(15);
        let mut sink = |_: Stream, _: &[u8]| {};
        let exit = running
            .wait(&mut sink, &CancellationToken::new())
            .await
            .expect("runs");
        assert_eq!(exit.status, Status::Signal(15));
    }
}

#[tokio::test]
async fn a_killed_helper_takes_everything_along_and_is_told() {
    let fixture = Fixture::new();
    let seconds = unique_sleep();
    let spec = fixture.spec(&format!("{}; sleep {seconds}", daemons(&seconds)));
    let running = Running::start(&spec).expect("starts");
    let helper = rustix::process::Pid::from_raw(running.helper_pid()).expect("a pid");
    let mut sink = |_: Stream, _: &[u8]| {};
    let cancel = CancellationToken::new();
    let kill = async {
        until("the processes", || processes_with(&seconds) >= 5).await;
        rustix::process::kill_process(helper, rustix::process::Signal::KILL).expect("killed");
    };
    let (result, ()) = tokio::join!(running.wait(&mut sink, &cancel), kill);
    let error = result.expect_err("no end was reported");
    assert!(
        matches!(error, chalk_sandbox::SandboxError::HelperDied { .. }),
        "{error}"
    );
    until("the end", || processes_with(&seconds) == 0).await;
}

#[tokio::test]
async fn a_gigabyte_of_output_passes() {
    let fixture = Fixture::new();
    let spec = fixture.spec("head -c 1G /dev/zero; head -c 100M /dev/zero >&2");
    let (mut stdout, mut stderr, mut greatest) = (0_u64, 0_u64, 0);
    let mut sink = |stream: Stream, bytes: &[u8]| {
        greatest = greatest.max(bytes.len());
        *(if stream == Stream::Stdout {
            &mut stdout
        } else {
            &mut stderr
        }) += bytes.len() as u64;
    };
    let exit = chalk_sandbox::run(&spec, &mut sink, &CancellationToken::new()).await;
    assert!(exit.expect("runs").status.success());
    assert_eq!((stdout, stderr), (1 << 30, 100 << 20));
    assert!(greatest <= 64 << 10, "{greatest}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn eight_at_once() {
    let tasks: Vec<_> = (0..8)
        .map(|number| {
            tokio::spawn(async move {
                let fixture = Fixture::new();
                for round in 0..5 {
                    let ran = fixture
                        .run(&format!("echo {number} {round}; exit {number}"))
                        .await;
                    assert_eq!(ran.stdout, format!("{number} {round}"));
                    assert_eq!(ran.exit.status, Status::Code(number));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("passes");
    }
}

#[tokio::test]
async fn secrets_stand_in_no_process_list() {
    let fixture = Fixture::new();
    let secret = format!("hunter2-{}", unique_sleep());
    let seconds = unique_sleep();
    let mut spec = fixture.spec(&format!("cat /run/secrets/token; exec sleep {seconds}"));
    spec.mounts.push(Mount::File {
        contents: chalk_sandbox::Contents(secret.clone().into_bytes()),
        target: "/run/secrets/token".into(),
        uid: 0,
        gid: 0,
        mode: 0o400,
    });
    spec.env.push(("TOKEN".into(), secret.clone()));
    let cancel = CancellationToken::new();
    let look = async {
        until("the command", || processes_with(&seconds) > 0).await;
        let mut holders = Vec::new();
        for entry in std::fs::read_dir("/proc").expect("readable") {
            let path = entry.expect("entry").path();
            for file in ["cmdline", "environ"] {
                let text = std::fs::read(path.join(file)).unwrap_or_default();
                if text
                    .windows(secret.len())
                    .any(|part| part == secret.as_bytes())
                {
                    let command = std::fs::read(path.join("cmdline")).unwrap_or_default();
                    holders.push(format!("{file} of {}", String::from_utf8_lossy(&command)));
                }
            }
        }
        cancel.cancel();
        holders
    };
    let (ran, holders) = tokio::join!(run_until(&spec, &cancel), look);
    assert_eq!(ran.expect("runs").stdout, secret);
    // The command's own environment is what was asked for.
    assert_eq!(holders, [format!("environ of sleep\0{seconds}\0")]);
}

/// Runs another test of this file in a process of its own.
fn inner(test: &str, directory: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("own file"));
    command
        .args([
            "--exact",
            &format!("lifetime::{test}"),
            "--ignored",
            "--nocapture",
        ])
        .env(INNER, directory)
        // What it leaves when it is killed goes with the directory.
        .env("TMPDIR", directory)
        .stdout(Stdio::null());
    command
}

#[tokio::test]
async fn everything_ends_with_a_killed_parent() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let mut parent = inner("inner_parent", directory.path())
        .spawn()
        .expect("starts");
    let file = directory.path().join("seconds");
    until("the name of the run", || file.exists()).await;
    let seconds = std::fs::read_to_string(&file).expect("readable");
    until("the processes", || processes_with(&seconds) >= 5).await;
    parent.kill().expect("killed");
    assert_eq!(parent.wait().expect("ended").signal(), Some(9));
    until("the end", || processes_with(&seconds) == 0).await;
}

#[tokio::test]
#[ignore = "the victim of everything_ends_with_a_killed_parent"]
async fn inner_parent() {
    let directory = PathBuf::from(std::env::var_os(INNER).expect("run by another test"));
    let fixture = Fixture::new();
    let seconds = unique_sleep();
    let temporary = directory.join("new");
    std::fs::write(&temporary, &seconds).expect("written");
    std::fs::rename(&temporary, directory.join("seconds")).expect("renamed");
    fixture
        .run(&format!("{}; sleep {seconds}", daemons(&seconds)))
        .await;
}

#[test]
fn without_privileges_the_error_says_what_to_do() {
    let directory = tempfile::tempdir().expect("temporary directory");
    for (arguments, expect) in [
        (
            ["--reuid=1000", "--clear-groups"],
            "did not go into a user namespace",
        ),
        (
            ["--bounding-set=-sys_admin", "--inh-caps=-all"],
            "CAP_SYS_ADMIN",
        ),
    ] {
        let inner = inner("inner_unprivileged", directory.path());
        // The test program may lie where another user cannot reach it.
        let program = directory.path().join("program");
        // Copied by another process: one that this process starts at the same time could hold a
        // descriptor that was open for writing, and then it could not be executed.
        let status = Command::new("cp")
            .args([inner.get_program(), program.as_os_str()])
            .status();
        assert!(status.expect("cp runs").success());
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(directory.path(), open).expect("opened");
        let output = Command::new("setpriv")
            .args(arguments)
            .arg(&program)
            .args(inner.get_args())
            .env(INNER, expect)
            .output()
            .expect("runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{expect}: {text}"
        );
    }
}

#[tokio::test]
#[ignore = "needs to run without privileges: part of without_privileges_the_error_says_what_to_do"]
async fn inner_unprivileged() {
    let expect = std::env::var(INNER).expect("run by another test");
    let spec = chalk_sandbox::RunSpec::new(chalk_sandbox::Root::Plain("/".into()), ["true"]);
    let error = run(&spec).await.expect_err("no privileges");
    assert!(error.to_string().contains(&expect), "{error}");
}

#[test]
fn two_hundred_runs_leave_nothing_behind() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let output = inner("inner_repeated", directory.path())
        .output()
        .expect("runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    // A test harness is content when it finds no test of that name.
    assert!(directory.path().join("passed").exists());
}

#[tokio::test]
#[ignore = "needs a process of its own: part of two_hundred_runs_leave_nothing_behind"]
async fn inner_repeated() {
    let directory = PathBuf::from(std::env::var_os(INNER).expect("run by another test"));
    let descriptors = || {
        std::fs::read_dir("/proc/self/fd")
            .expect("readable")
            .count()
    };
    let mounts = || std::fs::read_to_string("/proc/self/mountinfo").expect("readable");
    let children = || {
        let path = format!("/proc/self/task/{}/children", std::process::id());
        std::fs::read_to_string(path).unwrap_or_default()
    };
    let fixture = Fixture::new();
    let mut before = None;
    for number in 0..200 {
        let mut spec = fixture.spec(if number % 3 == 0 {
            "sleep 1000 & exit 1"
        } else {
            "true"
        });
        if number % 5 == 0 {
            spec.args = vec!["no-such-program".into()];
        }
        let _ = run(&spec).await;
        // The first runs open what the runtime keeps.
        if number == 5 {
            before = Some((descriptors(), mounts(), children()));
        }
    }
    assert_eq!(Some((descriptors(), mounts(), children())), before);
    std::fs::write(directory.join("passed"), "").expect("written");
}
