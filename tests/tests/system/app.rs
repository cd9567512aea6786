//! The terminal app: the real command in a pseudo-terminal, its keys typed and its screen read.

use std::path::Path;

use chalk_tests::{Chalk, Project, Screen, Service, World, unique};
use serde_json::Value;

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("built_and_warmed_by_itself", built_and_warmed_by_itself),
    ("outlives_its_service", outlives_its_service),
    ("a_flood_of_output_holds_nothing_up", flooded),
    ("lists_are_filtered", lists_are_filtered),
    ("logs_are_searched", logs_are_searched),
    (
        "resized_while_a_build_streams",
        resized_while_a_build_streams,
    ),
    ("a_failed_step_is_left_on_the_screen", failed_step_is_left),
    ("readonly_refuses", readonly_refuses),
    ("without_a_terminal", without_a_terminal),
];

/// A small declaration with a step for each command.
pub(crate) fn declaration(commands: &[&str]) -> String {
    let mut text = "[image]\nbase = \"busybox\"\n".to_owned();
    for command in commands {
        text.push_str(&format!("[[step]]\nrun_commands = ['''{command}''']\n"));
    }
    text
}

/// The app on a state directory, in a folder of its own that also keeps what it remembers.
pub(crate) fn app(world: &World, state: &Path) -> Chalk {
    let folder = world.folder("app-home");
    Chalk::on(state)
        .env("XDG_STATE_HOME", &folder)
        .env("XDG_CONFIG_HOME", &folder)
        .current_dir(&folder)
}

/// The app on a declaration, connected.
#[track_caller]
pub(crate) fn open(world: &World, service: &Service, file: &str) -> Screen {
    let app = app(world, service.state()).args(["--open", file]);
    let screen = Screen::open(&app.into_command(), 40, 120);
    screen.wait_for("● connected");
    screen
}

/// Leaves the app, which says nothing of a fault.
#[track_caller]
pub(crate) fn quit(mut screen: Screen) {
    screen.press("q");
    assert_eq!(screen.end(), 0, "{}", screen.text());
    let bytes = screen.bytes();
    assert!(!String::from_utf8_lossy(&bytes).contains("panicked"));
}

fn built_and_warmed_by_itself(world: &World) {
    let state = world.state("app");
    let mark = unique();
    let project = Project::toml(&declaration(&["mkdir /made", &format!("echo made {mark}")]));
    let file = project.arg("image.toml");
    let hash = |command: Chalk| {
        let hash = command.args(["compute", "image", "hash", &file, "--json"]);
        let hash = hash.run().ok().json();
        hash["image_hash"].as_str().expect("a hash").to_owned()
    };
    let app = app(world, &state).args(["--open", &file, "--set", "prewarm.images="]);
    let mut screen = Screen::open(&app.into_command(), 40, 120);
    screen.wait_for("own service, node local");
    screen.wait_for("2 to run, 0 cached");
    screen.wait_for(&hash(Chalk::on(&state)));

    screen.press("b");
    screen.wait_for("✓ built");
    screen.wait_for("2 of 2 done");
    screen.wait_for(&format!("made {mark}"));

    screen.press("W");
    screen.wait_for("1 image to 1 node");
    screen.press("\r");
    screen.wait_for("✓ ready");
    screen.wait_for("fetched");
    screen.wait_for(", verified");

    // The plan follows what was built, and then each save of the file.
    screen.press("1");
    screen.wait_for("a build would run nothing");
    let slow = format!("echo begun {mark}; sleep 1000");
    project.write("image.toml", declaration(&["mkdir /made", &slow]));
    screen.wait_for("1 to run, 1 cached");
    screen.wait_for(&hash(Chalk::on(&state)));

    // What runs in this process is not ended without a question.
    screen.press("b");
    screen.wait_for("log of step 2  1 line");
    screen.press("q");
    screen.wait_for("A build runs in this process");
    screen.press("n");
    screen.wait_gone("A build runs in this process");
    screen.press("q");
    screen.wait_for("A build runs in this process");
    screen.press("y");
    assert_eq!(screen.end(), 0, "{}", screen.text());
    let left = ["compute", "image", "builds", "--json"];
    let left = Chalk::on(&state).args(left).run().ok();
    for build in left.json().as_array().expect("a list") {
        assert_ne!(build["status"], "running", "{left}");
    }
}

fn outlives_its_service(world: &World) {
    let mut service = world.start("app-service", &[]);
    let mark = unique();
    for name in ["stays", "other"] {
        let project = Project::toml(&declaration(&[&format!("echo {name} {mark}")]));
        let build = ["build", &project.arg("image.toml"), "--name", name];
        service.image(&build).ok();
    }
    let project = Project::toml(&declaration(&[&format!("echo after {mark}")]));
    let mut screen = open(world, &service, &project.arg("image.toml"));
    screen.wait_for("1 to run, 0 cached");
    screen.press("3");
    screen.wait_for("other:latest");
    screen.press("/");
    screen.wait_for("filter:");
    screen.press("'stays\r");
    screen.wait_for("/'stays  1 of ");
    screen.wait_gone("other:latest");

    service.kill();
    screen.wait_for("○ not connected");
    // What was known can still be read, and what cannot be done says why.
    screen.wait_for("stays:latest");
    screen.press("W");
    screen.wait_for("the service is not reached");
    service.start_again(&[]);
    screen.wait_for("● connected");
    let kept = screen.text();
    assert!(kept.contains("/'stays  1 of "), "{kept}");
    assert!(kept.contains("stays:latest"), "{kept}");

    screen.press("1");
    screen.wait_for("1 to run, 0 cached");
    screen.press("b");
    screen.wait_for("✓ built");
    screen.wait_for(&format!("after {mark}"));
    quit(screen);
    service.stop();
}

fn flooded(world: &World) {
    const LINES: u64 = 600_000;
    let service = world.service();
    let mark = unique();
    let flood =
        format!("i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); echo streamed $i of {mark}; done");
    let project = Project::toml(&declaration(&[&flood]));
    let mut screen = open(world, service, &project.arg("image.toml"));
    screen.wait_for("1 to run, 0 cached");
    screen.press("b");
    screen.wait_until("a flood", |screen| streamed(screen) > 1000);
    // The screen moves on while it comes, and keys are answered.
    let mut seen = screen.look(streamed);
    for _ in 0..3 {
        screen.press("?");
        screen.wait_for("Find any command by its name");
        screen.press("?");
        screen.wait_gone("Find any command by its name");
        let before = seen;
        screen.wait_until("more of it", |screen| streamed(screen) > before);
        seen = screen.look(streamed);
    }
    screen.press("\t");
    screen.wait_for("/ search");
    screen.press("k");
    screen.wait_for("paused");
    let paused = screen.look(streamed);
    screen.wait_until("what came since", |screen| {
        let text = screen.contents();
        text.contains(" new") && streamed(screen) == paused
    });
    assert!(paused < LINES, "it was over before it could be paused");
    screen.press("G");
    screen.wait_gone("paused");
    screen.wait_until("the end of it", |screen| streamed(screen) == LINES);
    screen.wait_for("✓ built");
    // A step's own log is as deep as the build's.
    screen.wait_for(&format!("log of step 1  {LINES} lines"));
    screen.press("g");
    screen.wait_until("its start", |screen| {
        let start = format!("streamed 1 of {mark}");
        lines(screen).iter().any(|line| line.ends_with(&start))
    });
    quit(screen);
}

fn lists_are_filtered(world: &World) {
    let service = world.service();
    let mark = unique();
    let (apples, pears) = (format!("apples-{mark}"), format!("pears-{mark}"));
    for name in [&apples, &pears] {
        let project = Project::toml(&declaration(&[&format!("echo {name}")]));
        let build = ["build", &project.arg("image.toml"), "--name", name];
        service.image(&build).ok();
    }
    let command = app(world, service.state()).into_command();
    let mut screen = Screen::open(&command, 24, 80);
    screen.wait_for("● connected");
    screen.press("3");
    screen.wait_for("LAYERS");
    screen.press("/");
    screen.wait_for("filter:");
    // Rows follow each key: letters in order are enough.
    screen.press(&format!("appls-{mark}"));
    screen.wait_for(&apples);
    screen.wait_gone(&pears);
    screen.press("\r");
    screen.wait_for(&format!("/appls-{mark}  1 of "));
    screen.press("/");
    screen.wait_for("filter:");
    screen.press(&format!("\x15'{mark} !apples\r"));
    screen.wait_for(&format!("/'{mark} !apples  1 of "));
    screen.wait_for(&pears);
    screen.wait_gone(&apples);
    screen.press("/");
    screen.wait_for("filter:");
    screen.press(&format!("\x15nothing-like-{mark}\r"));
    screen.wait_for("No image matches the filter");
    screen.press("\x1b");
    screen.wait_for("LAYERS");
    quit(screen);
}

fn logs_are_searched(world: &World) {
    let service = world.service();
    let mark = unique();
    let log = format!(
        "for i in $(seq 1 400); do case $((i % 60)) in \
         0) echo Needle at $i {mark};; *) echo line $i;; esac; done"
    );
    let project = Project::toml(&declaration(&[&log]));
    let mut screen = open(world, service, &project.arg("image.toml"));
    screen.wait_for("1 to run, 0 cached");
    screen.press("b");
    screen.wait_for("✓ built");
    screen.wait_for("line 400");
    screen.press("\t");
    screen.wait_for("/ search");
    screen.press("g");
    screen.wait_for("paused");
    screen.wait_until("the first line", |screen| has_row(screen, "line 1"));
    screen.press("/");
    screen.wait_for("search:");
    screen.press("needle\r");
    screen.wait_for("`needle` 1/6");
    screen.wait_for("Needle at 60");
    screen.press("n");
    screen.wait_for("`needle` 2/6");
    screen.wait_for("Needle at 120");
    screen.press("NN");
    screen.wait_for("`needle` 6/6");
    screen.wait_for("Needle at 360");
    screen.wait_until("the log moved", |screen| !has_row(screen, "line 1"));
    screen.press("n");
    screen.wait_for("`needle` 1/6");
    screen.press("/");
    screen.wait_for("search:");
    screen.press("\x15absent\r");
    screen.wait_for("`absent` 0/0");
    quit(screen);
}

/// Rows of the screen, without blanks at their ends.
fn lines(screen: &vt100::Screen) -> Vec<String> {
    let (_, cols) = screen.size();
    let rows = screen.rows(0, cols.get());
    rows.map(|row| row.trim_end().to_owned()).collect()
}

fn has_row(screen: &vt100::Screen, text: &str) -> bool {
    lines(screen).iter().any(|row| row == text)
}

/// The highest number after `streamed` on the screen.
fn streamed(screen: &vt100::Screen) -> u64 {
    let text = screen.contents();
    let numbers = text.split("streamed ").skip(1).filter_map(|rest| {
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse().ok()
    });
    numbers.max().unwrap_or(0)
}

fn resized_while_a_build_streams(world: &World) {
    let service = world.service();
    let mark = unique();
    let stream =
        format!("i=0; while :; do i=$((i+1)); echo streamed $i of {mark}; sleep 0.01; done");
    let project = Project::toml(&declaration(&[&stream]));
    let file = project.arg("image.toml");
    let app = app(world, service.state()).args(["--open", &file]);
    let mut screen = Screen::open(&app.into_command(), 24, 80);
    screen.wait_for("● connected");
    screen.wait_for("1 to run, 0 cached");
    screen.press("b");
    screen.wait_until("a stream", |screen| streamed(screen) > 10);
    let mut seen = screen.look(streamed);
    for (rows, cols) in [(50, 200), (10, 40), (24, 80)] {
        screen.resize(rows, cols);
        // The header ends at the right edge, the footer stands on the last row, and lines go on.
        let what = format!("the stream on {cols}x{rows} from {seen} on");
        screen.wait_until(&what, |screen| {
            let lines = lines(screen);
            let header = lines[0].chars().count() == usize::from(cols) - 1
                && lines[0].ends_with("● connected");
            let footer = lines[usize::from(rows) - 1].contains("q quit");
            header && footer && streamed(screen) > seen + 10
        });
        seen = screen.look(streamed);
    }
    screen.press("x");
    screen.wait_for("⊘ cancelled");
    quit(screen);
    let hash = service.image(&["hash", &file, "--json"]).ok().json();
    let hash = hash["image_hash"].as_str().expect("a hash");
    let builds = service.get(&format!("/v1/builds?hash={hash}"));
    assert_eq!(builds[0]["status"], "cancelled", "{builds}");
}

fn failed_step_is_left(world: &World) {
    let service = world.service();
    let mark = unique();
    let project = Project::toml(&declaration(&[
        &format!("echo first {mark}"),
        &format!("echo last words {mark}; exit 7"),
    ]));
    let mut screen = open(world, service, &project.arg("image.toml"));
    screen.wait_for("2 to run, 0 cached");
    screen.press("b");
    screen.wait_for("✗ failed");
    screen.wait_for(&format!("last words {mark}"));
    screen.press("q");
    assert_eq!(screen.end(), 0, "{}", screen.text());
    assert!(!screen.look(vt100::Screen::alternate_screen));
    let left = screen.text();
    for words in [
        "failed at: ",
        &format!("  last words {mark}"),
        "compute image logs",
    ] {
        assert!(left.contains(words), "`{words}` in\n{left}");
    }
    assert!(!left.contains(&format!("  first {mark}")), "{left}");
}

fn readonly_refuses(world: &World) {
    // Builds of other tests would be told of in place of the refusal.
    let service = world.start("app-readonly", &[]);
    let project = Project::toml(&declaration(&[&format!("echo never {}", unique())]));
    let file = project.arg("image.toml");
    let app = app(world, service.state()).args(["--readonly", "--open", &file]);
    let mut screen = Screen::open(&app.into_command(), 24, 80);
    screen.wait_for("read-only ● connected");
    screen.wait_for("1 to run, 0 cached");
    screen.press("b");
    screen.wait_for("build: the app runs with --readonly");
    screen.wait_for("1 to run, 0 cached");
    quit(screen);
    let hash = service.image(&["hash", &file, "--json"]).ok().json();
    let hash = hash["image_hash"].as_str().expect("a hash");
    let builds = service.get(&format!("/v1/builds?hash={hash}"));
    assert_eq!(builds, Value::Array(Vec::new()));
}

fn without_a_terminal(world: &World) {
    let state = world.folder("app-none");
    let ran = Chalk::on(&state).run().code(2);
    ran.says(&["terminal", "chalk compute image build"]);
    assert!(!state.join("service.json").exists(), "nothing was started");
}
