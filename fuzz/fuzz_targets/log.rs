//! What build steps print: never a panic; whatever it is, the log pane keeps only text that a
//! terminal shows as it stands, draws it within its borders, breaks lines without losing any of
//! them, and counts what it finds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ratatui::buffer::{Buffer, CellWidth as _};
use ratatui::layout::Rect;

// The program has no library to take it from.
#[allow(dead_code)]
#[path = "../../tui/src/app/log/mod.rs"]
mod log;

use log::{Log, LogLine, LogPane, LogStyles};

fuzz_target!(|text: &str| {
    let mut log = Log::new(20);
    let mut window = log.window(None);
    let mut chars = text.chars();
    let mut size = || chars.next().map_or(7, |c| u32::from(c) as u16 % 40);
    let sizes = [(size(), size()), (size(), size())];
    let mut pane = LogPane::new(&mut log, &mut window);
    pane.search(&chars.by_ref().take(2).collect::<String>());
    for (number, line) in chars.as_str().split('\n').enumerate() {
        log.push(LogLine {
            time: Some(number as i64),
            source: line.chars().take(3).collect(),
            stderr: number % 2 == 1,
            text: line.to_owned(),
        });
    }
    for (width, height) in sizes {
        let mut pane = LogPane::new(&mut log, &mut window);
        draw(&mut pane, width, height);
        pane.scroll_by(-3);
        pane.next_match();
        draw(&mut pane, width, height);
        pane.select_from(0, 0);
        pane.select_to(width, height);
        window.toggle_times();
        window.toggle_wrap();
        let mut pane = LogPane::new(&mut log, &mut window);
        draw(&mut pane, width, height);
        pane.scroll_right(3);
    }

    let mut pane = LogPane::new(&mut log, &mut window);
    let (count, text) = saved(&pane);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines.len(), pane.len()), (count, count));
    for line in &lines {
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
    if let Some((current, total)) = pane.matches() {
        assert!(current <= total);
    }
    // Marked from its first cell to its last, a log on one screen is all of its text.
    let mut all = Log::new(20);
    for line in &lines {
        all.push(LogLine {
            time: None,
            source: String::new(),
            stderr: false,
            text: (*line).to_owned(),
        });
    }
    let mut window = all.window(None);
    let mut all = LogPane::new(&mut all, &mut window);
    let rows = lines
        .iter()
        .map(|line| line.len() + 1)
        .sum::<usize>()
        .min(2_000) as u16;
    draw(&mut all, 30, rows);
    all.to_top();
    draw(&mut all, 30, rows);
    all.select_from(0, 0);
    all.select_to(30, rows);
    let text = lines.join("\n");
    if text.len() < 2_000 && !text.is_empty() {
        assert_eq!(all.selected_text(), Some(text));
    }
});

/// How many lines are saved, and their text.
fn saved(pane: &LogPane) -> (usize, String) {
    let mut text = Vec::new();
    let count = pane.copy().write(&mut text).unwrap();
    (count, String::from_utf8(text).unwrap())
}

fn draw(pane: &mut LogPane, width: u16, height: u16) {
    let mut buffer = Buffer::empty(Rect::new(0, 0, width, height));
    let styles = LogStyles {
        colors: true,
        ..LogStyles::default()
    };
    pane.draw(buffer.area, &mut buffer, &styles);
    for y in 0..height {
        let mut x = 0;
        while x < width {
            let symbol = buffer[(x, y)].symbol();
            assert!(!symbol.chars().any(char::is_control), "{symbol:?}");
            x += symbol.cell_width().max(1);
        }
        assert_eq!(x, width, "row {y}");
    }
}
