//! A recording in the format asciicast v2, which asciinema plays.
//!
//! Not the bytes that the command wrote, but what the screen came to, ten times a second: that plays
//! the same and takes a tenth of the room. Waiting can be recorded faster than it was.

use std::time::{Duration, Instant};

use chalk_tests::Screen;
use serde_json::json;

/// Time between two pictures.
const PICTURE: Duration = Duration::from_millis(100);
/// Longest that anything is waited for.
const PATIENCE: Duration = Duration::from_secs(120);
/// Time between two keys of somebody who types.
const KEY: Duration = Duration::from_millis(70);

/// A recording of a command in a terminal.
pub(crate) struct Cast {
    screen: Screen,
    size: (u16, u16),
    shown: vt100::Screen,
    /// Seconds of the recording so far.
    time: f64,
    /// How many times faster than in earnest time goes.
    speed: f64,
    lines: Vec<String>,
}

impl Cast {
    /// Records a command on a screen of so many rows and columns.
    pub(crate) fn new(screen: Screen, size: (u16, u16)) -> Self {
        Self {
            screen,
            size,
            shown: blank(size).screen().clone(),
            time: 0.0,
            speed: 1.0,
            lines: Vec::new(),
        }
    }

    /// Types a line as a person would.
    pub(crate) fn type_line(&mut self, text: &str) {
        for letter in text.chars() {
            self.press(&letter.to_string());
            self.rest(KEY);
        }
        self.rest(Duration::from_millis(300));
        self.press("\r");
    }

    /// Presses a key.
    pub(crate) fn press(&mut self, key: &str) {
        self.screen.press(key);
    }

    /// Presses a key, waits until words stand on the screen, and leaves them there for a while.
    pub(crate) fn show(&mut self, key: &str, words: &str, seconds: f64) {
        self.press(key);
        self.until(words);
        self.seconds(seconds);
    }

    /// Records until words stand on the screen.
    pub(crate) fn until(&mut self, words: &str) {
        let until = Instant::now() + PATIENCE;
        while !self.screen.text().contains(words) {
            assert!(
                !self.screen.is_over() && Instant::now() < until,
                "waited in vain for {words} on\n{}",
                self.screen.text()
            );
            self.picture();
        }
        self.picture();
    }

    /// As [`until`](Self::until), with the time between recorded so many times faster.
    pub(crate) fn hurry_until(&mut self, words: &str, speed: f64) {
        self.speed = speed;
        self.until(words);
        self.speed = 1.0;
    }

    /// Records for so many seconds.
    pub(crate) fn seconds(&mut self, seconds: f64) {
        self.rest(Duration::from_secs_f64(seconds));
    }

    fn rest(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.picture();
        }
    }

    /// Goes on with another command, in a terminal of the same size.
    pub(crate) fn go_on_in(&mut self, screen: Screen) {
        self.screen = screen;
    }

    /// Waits for the next picture, and records it when it is another one.
    fn picture(&mut self) {
        let began = Instant::now();
        // Time that runs faster has its pictures at the same distance.
        std::thread::sleep(PICTURE.mul_f64(self.speed));
        let now = self.screen.look(Clone::clone);
        self.time += began.elapsed().as_secs_f64() / self.speed;
        let change = now.contents_diff(&self.shown);
        if !change.is_empty() {
            let time = (self.time * 100.0).round() / 100.0;
            self.lines.push(json!([time, "o", change]).to_string());
            self.shown = now;
        }
    }

    /// The recording as a file, and the screen, which goes on.
    ///
    /// It is played first, and has to end with what the screen shows.
    pub(crate) fn finish(mut self, title: &str) -> (String, Screen) {
        self.picture();
        let (rows, cols) = self.size;
        let header = json!({
            "version": 2, "width": cols, "height": rows, "title": title,
            "env": {"TERM": "xterm-256color"},
        });
        let mut text = format!("{header}\n");
        for line in &self.lines {
            text.push_str(line);
            text.push('\n');
        }
        let played = played(&text);
        let (found, expected) = (played.screen(), &self.shown);
        assert_eq!(found.contents_formatted(), expected.contents_formatted());
        (text, self.screen)
    }
}

/// Plays a recording to its end, as asciinema would.
fn played(text: &str) -> vt100::Parser {
    let mut lines = text.lines();
    let parse = |line: &str| -> serde_json::Value { serde_json::from_str(line).expect("JSON") };
    let header = parse(lines.next().expect("a header"));
    let count = |name: &str| {
        header[name]
            .as_u64()
            .and_then(|count| count.try_into().ok())
    };
    let size = (
        count("height").expect("rows"),
        count("width").expect("columns"),
    );
    let mut terminal = blank(size);
    let mut before = 0.0;
    for line in lines {
        let event = parse(line);
        let time = event[0].as_f64().expect("a time");
        assert!(time >= before, "{time} after {before}");
        before = time;
        assert_eq!(event[1], "o");
        terminal.process(event[2].as_str().expect("output").as_bytes());
    }
    terminal
}

fn blank((rows, cols): (u16, u16)) -> vt100::Parser {
    let count = |count: u16| count.try_into().expect("a terminal has some cells");
    vt100::Parser::new(count(rows), count(cols), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recording_of_the_documentation_plays() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/app.cast");
        let text = std::fs::read_to_string(file).unwrap();
        assert!(text.len() < 300_000, "{} bytes", text.len());
        let terminal = played(&text);
        let shown = terminal.screen().contents();
        assert!(
            shown.contains("$ "),
            "the shell has the last word:\n{shown}"
        );
    }
}
