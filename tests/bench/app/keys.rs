//! From a key to what it changes on the screen.

use std::time::{Duration, Instant};

use chalk_tests::Screen;

use crate::row::{Times, milliseconds};

/// Keys that are pressed.
pub(super) const KEYS: usize = 240;
/// The most that a key may take to the screen, in milliseconds.
pub(super) const AIM: f64 = 20.0;

/// Presses a key and waits for what it is to change; milliseconds until that had come.
pub(super) fn press(screen: &mut Screen, key: &str, so: impl Fn(&vt100::Screen) -> bool) -> f64 {
    let pressed = Instant::now();
    screen.press(key);
    let came = screen.wait_until(&format!("what {key:?} does"), so);
    milliseconds(came.checked_duration_since(pressed).unwrap())
}

/// Opens and closes the help of the view that is shown.
pub(super) fn help(screen: &mut Screen, keys: usize) -> Times {
    let times = (0..keys).map(|number| {
        rest(number);
        let open = number % 2 == 0;
        let key = if open { "?" } else { "\x1b" };
        press(screen, key, |screen| {
            screen.contents().contains("keys that work here") == open
        })
    });
    Times::of(times.collect())
}

/// Types a filter and takes it away again, letter by letter.
pub(super) fn filter(screen: &mut Screen, word: &str, keys: usize) -> Times {
    screen.press("/");
    screen.wait_for("filter:");
    let mut typed = String::new();
    let mut times = Vec::new();
    while times.len() < keys {
        let (there, back) = (word.chars().map(Some), word.chars().map(|_| None));
        for letter in there.chain(back) {
            rest(times.len());
            let key = match letter {
                Some(letter) => {
                    typed.push(letter);
                    letter.to_string()
                }
                None => {
                    typed.pop();
                    "\x7f".to_owned()
                }
            };
            times.push(press(screen, &key, |screen| {
                let mut rows = screen.rows(0, screen.size().1.get());
                rows.any(|row| match row.strip_prefix(" filter:").map(str::trim) {
                    // An empty one explains itself.
                    Some(said) if typed.is_empty() => said.starts_with("fuzzy;"),
                    said => said == Some(&typed),
                })
            }));
        }
    }
    screen.press("\x1b");
    screen.wait_gone("filter:");
    Times::of(times)
}

/// Waits so that keys fall at all times of the app's frames and ticks.
pub(super) fn rest(number: usize) {
    let number = u64::try_from(number).unwrap();
    std::thread::sleep(Duration::from_millis(20 + number * 37 % 83));
}
