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

use log::{LogLine, LogPane, LogStyles};

fuzz_target!(|text: &str| {
    let mut pane = LogPane::new(20);
    let mut chars = text.chars();
    let mut size = || chars.next().map_or(7, |c| u32::from(c) as u16 % 40);
    let sizes = [(size(), size()), (size(), size())];
    pane.search(&chars.by_ref().take(2).collect::<String>());
    for (number, line) in chars.as_str().split('\n').enumerate() {
        pane.push(LogLine {
            time: Some(number as i64),
            source: line.chars().take(3).collect(),
            stderr: number % 2 == 1,
            text: line.to_owned(),
        });
    }
    for (width, height) in sizes {
        draw(&mut pane, width, height);
        pane.scroll_by(-3);
        pane.next_match();
        draw(&mut pane, width, height);
        pane.select_from(0, 0);
        pane.select_to(width, height);
        pane.toggle_times();
        pane.toggle_wrap();
        draw(&mut pane, width, height);
        pane.scroll_right(3);
    }

    let lines: Vec<String> = pane.text().collect();
    for line in &lines {
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
    if let Some((current, total)) = pane.matches() {
        assert!(current <= total);
    }
    // Marked from its first cell to its last, a log on one screen is all of its text.
    let mut all = LogPane::new(20);
    for line in &lines {
        all.push(LogLine {
            time: None,
            source: String::new(),
            stderr: false,
            text: line.clone(),
        });
    }
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
