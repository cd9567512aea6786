//! The recording and the pictures of the terminal app in the documentation, made from the real
//! command: `cargo xtask record`. The build is one of a real service, from the quickstart example;
//! the fleet is the simulator's.

// Records nothing that it does not expect to work.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cast;
mod svg;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use chalk_tests::{Chalk, Screen, Simulator, World};

use cast::Cast;

/// Rows and columns of the recording.
const CAST: (u16, u16) = (30, 100);
/// Rows and columns of the pictures, with what their files are called by.
const PICTURES: [(u16, u16, &str); 2] = [(24, 80, "80x24"), (40, 120, "120x40")];
/// How many times faster than it was the build is shown.
const HURRY: f64 = 3.0;
/// Where the simulator listens: the address stands in every picture.
const ADDRESS: &str = "127.0.0.1:7474";

fn main() -> ExitCode {
    let docs = std::env::args_os().nth(1).map(PathBuf::from);
    let Some(docs) = docs else {
        eprintln!("expected the folder of the documentation");
        return ExitCode::FAILURE;
    };
    let pictures = docs.join("app");
    fs::create_dir_all(&pictures).expect("a folder for the pictures");
    let world = World::new();
    let stage = Stage::set(&world);

    let mut screen = stage.own_service();
    screen.wait_for("2 to run, 0 cached");
    take(
        &screen,
        &pictures,
        "spec",
        "The declaration with its hash and plan",
    );
    leave(screen);

    let simulator = stage.simulator(&world);
    let cast = record(&stage, &simulator);
    check(&world, &cast);
    fs::write(docs.join("app.cast"), cast).expect("write the recording");

    screen = stage.own_service();
    screen.wait_for("a build would run nothing");
    screen.press("2");
    screen.wait_for("✓ built");
    screen.press("\r");
    screen.wait_for("2 of 2 done");
    screen.press("k");
    screen.wait_for("log of step 1");
    take(
        &screen,
        &pictures,
        "build",
        "A build with its steps and their log",
    );
    leave(screen);
    fleet(&stage, &simulator, &pictures);
    for picture in fs::read_dir(&pictures).expect("the pictures") {
        let picture = picture.expect("a picture").path();
        check(&world, &fs::read_to_string(picture).expect("SVG is text"));
    }
    drop(simulator);
    match world.tear_down() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Folders of somebody who has just begun, and a service's state that has the base of the example.
struct Stage {
    home: PathBuf,
    example: PathBuf,
    state: PathBuf,
    settings: PathBuf,
}

impl Stage {
    fn set(world: &World) -> Self {
        let home = world.folder("home");
        let example = home.join("quickstart");
        fs::create_dir_all(&example).unwrap();
        let file = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../examples/quickstart/image.toml"
        );
        fs::copy(file, example.join("image.toml")).expect("the example");
        let state = world.folder("state");
        let import = ["compute", "image", "import", "--as", World::PYTHON];
        let import = Chalk::on(&state).args(import).arg(world.python_layout());
        import.run().ok();
        let settings = home.join("chalk.toml");
        // Bases that nobody builds on are not to be fetched meanwhile.
        fs::write(&settings, "[prewarm]\nimages = []\n").unwrap();
        Self {
            home,
            example,
            state,
            settings,
        }
    }

    /// Gives a command this home, and colours.
    fn command(&self, mut command: Command) -> Command {
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CHALK_") {
                command.env_remove(&name);
            }
        }
        command
            .env_remove("NO_COLOR")
            .env("HOME", &self.home)
            .env("XDG_STATE_HOME", &self.home)
            .env("XDG_CONFIG_HOME", &self.home)
            .env("CHALK_STATE_DIR", &self.state)
            .env("CHALK_CONFIG", &self.settings)
            .current_dir(&self.example);
        command
    }

    /// The app with a service of its own, on the example.
    fn own_service(&self) -> Screen {
        let command = self.command(Command::new(chalk()));
        let (rows, cols, _) = PICTURES[0];
        let screen = Screen::open(&command, rows, cols);
        screen.wait_for("● connected");
        screen
    }

    /// A shell in which `chalk` can be typed.
    fn shell(&self, variables: &[(&str, &str)]) -> Screen {
        let folder = Path::new(&chalk()).parent().unwrap().display().to_string();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut shell = self.command(Command::new("/bin/sh"));
        shell
            .env("PATH", format!("{folder}:{path}"))
            .env("PS1", "$ ");
        shell.envs(variables.iter().copied());
        let screen = Screen::open(&shell, CAST.0, CAST.1);
        screen.wait_for("$ ");
        screen
    }

    fn simulator(&self, world: &World) -> Simulator {
        let words = ["--nodes", "1000", "--images", "10000", "--builds", "12"];
        let words = [&words[..], &["--rate", "400", "--addr", ADDRESS]].concat();
        Simulator::start(&world.folder("simulator"), &words)
    }
}

fn chalk() -> String {
    std::env::var("CHALK_TEST_BIN").expect("CHALK_TEST_BIN: path of chalk")
}

/// The recording: the example is built, and then a fleet is looked at.
fn record(stage: &Stage, simulator: &Simulator) -> String {
    let mut cast = Cast::new(stage.shell(&[]), CAST);
    cast.type_line("chalk");
    cast.until("2 to run, 0 cached");
    cast.seconds(2.5);
    cast.show("b", "log of step 1", 1.5);
    cast.hurry_until("✓ built", HURRY);
    cast.seconds(2.5);
    cast.show("1", "a build would run nothing", 2.5);
    cast.show("?", "keys that work here", 2.5);
    cast.press("\x1b");
    cast.seconds(0.7);
    cast.show("q", "$ ", 1.0);

    cast.go_on_in(stage.shell(&[("CHALK_TOKEN", simulator.token())]));
    cast.type_line(&format!("chalk --server {}", simulator.url()));
    cast.until("Cache 1000");
    cast.seconds(1.5);
    cast.show("2", "running", 2.0);
    cast.show("jjjj", "running", 0.7);
    cast.show("\r", "all steps", 3.0);
    cast.press("\x1b");
    // Close together, they would be one key.
    cast.seconds(0.7);
    cast.show("3", "LAYERS", 1.5);
    cast.show("/", "filter:", 0.8);
    for letter in ["r", "a", "n", "k", "i", "n", "g"] {
        cast.show(letter, letter, 0.15);
    }
    cast.show("\r", "/ranking", 1.0);
    cast.show(" ", "1 marked", 0.7);
    cast.show("j ", "2 marked", 1.0);
    cast.show("W", "2 images to", 2.0);
    cast.show("\r", "PROGRESS AND RECEIPT", 5.0);
    cast.show("4", "1000 nodes", 2.5);
    cast.show("r", "REGION", 2.5);
    cast.show("m", "IMAGE", 2.5);
    cast.show("jjjl", "IMAGE", 1.5);
    cast.show(":", "commands", 1.0);
    for letter in ["t", "h", "e", "m"] {
        cast.show(letter, letter, 0.2);
    }
    cast.seconds(1.2);
    cast.press("\x1b");
    cast.seconds(0.7);
    cast.show("q", "$ ", 1.0);
    let (text, shell) = cast.finish("chalk: build an image, and bring it to a fleet");
    leave_shell(shell);
    text
}

/// Pictures of what the simulator has.
fn fleet(stage: &Stage, simulator: &Simulator, folder: &Path) {
    let mut command = stage.command(Command::new(chalk()));
    command
        .args(["--server", simulator.url()])
        .env("CHALK_TOKEN", simulator.token());
    let (rows, cols, _) = PICTURES[0];
    let mut screen = Screen::open(&command, rows, cols);
    screen.wait_for("Cache 1000");
    let views = [
        ("2", "running", "builds", "Builds that run and that ran"),
        ("3", "LAYERS", "images", "Images with what is known of them"),
        ("4", "1000 nodes", "cache", "The caches of a thousand nodes"),
        ("m", "IMAGE", "matrix", "Images against regions"),
        ("5", "WARM", "warms", "Warms and how far they came"),
    ];
    for (key, words, name, title) in views {
        screen.press(key);
        screen.wait_for(words);
        take(&screen, folder, name, title);
    }
    leave(screen);
}

/// Takes pictures of a view in all sizes.
fn take(screen: &Screen, folder: &Path, name: &str, title: &str) {
    for (rows, cols, size) in PICTURES {
        screen.resize(rows, cols);
        // The last row is the footer, whose last word fits every size.
        screen.wait_until("the view in another size", |screen| {
            let last = screen.rows(0, cols).last();
            last.is_some_and(|row| row.contains("q quit"))
        });
        std::thread::sleep(Duration::from_millis(500));
        let svg = screen.look(|screen| svg::draw(screen, title));
        let file = folder.join(format!("{name}-{size}.svg"));
        fs::write(file, svg).expect("write the picture");
    }
    screen.resize(PICTURES[0].0, PICTURES[0].1);
}

fn leave(mut screen: Screen) {
    screen.press("q");
    assert_eq!(screen.end(), 0, "{}", screen.text());
}

fn leave_shell(mut shell: Screen) {
    shell.press("exit\r");
    shell.end();
}

/// Expects nothing of this machine in what is shown to all.
fn check(world: &World, text: &str) {
    let checkout = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let checkout = Path::new(checkout).canonicalize().unwrap();
    let scratch = world.folder("check");
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let words = [
        checkout.display().to_string(),
        scratch.parent().unwrap().display().to_string(),
        host.trim().to_owned(),
    ];
    for word in words {
        let common = word.is_empty() || word == "localhost";
        assert!(
            common || !text.contains(&word),
            "{word} is in what is shown"
        );
    }
}
