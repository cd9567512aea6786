//! The terminal app: the real command in a pseudo-terminal, against the simulator in a process of its
//! own.

mod keys;
mod load;
mod long_log;
mod start;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chalk_tests::{Chalk, Screen, World};

use crate::row::{Times, milliseconds};

pub(crate) use load::measure as load;
pub(crate) use long_log::measure as long_log;
pub(crate) use start::measure as start;

/// Rows and columns of the terminal.
const SIZE: (u16, u16) = (50, 160);

/// The app with colours and Unicode, which remembers nothing of whoever measures.
fn app(command: Chalk, home: &Path) -> Chalk {
    command
        .env("NO_COLOR", "")
        .env("XDG_STATE_HOME", home)
        .env("XDG_CONFIG_HOME", home)
        .current_dir(home)
}

/// An app that notes its frames.
struct Attached {
    screen: Screen,
    frames: PathBuf,
}

impl Attached {
    /// Opens the app on a declaration whose one step runs a command.
    fn open(world: &World, command: Chalk, run: &str) -> Self {
        let home = world.folder("app");
        let frames = home.join("frames");
        let declared =
            format!("[image]\nbase = \"busybox\"\n[[step]]\nrun_commands = [\"{run}\"]\n");
        fs::write(home.join("image.toml"), declared).unwrap();
        let command = app(command, &home).env("CHALK_APP_FRAMES", &frames);
        let screen = Screen::open(&command.into_command(), SIZE.0, SIZE.1);
        screen.wait_for("● connected");
        screen.wait_for("1 to run");
        Self { screen, frames }
    }

    /// Leaves the app; times of its frames in milliseconds, by when they began since the epoch.
    fn leave(mut self) -> Frames {
        self.screen.press("q");
        assert_eq!(self.screen.end(), 0, "{}", self.screen.text());
        let text = fs::read_to_string(&self.frames).unwrap();
        let frame = |line: &str| {
            let (began, took) = line.split_once(' ').unwrap();
            let micros = |text: &str| Duration::from_micros(text.parse().unwrap());
            (micros(began), milliseconds(micros(took)))
        };
        Frames(text.lines().map(frame).collect())
    }
}

/// What an app noted of its frames.
struct Frames(Vec<(Duration, f64)>);

impl Frames {
    /// Those that began within a span.
    fn within(&self, span: &Span) -> Times {
        let chosen = self.0.iter().filter(|(began, _)| span.holds(*began));
        Times::of(chosen.map(|(_, took)| *took).collect())
    }
}

/// A span of time, since the epoch.
struct Span {
    from: Duration,
    to: Duration,
}

impl Span {
    /// The time that something takes.
    fn of(work: impl FnOnce()) -> Self {
        let from = now();
        work();
        Self { from, to: now() }
    }

    fn holds(&self, time: Duration) -> bool {
        (self.from..self.to).contains(&time)
    }

    fn seconds(&self) -> f64 {
        (self.to - self.from).as_secs_f64()
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}
