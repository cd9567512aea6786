//! The terminal app and its terminal: what it leaves there however it ends, what it asks of it, and
//! whom it lets have it meanwhile.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use chalk_tests::{Project, Screen, World, wait_until};

use crate::Test;
use crate::app::{app, declaration, quit};

pub(crate) const TESTS: &[Test] = &[
    ("leaves_the_terminal_sane", leaves_the_terminal_sane),
    ("a_panic_leaves_the_terminal_sane", panics),
    ("an_editor_ends_with_the_app", editor_ends),
    ("an_editor_is_a_job_with_the_app", editor_stops),
    ("asks_the_terminal_for_its_colours", asks_for_colours),
    ("stops_as_a_job_and_comes_back", stops_as_a_job),
];

/// What each private mode of the terminal was set to last: whether it is on.
fn private_modes(bytes: &[u8]) -> BTreeMap<u16, bool> {
    let text = String::from_utf8_lossy(bytes);
    let mut modes = BTreeMap::new();
    for sequence in text.split("\x1b[?").skip(1) {
        let Some(end) = sequence.find(|c: char| !c.is_ascii_digit() && c != ';') else {
            continue;
        };
        let on = match sequence.as_bytes()[end] {
            b'h' => true,
            b'l' => false,
            _ => continue,
        };
        let numbers = sequence[..end].split(';');
        modes.extend(numbers.map(|mode| (mode.parse::<u16>().expect("a number"), on)));
    }
    modes
}

/// Modes that the app must undo, and the cursor, which it must show again.
const ALTERNATE_SCREEN: u16 = 1049;
const MOUSE: u16 = 1000;
const PASTE: u16 = 2004;
const CURSOR: u16 = 25;

fn leaves_the_terminal_sane(world: &World) {
    let service = world.service();
    let ends = [("q", "", 0), ("", "-TERM", 143), ("", "-HUP", 129)];
    for (keys, signal, code) in ends {
        let command = app(world, service.state()).into_command();
        let mut screen = Screen::open(&command, 24, 80);
        screen.wait_for("● connected");
        let during = private_modes(&screen.bytes());
        for mode in [ALTERNATE_SCREEN, MOUSE, PASTE] {
            assert_eq!(during.get(&mode), Some(&true), "mode {mode}: {during:?}");
        }
        assert_eq!(during.get(&CURSOR), Some(&false), "{during:?}");
        let raw = screen.modes();

        if signal.is_empty() {
            screen.press(keys);
        } else {
            screen.signal(signal);
        }
        assert_eq!(screen.end(), code, "by {keys}{signal}: {}", screen.text());
        let after = private_modes(&screen.bytes());
        for (mode, on) in &after {
            let wanted = *mode == CURSOR;
            assert_eq!(*on, wanted, "mode {mode} by {keys}{signal}: {after:?}");
        }
        assert_ne!(screen.modes(), raw, "by {keys}{signal}");
        let sane = screen.look(|screen| !screen.alternate_screen() && !screen.hide_cursor());
        assert!(sane, "by {keys}{signal}");
        // Nothing of the app stays behind on the normal screen.
        assert_eq!(screen.text().trim(), "", "by {keys}{signal}");
    }
}

fn asks_for_colours(world: &World) {
    let service = world.service();
    let app = app(world, service.state()).env("NO_COLOR", "");
    let mut screen = Screen::open(&app.into_command(), 24, 80);
    screen.wait_for("● connected");
    let question = b"\x1b]11;?\x07";
    let bytes = screen.bytes();
    let asked = bytes.windows(question.len()).position(|b| b == question);
    // After the first frame, which waits for nothing.
    let frame = bytes.windows(8).position(|bytes| bytes == b"\x1b[?2026l");
    assert!(frame.is_some_and(|frame| asked.is_some_and(|asked| frame < asked)));
    let key = |screen: &vt100::Screen| {
        let (rows, cols) = screen.size();
        let last = rows.get() - 1;
        let at = (0..cols.get()).find(|col| {
            screen
                .cell(last, *col)
                .is_some_and(|cell| cell.contents() == "?")
        });
        screen
            .cell(last, at.expect("the key of the help"))
            .expect("a cell")
            .fgcolor()
    };
    let dark = screen.look(key);
    // In pieces, as it may come over a network, with keys before and after it.
    for piece in ["3\x1b]11;rgb:ffff", "/ffff/f", "fff\x1b", "\\2"] {
        screen.press(piece);
        std::thread::sleep(std::time::Duration::from_millis(30));
    }
    screen.wait_until("a light theme", |screen| key(screen) != dark);
    screen.wait_for("AGE");
    assert_eq!(dark, vt100::Color::Idx(6));
    assert_eq!(screen.look(key), vt100::Color::Idx(4));
    let text = screen.text();
    assert!(
        text.contains("STEPS"),
        "the builds, as the last key said: {text}"
    );
    quit(screen);
}

fn panics(world: &World) {
    let service = world.service();
    // While a frame is half drawn: the worst that can be met.
    let app = app(world, service.state())
        .env("CHALK_APP_PANIC", "101x31")
        .env("RUST_BACKTRACE", "0");
    let mut screen = Screen::open(&app.into_command(), 24, 80);
    screen.wait_for("● connected");
    let raw = screen.modes();
    screen.resize(31, 101);
    assert_eq!(screen.end(), 101, "{}", screen.text());
    let after = private_modes(&screen.bytes());
    for (mode, on) in &after {
        assert_eq!(*on, *mode == CURSOR, "mode {mode}: {after:?}");
    }
    assert_ne!(screen.modes(), raw);
    assert!(screen.look(|screen| !screen.alternate_screen() && !screen.hide_cursor()));
    let said = screen.text();
    assert!(said.contains("panicked at"), "{said}");
    assert!(said.contains("as CHALK_APP_PANIC asks for"), "{said}");
    // One line after the other, which a terminal that is still raw would not show.
    let first = said.lines().find(|line| line.contains("panicked at"));
    assert!(
        first.is_some_and(|line| !line.contains("asks for")),
        "{said}"
    );
}

/// An editor that takes the whole screen and says so, and the file that has its process id.
fn editor(folder: &Path, traps: &str) -> (String, PathBuf) {
    let (script, pid) = (folder.join("editor"), folder.join("editor.pid"));
    let text = format!(
        "#!/bin/sh\n{traps}\nstty raw -echo\nprintf '\\033[?1049h\\033[?25lediting %s' \"$1\"\n\
         echo $$ > {}\nsleep 1000 &\nwait\n",
        pid.display()
    );
    fs::write(&script, text).expect("write the editor");
    (format!("sh {}", script.display()), pid)
}

fn editor_ends(world: &World) {
    let service = world.service();
    let project = Project::toml(&declaration(&["true"]));
    let file = project.arg("image.toml");
    // One that ends when it is asked to, and one that will not hear.
    for (traps, signal, code) in [("", "-TERM", 143), ("trap '' TERM HUP", "-HUP", 129)] {
        let folder = world.folder("app-editor");
        let (editor, pid) = editor(&folder, traps);
        let app = app(world, service.state())
            .env("VISUAL", &editor)
            .args(["--open", &file]);
        let mut screen = Screen::open(&app.into_command(), 24, 80);
        screen.wait_for("1 to run, 0 cached");
        let raw = screen.modes();
        screen.press("e");
        screen.wait_for("editing ");
        wait_until("the editor's id", || {
            fs::read_to_string(&pid).is_ok_and(|pid| pid.ends_with('\n'))
        });
        let pid = fs::read_to_string(&pid).expect("the editor's id");
        screen.signal(signal);
        assert_eq!(screen.end(), code, "{}", screen.text());
        let stat = Path::new("/proc").join(pid.trim()).join("stat");
        wait_until("the end of the editor", || {
            // What is gone may wait for somebody to hear of it.
            let stat = fs::read_to_string(&stat).unwrap_or_else(|_| ") Z".to_owned());
            stat.rsplit_once(") ").expect("a state").1.starts_with('Z')
        });
        let after = private_modes(&screen.bytes());
        for (mode, on) in &after {
            assert_eq!(*on, *mode == CURSOR, "mode {mode} by {signal}: {after:?}");
        }
        assert_ne!(screen.modes(), raw);
    }
}

fn editor_stops(world: &World) {
    let service = world.service();
    let project = Project::toml(&declaration(&["true"]));
    let file = project.arg("image.toml");
    let folder = world.folder("app-editor-stops");
    let script = folder.join("editor");
    let text = "#!/bin/sh\nprintf 'editing\\n'\nread line\necho \"# got $line\" >> \"$1\"\n";
    fs::write(&script, text).expect("write the editor");
    let app = app(world, service.state())
        .env("VISUAL", format!("sh {}", script.display()))
        .args(["--open", &file]);
    let mut screen = Screen::open(&app.into_command(), 24, 80);
    screen.wait_for("1 to run, 0 cached");
    screen.press("e");
    screen.wait_for("editing");
    // The terminal stops the job in front of it: the editor, and then the app.
    screen.press("\x1a");
    let stat = PathBuf::from(format!("/proc/{}/stat", screen.pid()));
    wait_until("the app is stopped", || {
        let stat = fs::read_to_string(&stat).expect("it lives");
        stat.rsplit_once(") ").expect("a state").1.starts_with('T')
    });
    screen.signal("-CONT");
    // What is typed reaches the editor again.
    screen.press("some words\r");
    screen.wait_for("● connected");
    let text = fs::read_to_string(project.file("image.toml")).expect("the declaration");
    assert!(text.ends_with("# got some words\n"), "{text}");
    quit(screen);
}

fn stops_as_a_job(world: &World) {
    let service = world.service();
    let command = app(world, service.state()).into_command();
    let mut screen = Screen::open(&command, 24, 80);
    screen.wait_for("● connected");
    let raw = screen.modes();
    screen.press("\x1a");
    let stat = PathBuf::from(format!("/proc/{}/stat", screen.pid()));
    wait_until("the app is stopped", || {
        let stat = fs::read_to_string(&stat).expect("it lives");
        stat.rsplit_once(") ").expect("a state").1.starts_with('T')
    });
    screen.wait_until("the normal screen", |screen| {
        !screen.alternate_screen() && !screen.hide_cursor()
    });
    assert_ne!(screen.modes(), raw);
    screen.signal("-CONT");
    screen.wait_until("the app again", |screen| {
        screen.alternate_screen() && screen.contents().contains("● connected")
    });
    assert_eq!(screen.modes(), raw);
    screen.press("?");
    screen.wait_for("Find any command by its name");
    screen.press("?");
    screen.wait_gone("Find any command by its name");
    quit(screen);
}
