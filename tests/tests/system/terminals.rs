//! Sandboxes with a terminal: typing, resizing, signals, leaving and coming back.

use chalk_tests::{Talk, World, wait_until};

use crate::Test;
use crate::failures::{sleep_mark, wait_for_process};

pub(crate) const TESTS: &[Test] = &[
    ("typed_resized_and_left", typed_resized_and_left),
    ("a_terminal_for_a_further_command", further_command),
    ("attached_to_a_running_sandbox", attached),
    ("a_terminal_where_there_is_none", where_there_is_none),
];

fn typed_resized_and_left(world: &World) {
    let fleet = world.fleet();
    let output = world.folder("terminal").join("typescript");
    let chalk = fleet.sandbox(&["-it", "--", "sh"]);
    let mut terminal = Talk::in_terminal(&chalk.into_command(), &output);
    // The shell's prompt: what is typed before the client has the terminal may be lost.
    terminal.wait_for("# ");
    terminal.send("tty; stty size; echo $((40+2))\n");
    terminal.wait_for("24 80");
    terminal.wait_for("42");
    terminal.wait_for("/dev/pts/0");
    terminal.resize(50, 132);
    wait_until("the new size", || {
        terminal.send("stty size\n");
        std::thread::sleep(std::time::Duration::from_millis(100));
        terminal.output().contains("50 132")
    });
    // An interrupt reaches what runs inside, not the client.
    let mark = sleep_mark();
    terminal.send(&format!("sleep {mark}\n"));
    wait_for_process(&mark, true);
    terminal.send("\x03");
    wait_for_process(&mark, false);
    terminal.send("echo st''ill\n");
    terminal.wait_for("still");
    terminal.send("exit 17\n");
    assert_eq!(terminal.end(), Some(17), "{}", terminal.output());
}

fn further_command(world: &World) {
    let fleet = world.fleet();
    let service = &fleet.service;
    let id = service.detach(&fleet.base.hash, &["--", "sleep", "1000"]);
    let output = world.folder("terminal-exec").join("typescript");
    let words = [
        "compute",
        "sandbox",
        "exec",
        "-it",
        &id,
        "--",
        "sh",
        "-c",
        "tty; stty size; read x; exit $x",
    ];
    let mut terminal = Talk::in_terminal(&service.chalk().args(words).into_command(), &output);
    terminal.wait_for("/dev/pts/");
    terminal.wait_for("24 80");
    terminal.send("23\n");
    assert_eq!(terminal.end(), Some(23), "{}", terminal.output());
    service.sandboxes(&["rm", "--force", &id]).ok();
}

fn attached(world: &World) {
    let fleet = world.fleet();
    let service = &fleet.service;
    let script = "while read line; do echo \"got $line\"; [ \"$line\" = end ] && exit 19; done";
    let id = service.detach(
        &fleet.base.hash,
        &["--interactive", "--", "sh", "-c", script],
    );
    let folder = world.folder("attached");
    let words = ["compute", "sandbox", "attach", &id];
    let mut first = Talk::start(
        &mut service.chalk().args(words).into_command(),
        &folder.join("1"),
    );
    first.send("one\n");
    first.wait_for("got one\n");
    // Gone without a word, as by a broken line; the next one sees what was said, and goes on.
    drop(first);
    let mut second = Talk::start(
        &mut service.chalk().args(words).into_command(),
        &folder.join("2"),
    );
    second.wait_for("got one\n");
    second.send("two\nend\n");
    second.wait_for("got two\n");
    assert_eq!(second.end(), Some(19), "{}", second.errors());
    let words = ["compute", "sandbox", "attach", "absent0"];
    service.chalk().args(words).run().code(4);
}

fn where_there_is_none(world: &World) {
    let fleet = world.fleet();
    // `-t` without a terminal still gives the command one, of some size.
    let ran = fleet
        .sandbox(&["-t", "--", "sh", "-c", "tty && stty size"])
        .run();
    if ran.status.success() {
        assert!(ran.stdout.contains("/dev/pts/"), "{ran}");
    } else {
        ran.code(2).says(&["terminal"]);
    }
    let ran = fleet.sandbox(&["--", "tty"]).run().code(1);
    assert!(ran.stdout.contains("not a tty"), "{ran}");
}
