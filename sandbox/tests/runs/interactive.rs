//! Standard input as a stream, terminals, and further commands in a running sandbox.

use std::time::Duration;

use chalk_sandbox::{
    ExecSpec, Exit, Handle, Mount, Network, RunSpec, Running, SandboxError, Status, Stdin, Stream,
    TerminalSize, User,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::Fixture;

const SIZE: TerminalSize = TerminalSize { rows: 33, cols: 99 };

/// A run that goes on in a task of its own, and what it printed so far.
struct Talk {
    handle: Handle,
    input: Option<chalk_sandbox::Input>,
    cancel: CancellationToken,
    output: mpsc::UnboundedReceiver<Vec<u8>>,
    seen: String,
    task: JoinHandle<Result<Exit, SandboxError>>,
}

fn talk(mut running: Running) -> Talk {
    let (sender, output) = mpsc::unbounded_channel();
    let (handle, input) = (running.handle(), running.take_input());
    let cancel = CancellationToken::new();
    let token = cancel.clone();
    let task = tokio::spawn(async move {
        let mut sink = move |_: Stream, bytes: &[u8]| drop(sender.send(bytes.to_vec()));
        running.wait(&mut sink, &token).await
    });
    Talk {
        handle,
        input,
        cancel,
        output,
        seen: String::new(),
        task,
    }
}

impl Talk {
    fn start(spec: &RunSpec) -> Talk {
        talk(Running::start(spec).expect("starts"))
    }

    /// Reads until `text` was printed; forgets everything up to there.
    async fn until(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            let more = tokio::time::timeout(Duration::from_secs(30), self.output.recv()).await;
            match more {
                Ok(Some(bytes)) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Ok(None) => panic!("ended without {text:?}: {:?}", self.seen),
                Err(_) => panic!("never printed {text:?}: {:?}", self.seen),
            }
        }
    }

    async fn write(&mut self, text: &str) {
        let input = self.input.as_mut().expect("an input");
        input.write(text.as_bytes()).await.expect("written");
    }

    /// Waits for the end; gives the rest of the output, too.
    async fn end(mut self) -> (Status, String) {
        drop(self.input.take());
        let task = tokio::time::timeout(Duration::from_secs(30), self.task).await;
        let exit = task.expect("ends").expect("no panic").expect("runs");
        while let Some(bytes) = self.output.recv().await {
            self.seen.push_str(&String::from_utf8_lossy(&bytes));
        }
        (exit.status, self.seen)
    }
}

async fn exec(handle: &Handle, script: &str) -> (Status, String) {
    let spec = ExecSpec::new(["/bin/sh", "-c", script]);
    talk(handle.exec(&spec).await.expect("starts")).end().await
}

#[tokio::test]
async fn standard_input_is_a_stream() {
    let fixture = Fixture::new();
    let mut spec = fixture.spec("while read line; do echo \"got $line\"; done; echo end");
    spec.stdin = Stdin::Stream;
    let mut talk = Talk::start(&spec);
    for word in ["one", "two"] {
        talk.write(&format!("{word}\n")).await;
        talk.until(&format!("got {word}\n")).await;
    }
    talk.input
        .take()
        .expect("open")
        .close()
        .await
        .expect("closed");
    assert_eq!(talk.end().await, (Status::Code(0), "end\n".to_owned()));
}

#[tokio::test]
async fn a_command_that_reads_nothing_holds_the_writer_up() {
    let fixture = Fixture::new();
    let mut spec = fixture.spec("echo up; read go < /tmp/fifo; cat | wc -c");
    spec.args[2] = format!("mkfifo /tmp/fifo; {}", spec.args[2]);
    spec.stdin = Stdin::Stream;
    let mut talk = Talk::start(&spec);
    talk.until("up").await;
    let bytes = vec![b'x'; 1 << 20];
    let mut input = talk.input.take().expect("open");
    let early = tokio::time::timeout(Duration::from_millis(300), input.write(&bytes)).await;
    assert!(
        early.is_err(),
        "a megabyte went into a pipe that nobody reads"
    );
    assert_eq!(
        exec(&talk.handle, "echo > /tmp/fifo").await.0,
        Status::Code(0)
    );
    input.write(b"y").await.expect("read by now");
    drop(input);
    let (status, count) = talk.end().await;
    let count: usize = count.trim().parse().expect("a number");
    assert_eq!(status, Status::Code(0));
    assert!((4096..=(1 << 20) + 1).contains(&count), "{count}");
}

#[tokio::test]
async fn writing_to_a_command_that_ended_fails() {
    let fixture = Fixture::new();
    let mut spec = fixture.spec("true");
    spec.stdin = Stdin::Stream;
    let mut talk = Talk::start(&spec);
    let mut input = talk.input.take().expect("open");
    talk.until_end().await;
    let error = input
        .write(&vec![0; 1 << 20])
        .await
        .expect_err("nobody reads");
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
}

impl Talk {
    async fn until_end(&mut self) {
        (&mut self.task).await.expect("no panic").expect("runs");
    }
}

#[tokio::test]
async fn a_terminal_is_a_terminal() {
    let fixture = Fixture::new();
    let mut spec = fixture.spec(
        "tty; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo all; stty size; stat -c %U /dev/console \
         $(tty); echo there > /dev/console; echo here > /dev/tty; trap 'stty size; exit 4' WINCH; \
         echo ready; while :; do sleep 0.05; done",
    );
    spec.user = User::Named("app".into());
    spec.terminal = Some(SIZE);
    let mut talk = Talk::start(&spec);
    let text = talk.until("ready\r\n").await;
    assert_eq!(
        text,
        "/dev/pts/0\r\nall\r\n33 99\r\napp\r\napp\r\nthere\r\nhere\r\nready\r\n"
    );
    talk.handle
        .resize(TerminalSize { rows: 50, cols: 7 })
        .await
        .expect("resized");
    assert_eq!(talk.end().await, (Status::Code(4), "50 7\r\n".to_owned()));
}

#[tokio::test]
async fn what_is_typed_is_line_edited_and_interrupts() {
    let fixture = Fixture::new();
    let mut spec = fixture.spec(
        "trap 'echo out; exit 6' INT; read line; echo \"got $line\"; cat; echo end; \
         while :; do sleep 0.05; done",
    );
    spec.terminal = Some(SIZE);
    let mut talk = Talk::start(&spec);
    talk.write("abX\x7fc\n").await;
    talk.until("got abc\r\n").await;
    talk.write("\x04").await;
    talk.until("end\r\n").await;
    talk.write("\x03").await;
    let (status, rest) = talk.end().await;
    assert_eq!((status, rest.as_str()), (Status::Code(6), "^Cout\r\n"));
}

#[tokio::test]
async fn all_output_of_a_terminal_arrives() {
    let fixture = Fixture::new();
    for _ in 0..5 {
        let mut spec = fixture.spec("seq 20000");
        spec.terminal = Some(SIZE);
        let (status, text) = Talk::start(&spec).end().await;
        assert_eq!(status, Status::Code(0));
        assert_eq!(text.lines().count(), 20_000);
        assert!(text.ends_with("20000\r\n"));
    }
}

#[tokio::test]
async fn a_further_command_is_in_the_same_sandbox() {
    let fixture = Fixture::new();
    let namespaces = "for n in mnt pid ipc uts net cgroup; do readlink /proc/self/ns/$n; done";
    let mut spec = fixture.spec(&format!(
        "{namespaces} > /tmp/namespaces; echo kept > /tmp/file; echo up; sleep 1000"
    ));
    spec.network = Network::None;
    spec.hostname = "inner".into();
    spec.mounts.push(Mount::Tmpfs {
        target: "/opt/deep".into(),
        size: None,
        mode: 0o755,
    });
    let mut talk = Talk::start(&spec);
    talk.until("up").await;
    let (status, text) = exec(
        &talk.handle,
        &format!(
            "cat /tmp/file; hostname; {namespaces} | diff - /tmp/namespaces; \
             grep -E 'CapBnd|Seccomp:' /proc/self/status; ls /proc/self/fd | wc -l; \
             echo $(ps -eo args | grep -c '^sleep 100[0]'); cat /proc/self/oom_score_adj; exit 3"
        ),
    )
    .await;
    let text: Vec<&str> = text.lines().collect();
    assert_eq!(
        (status, text.join(" ").as_str()),
        (
            Status::Code(3),
            "kept inner CapBnd:\t00000000a80425fb Seccomp:\t2 4 1 500"
        )
    );
    talk.cancel.cancel();
    assert_eq!(talk.end().await.0, Status::Cancelled);
}

#[tokio::test]
async fn further_commands_have_terminals_users_input_and_signals() {
    let fixture = Fixture::new();
    let mut talk = Talk::start(&fixture.spec("echo up; sleep 1000"));
    talk.until("up").await;

    let mut spec = ExecSpec::new([
        "sh",
        "-c",
        "tty; id -u; pwd; stty size; echo $X; read a; exit 9",
    ]);
    spec.user = User::Named("app".into());
    spec.cwd = "/home".into();
    spec.env.push(("X".into(), "y".into()));
    spec.terminal = Some(SIZE);
    let mut inner = crate::interactive::talk(talk.handle.exec(&spec).await.expect("starts"));
    let text = inner.until("y\r\n").await;
    assert_eq!(text, "/dev/pts/0\r\n1000\r\n/home\r\n33 99\r\ny\r\n");
    inner.write("\n").await;
    assert_eq!(inner.end().await.0, Status::Code(9));

    let mut spec = ExecSpec::new(["cat"]);
    spec.stdin = Stdin::Stream;
    let mut inner = crate::interactive::talk(talk.handle.exec(&spec).await.expect("starts"));
    inner.write("hello").await;
    inner.until("hello").await;
    let open = inner.input.take();
    inner.handle.signal(15);
    assert_eq!(inner.end().await.0, Status::Signal(15));
    drop(open);

    // Stopping one stops its children in the same group, and nothing else.
    let spec = ExecSpec::new(["sh", "-c", "sleep 2000 & echo up; wait"]);
    let mut inner = crate::interactive::talk(talk.handle.exec(&spec).await.expect("starts"));
    inner.until("up").await;
    inner.cancel.cancel();
    assert_eq!(inner.end().await.0, Status::Cancelled);
    let (_, left) = exec(
        &talk.handle,
        "sleep 0.1; ps -eo args | grep '^sleep [12]000'",
    )
    .await;
    assert_eq!(left, "sleep 1000\n");
    talk.cancel.cancel();
    talk.end().await;
}

#[tokio::test]
async fn bad_further_commands_are_told() {
    let fixture = Fixture::new();
    let mut talk = Talk::start(&fixture.spec("echo up; sleep 1000"));
    talk.until("up").await;
    let check = async |change: &dyn Fn(&mut ExecSpec), expect: &str| {
        let mut spec = ExecSpec::new(["true"]);
        change(&mut spec);
        let mut sink = |_: Stream, _: &[u8]| {};
        let result = match talk.handle.exec(&spec).await {
            Ok(running) => running.wait(&mut sink, &CancellationToken::new()).await,
            Err(error) => Err(error),
        };
        let error = result.expect_err(expect).to_string();
        assert!(error.contains(expect), "{error}");
    };
    check(&|spec| spec.args[0] = "nope".into(), "not found in PATH").await;
    check(
        &|spec| spec.user = User::Named("nobody-here".into()),
        "nobody-here",
    )
    .await;
    check(&|spec| spec.cwd = "/missing".into(), "/missing").await;
    check(&|spec| spec.args.clear(), "no command").await;
    let handle = talk.handle.clone();
    talk.cancel.cancel();
    talk.end().await;
    let error = handle
        .exec(&ExecSpec::new(["true"]))
        .await
        .expect_err("over");
    assert!(matches!(error, SandboxError::Ended), "{error}");
    assert!(!handle.started().await);
}

#[tokio::test]
async fn further_commands_end_with_the_sandbox() {
    let fixture = Fixture::new();
    let mut spec = fixture.spec("echo up; read line; exit 5");
    spec.stdin = Stdin::Stream;
    let mut outer = Talk::start(&spec);
    assert!(outer.handle.started().await);
    outer.until("up").await;
    let inner = outer.handle.exec(&ExecSpec::new(["sleep", "1000"])).await;
    let inner = talk(inner.expect("starts"));
    assert!(inner.handle.started().await);
    outer.write("\n").await;
    assert_eq!(outer.end().await.0, Status::Code(5));
    assert_eq!(inner.end().await.0, Status::Signal(9));
}

#[tokio::test]
async fn a_failing_command_never_counts_as_started() {
    let fixture = Fixture::new();
    let mut spec = fixture.spec("true");
    spec.args = vec!["no-such-program".into()];
    let talk = Talk::start(&spec);
    assert!(!talk.handle.started().await);
    let error = talk.task.await.expect("no panic").expect_err("not there");
    assert_eq!(error.exit_code(), Some(127));
}

#[tokio::test]
async fn a_spare_sandbox_waits_for_its_command() {
    let fixture = Fixture::new();
    let spare = chalk_sandbox::Spare::start(&[]).expect("starts");
    let unused = chalk_sandbox::Spare::start(&[]).expect("starts");
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(unused);
    let mut spec = fixture.spec("echo hello");
    spec.cgroups = vec!["/sys/fs/cgroup/other".into()];
    let error = chalk_sandbox::Spare::start(&[])
        .and_then(|spare| spare.run(&spec))
        .expect_err("other groups");
    assert!(error.to_string().contains("cgroups"), "{error}");
    spec.cgroups.clear();
    let (status, text) = talk(spare.run(&spec).expect("runs")).end().await;
    assert_eq!((status, text.as_str()), (Status::Code(0), "hello\n"));
}
