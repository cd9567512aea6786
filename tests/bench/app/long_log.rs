//! A log of a million lines: what it takes to hold, to scroll and to search.

use std::time::Instant;

use chalk_tests::{Screen, Simulator, World};

use super::keys::{self, KEYS};
use super::{Attached, Span};
use crate::process::memory;
use crate::row::{Aim, Row, Times, milliseconds};

const LINES: usize = 1_000_000;
/// Bytes of a line with its end.
const SHORT: usize = 60;
const LONG: usize = 200;
/// What is searched for, letter by letter: the first is in most lines, the last in few.
const QUERY: &str = "0ddba";
/// How often it is searched for.
const SEARCHES: usize = 10;
/// The row of the screen that the first line of a log stands on that has it for itself.
const TOP: usize = 3;
/// The most memory, in MB, and the most that a frame may take, in milliseconds.
const MEMORY: f64 = 150.0;
const FRAME: f64 = 8.0;

pub(crate) fn measure(world: &World) -> Vec<Row> {
    let words = ["--nodes", "10", "--images", "100", "--builds", "0"];
    let simulator = Simulator::start(&world.folder("simulator"), &words);
    let (mut attached, short) = filled(world, &simulator, SHORT);
    let (scrolled, searched) = (scroll(&mut attached.screen), search(&mut attached.screen));
    let frames = attached.leave();
    let (attached, long) = filled(world, &simulator, LONG);
    attached.leave();

    let frame = |name, span: &Span| {
        let frames = frames.within(span);
        Row::alone(name, "ms", frames.at(0.99), Aim::Most(FRAME)).note(frames.about("frames"))
    };
    let key = |name, times: &Times| {
        Row::alone(name, "ms", times.at(0.99), Aim::Most(keys::AIM)).note(times.about("keys"))
    };
    let (scrolled, searched) = (&scrolled, &searched);
    vec![
        short,
        long,
        frame(
            "p99 frame while the log of short lines is scrolled",
            &scrolled.span,
        ),
        key("key to screen p99 meanwhile", &scrolled.keys),
        frame("p99 frame while it is searched", &searched.span),
        key(
            "key to screen p99 meanwhile, with the first match",
            &searched.keys,
        ),
        Row::alone(
            "search of the whole log until every match is counted, median",
            "ms",
            searched.whole.median(),
            Aim::None,
        )
        .note(searched.whole.about("searches")),
    ]
}

/// An app that shows a log of a million lines of so many bytes, and the memory that it takes.
fn filled(world: &World, simulator: &Simulator, bytes: usize) -> (Attached, Row) {
    let mut attached = Attached::open(world, simulator.chalk(), &format!("noise {LINES} {bytes}"));
    let (screen, began) = (&mut attached.screen, Instant::now());
    screen.press("b");
    screen.wait_for("✓ built");
    let came = screen.wait_gone("following") - began;
    screen.press("\tz");
    screen.wait_gone("✓ built");
    let kept = lines(screen);
    let row = Row::alone(
        &format!("memory with {LINES} lines of {bytes} bytes, the log open"),
        "MB",
        memory(screen.pid(), "VmRSS") / 1e6,
        Aim::Most(MEMORY),
    )
    .note(format!(
        "at most {:.0} MB; {kept} lines are kept, and came in {:.1} s",
        memory(screen.pid(), "VmHWM") / 1e6,
        came.as_secs_f64()
    ));
    (attached, row)
}

/// How many lines the title of the log says.
fn lines(screen: &Screen) -> usize {
    let text = screen.text();
    let (before, _) = text.split_once(" lines").unwrap();
    before.rsplit(' ').next().unwrap().parse().unwrap()
}

struct Scrolled {
    span: Span,
    keys: Times,
}

/// Goes up and down by screens, and to both ends.
fn scroll(screen: &mut Screen) -> Scrolled {
    let mut times = Vec::new();
    let span = Span::of(|| {
        for number in 0..KEYS {
            keys::rest(number);
            let key = match number % 12 {
                0..6 => "\x1b[5~",
                6 => "g",
                7..11 => "\x1b[6~",
                _ => "G",
            };
            let before = screen.look(top);
            times.push(keys::press(screen, key, |screen| top(screen) != before));
        }
    });
    Scrolled {
        span,
        keys: Times::of(times),
    }
}

fn top(screen: &vt100::Screen) -> Option<String> {
    screen.rows(0, screen.size().1.get()).nth(TOP)
}

struct Searched {
    span: Span,
    keys: Times,
    /// Until all matches of what was typed were counted.
    whole: Times,
}

/// Searches from the end of the log.
fn search(screen: &mut Screen) -> Searched {
    let (mut times, mut whole) = (Vec::new(), Vec::new());
    screen.press("G/");
    screen.wait_for("the whole log");
    let span = Span::of(|| {
        for _ in 0..SEARCHES {
            for end in 1..=QUERY.len() {
                keys::rest(times.len());
                let found = format!("`{}` ", &QUERY[..end]);
                let began = Instant::now();
                times.push(keys::press(screen, &QUERY[end - 1..end], |screen| {
                    screen.contents().contains(&found)
                }));
                let counted = screen.wait_until("every match", |screen| {
                    let text = screen.contents();
                    let count = text.split_once(&found).map(|(_, rest)| rest);
                    let count = count.and_then(|rest| rest.split_whitespace().next());
                    count.is_some_and(|count| !count.ends_with('+'))
                });
                whole.push(milliseconds(counted - began));
            }
            // Deletes the line.
            screen.press("\x15");
            screen.wait_for("the whole log");
        }
    });
    screen.press("\x1b");
    screen.wait_gone("search:");
    Searched {
        span,
        keys: Times::of(times),
        whole: Times::of(whole),
    }
}
