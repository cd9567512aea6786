//! From the start of the command to its first frame.

use std::path::Path;
use std::time::{Duration, Instant};

use chalk_tests::{Chalk, Screen, Simulator, World};

use super::{SIZE, app};
use crate::row::{Aim, Row, Times, milliseconds};

/// Starts that count, after one that does not.
const STARTS: usize = 40;
/// The most that the first frame may take, in milliseconds.
const FIRST: f64 = 100.0;

pub(crate) fn measure(world: &World) -> Vec<Row> {
    let home = world.folder("app-start");
    let state = world.folder("app-start-own");
    let own = starts(&home, || {
        Chalk::on(&state).args(["--set", "prewarm.images="])
    });
    let folder = world.folder("simulator");
    let simulator = Simulator::start(
        &folder,
        &["--nodes", "10", "--images", "100", "--builds", "0"],
    );
    let attached = starts(&home, || simulator.chalk());
    let mut rows = rows("with its own service and node", &own);
    rows.extend(self::rows("with `--server`", &attached));
    rows
}

/// Times of starts.
struct Starts {
    first_frame: Times,
    connected: Times,
}

fn starts(home: &Path, command: impl Fn() -> Chalk) -> Starts {
    let (mut first_frame, mut connected) = (Vec::new(), Vec::new());
    for number in 0..=STARTS {
        let command = app(command(), home).into_command();
        let began = Instant::now();
        let mut screen = Screen::open(&command, SIZE.0, SIZE.1);
        let first = screen.first_frame() - began;
        let whole = screen.wait_for("● connected") - began;
        // Whoever leaves at once leaves behind what has just begun.
        std::thread::sleep(Duration::from_millis(200));
        screen.press("q");
        assert_eq!(screen.end(), 0, "{}", screen.text());
        if number > 0 {
            first_frame.push(milliseconds(first));
            connected.push(milliseconds(whole));
        }
    }
    Starts {
        first_frame: Times::of(first_frame),
        connected: Times::of(connected),
    }
}

fn rows(how: &str, starts: &Starts) -> Vec<Row> {
    let Starts {
        first_frame,
        connected,
    } = starts;
    vec![
        Row::alone(
            &format!("first frame {how}, median"),
            "ms",
            first_frame.median(),
            Aim::Most(FIRST),
        )
        .note(format!("{STARTS} starts, from the start of the command")),
        Row::alone(
            "the same, p99",
            "ms",
            first_frame.at(0.99),
            Aim::Most(FIRST),
        ),
        Row::alone(
            "until it is connected, median",
            "ms",
            connected.median(),
            Aim::None,
        ),
    ]
}
