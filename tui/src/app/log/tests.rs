use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};

use super::*;

pub(super) fn line(text: &str) -> LogLine {
    LogLine {
        time: None,
        source: String::new(),
        stderr: false,
        text: text.to_owned(),
    }
}

/// A log with a window on all of it.
pub(super) struct Pane {
    pub(super) log: Log,
    pub(super) window: Window,
}

impl Pane {
    pub(super) fn new(limit: usize) -> Self {
        let mut log = Log::new(limit);
        let window = log.window(None);
        Self { log, window }
    }

    pub(super) fn push(&mut self, line: LogLine) {
        self.log.push(line);
    }

    pub(super) fn on(&mut self) -> LogPane<'_> {
        LogPane::new(&mut self.log, &mut self.window)
    }

    pub(super) fn text(&mut self) -> Vec<String> {
        let mut out = Vec::new();
        let count = self.on().copy().write(&mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        let lines: Vec<String> = out.lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), count);
        lines
    }
}

fn pane(texts: &[&str]) -> Pane {
    let mut pane = Pane::new(1_000);
    for text in texts {
        pane.push(line(text));
    }
    pane
}

fn numbered(count: usize, limit: usize) -> Pane {
    let mut pane = Pane::new(limit);
    for number in 0..count {
        pane.push(line(&format!("line {number}")));
    }
    pane
}

fn styles() -> LogStyles {
    LogStyles {
        dim: Style::new().add_modifier(Modifier::DIM),
        stderr: Style::new().add_modifier(Modifier::ITALIC),
        source: Style::new().fg(Color::Magenta),
        matched: Style::new().fg(Color::Black).bg(Color::Yellow),
        current_match: Style::new().fg(Color::Black).bg(Color::Green),
        selection: Style::new().add_modifier(Modifier::REVERSED),
        colors: true,
        ..LogStyles::default()
    }
}

pub(super) fn buffer(pane: &mut Pane, width: u16, height: u16) -> Buffer {
    let area = Rect::new(0, 0, width, height);
    let mut buffer = Buffer::empty(area);
    pane.on().draw(area, &mut buffer, &styles());
    buffer
}

/// The rows of a frame, without what follows the text.
pub(super) fn screen(pane: &mut Pane, width: u16, height: u16) -> Vec<String> {
    let buffer = buffer(pane, width, height);
    (0..height)
        .map(|y| {
            let mut row = String::new();
            let mut x = 0;
            while x < width {
                let symbol = buffer[(x, y)].symbol();
                row.push_str(symbol);
                x += (wrap::width(symbol) as u16).max(1);
            }
            row.trim_end().to_owned()
        })
        .collect()
}

#[test]
fn the_end_is_followed_until_the_reader_scrolls_up() {
    let mut pane = numbered(100, 1_000);
    assert!(pane.on().is_following());
    assert_eq!(screen(&mut pane, 20, 3), ["line 97", "line 98", "line 99"]);
    pane.push(line("line 100"));
    assert_eq!(screen(&mut pane, 20, 3), ["line 98", "line 99", "line 100"]);
    pane.on().scroll_by(-1);
    assert!(!pane.on().is_following());
    for number in 101..150 {
        pane.push(line(&format!("line {number}")));
    }
    assert_eq!(screen(&mut pane, 20, 3), ["line 97", "line 98", "line 99"]);
    assert_eq!(pane.on().unread(), 49);
    pane.on().scroll_by(10);
    assert_eq!(
        screen(&mut pane, 20, 3),
        ["line 107", "line 108", "line 109"]
    );
    pane.on().page_by(1);
    assert_eq!(
        screen(&mut pane, 20, 3),
        ["line 109", "line 110", "line 111"]
    );
    pane.on().page_by(-1);
    assert!(!pane.on().is_following());
    // Down to the end, it is followed again.
    pane.on().scroll_by(isize::MAX);
    assert!(pane.on().is_following());
    assert_eq!(pane.on().unread(), 0);
    pane.push(line("new"));
    assert_eq!(screen(&mut pane, 20, 2), ["line 149", "new"]);
    pane.on().set_follow(false);
    pane.push(line("newer"));
    assert_eq!(screen(&mut pane, 20, 2), ["line 149", "new"]);
    pane.on().to_bottom();
    assert_eq!(screen(&mut pane, 20, 2), ["new", "newer"]);
    pane.on().to_top();
    assert_eq!(screen(&mut pane, 20, 2), ["line 0", "line 1"]);
    pane.on().scroll_by(isize::MIN);
    assert_eq!(screen(&mut pane, 20, 2), ["line 0", "line 1"]);
}

#[test]
fn what_is_read_stays_while_old_lines_are_dropped() {
    let mut pane = numbered(100, 100);
    screen(&mut pane, 20, 3);
    pane.on().scroll_by(-47);
    for number in 100..150 {
        assert_eq!(screen(&mut pane, 20, 3), ["line 50", "line 51", "line 52"]);
        pane.push(line(&format!("line {number}")));
    }
    assert_eq!(pane.on().len(), 100);
    // Dropped in the end, what is left moves up.
    pane.push(line("line 150"));
    assert_eq!(screen(&mut pane, 20, 3), ["line 51", "line 52", "line 53"]);
    assert_eq!(pane.on().unread(), 51);
}

#[test]
fn a_short_log_is_at_the_top() {
    let mut pane = pane(&["a", "b"]);
    assert_eq!(screen(&mut pane, 20, 4), ["a", "b", "", ""]);
    pane.on().scroll_by(-1);
    assert!(!pane.on().is_following());
    assert_eq!(screen(&mut pane, 20, 4), ["a", "b", "", ""]);
    pane.on().scroll_by(1);
    assert!(pane.on().is_following());
    let mut empty = Pane::new(10);
    assert_eq!(screen(&mut empty, 20, 2), ["", ""]);
    empty.on().scroll_by(-1);
    empty.on().to_top();
    empty.on().search("x");
    empty.on().next_match();
    assert_eq!(empty.on().matches(), Some((0, 0)));
    assert_eq!(screen(&mut empty, 20, 2), ["", ""]);
    for name in ["c", "d", "e"] {
        empty.push(line(name));
    }
    assert_eq!(screen(&mut empty, 20, 2), ["c", "d"]);
}

#[test]
fn a_resize_keeps_what_is_read() {
    let long = "0123456789".repeat(10);
    let mut pane = pane(&["first", &long, "last", "", "", "", ""]);
    screen(&mut pane, 10, 3);
    pane.on().to_top();
    pane.on().scroll_by(6);
    assert_eq!(screen(&mut pane, 10, 3), ["0123456789"; 3]);
    // Byte 50 of the long line.
    assert_eq!(screen(&mut pane, 7, 3), ["9012345", "6789012", "3456789"]);
    assert_eq!(screen(&mut pane, 33, 2), [&long[33..66], &long[66..99]]);
    assert_eq!(screen(&mut pane, 50, 2), [&long[50..], "last"]);
    assert!(!pane.on().is_following());
    // Taller than what is left below: full, and it stays so.
    assert_eq!(screen(&mut pane, 100, 7)[..3], ["first", &long, "last"]);
    pane.push(line("new"));
    assert_eq!(screen(&mut pane, 100, 7)[..3], ["first", &long, "last"]);
}

#[test]
fn unwrapped_lines_are_cut_with_marks() {
    let mut pane = pane(&["0123456789abcdef", "short", "漢字漢字漢字漢字漢字", ""]);
    screen(&mut pane, 8, 4);
    pane.on().scroll_right(4);
    pane.window.toggle_wrap();
    assert!(!pane.on().is_wrapped());
    assert_eq!(
        screen(&mut pane, 8, 4),
        ["0123456>", "short", "漢字漢 >", ""]
    );
    pane.on().scroll_right(3);
    assert_eq!(screen(&mut pane, 8, 4), ["<456789>", "<t", "<漢字漢>", ""]);
    pane.on().scroll_left(1);
    assert_eq!(screen(&mut pane, 8, 4), ["<345678>", "<rt", "< 漢字 >", ""]);
    // No further than the longest.
    pane.on().scroll_right(100);
    assert_eq!(screen(&mut pane, 8, 4), ["<def", "<", "< 字漢字", ""]);
    pane.on().scroll_left(100);
    assert_eq!(
        screen(&mut pane, 8, 4),
        ["0123456>", "short", "漢字漢 >", ""]
    );
    pane.window.toggle_wrap();
    assert_eq!(
        screen(&mut pane, 8, 5),
        ["short", "漢字漢字", "漢字漢字", "漢字", ""]
    );
}

#[test]
fn times_and_sources_stand_before_the_text() {
    let mut pane = Pane::new(10);
    let at = |time, source: &str, text: &str| LogLine {
        time,
        source: source.to_owned(),
        stderr: false,
        text: text.to_owned(),
    };
    pane.push(at(
        Some(1_700_000_000_123),
        "1/3",
        "0123456789012345678901234567",
    ));
    pane.push(at(None, "pip_install of many", "x"));
    assert_eq!(
        screen(&mut pane, 42, 3),
        [
            "1/3              0123456789012345678901234",
            "                 567",
            "pip_install of m x"
        ],
    );
    pane.window.toggle_times();
    assert!(pane.on().shows_times());
    assert_eq!(
        screen(&mut pane, 60, 3),
        [
            "22:13:20.123 1/3              0123456789012345678901234567",
            "             pip_install of m x",
            "",
        ],
    );
    // Where there is too little room, text has it.
    assert_eq!(
        screen(&mut pane, 40, 3),
        [
            "22:13:20.123 012345678901234567890123456",
            "             7",
            "             x"
        ],
    );
    assert_eq!(
        screen(&mut pane, 30, 2),
        ["0123456789012345678901234567", "x"]
    );
    pane.on().select_from(0, 0);
    pane.on().select_to(29, 1);
    assert_eq!(
        pane.on().selected_text().as_deref(),
        Some("0123456789012345678901234567\nx")
    );
    assert_eq!(draw::clock(-1), "23:59:59.999");
}

#[test]
fn colours_of_tools_are_kept_unless_there_are_to_be_none() {
    let mut pane = pane(&["a\u{1b}[1;31mb\u{1b}[0mc"]);
    pane.push(LogLine {
        stderr: true,
        ..line("d")
    });
    let drawn = buffer(&mut pane, 4, 2);
    let style = |buffer: &Buffer, x, y| {
        let cell = &buffer[(x, y)];
        (cell.fg, cell.modifier)
    };
    assert_eq!(style(&drawn, 0, 0), (Color::Reset, Modifier::empty()));
    assert_eq!(style(&drawn, 1, 0), (Color::Red, Modifier::BOLD));
    assert_eq!(style(&drawn, 2, 0), (Color::Reset, Modifier::empty()));
    assert_eq!(style(&drawn, 0, 1), (Color::Reset, Modifier::ITALIC));
    let plain = LogStyles {
        colors: false,
        ..styles()
    };
    let mut drawn = Buffer::empty(Rect::new(0, 0, 4, 2));
    pane.on().draw(drawn.area, &mut drawn, &plain);
    assert_eq!(style(&drawn, 1, 0), (Color::Reset, Modifier::BOLD));
}

#[test]
fn styles_of_one_stream_do_not_reach_another() {
    let mut pane = Pane::new(10);
    for (source, stderr, text) in [
        ("a", false, "\u{1b}[31mred"),
        ("b", false, "plain"),
        ("a", true, "plain"),
        ("a", false, "red"),
    ] {
        pane.push(LogLine {
            time: None,
            source: source.to_owned(),
            stderr,
            text: text.to_owned(),
        });
    }
    let drawn = buffer(&mut pane, 40, 4);
    let colors: Vec<_> = (0..4).map(|y| drawn[(2, y)].fg).collect();
    assert_eq!(colors, [Color::Red, Color::Reset, Color::Reset, Color::Red]);
}

#[test]
fn a_search_goes_over_the_whole_log() {
    let mut pane = numbered(1_000, 2_000);
    screen(&mut pane, 20, 3);
    pane.on().to_top();
    pane.on().search("line 50");
    assert_eq!(screen(&mut pane, 20, 3), ["line 49", "line 50", "line 51"]);
    assert!(!pane.on().is_counting());
    assert_eq!(pane.on().matches(), Some((1, 11)));
    pane.on().next_match();
    assert_eq!(pane.on().matches(), Some((2, 11)));
    assert_eq!(
        screen(&mut pane, 20, 3),
        ["line 499", "line 500", "line 501"]
    );
    pane.on().next_match();
    assert_eq!(pane.on().matches(), Some((3, 11)));
    // It was on the screen already.
    assert_eq!(
        screen(&mut pane, 20, 3),
        ["line 499", "line 500", "line 501"]
    );
    pane.on().previous_match();
    pane.on().previous_match();
    assert_eq!(pane.on().matches(), Some((1, 11)));
    pane.on().previous_match();
    assert_eq!(pane.on().matches(), Some((11, 11)));
    assert_eq!(
        screen(&mut pane, 20, 3),
        ["line 508", "line 509", "line 510"]
    );
    pane.on().next_match();
    assert_eq!(pane.on().matches(), Some((1, 11)));
    // More is typed; what comes is searched too.
    pane.on().search("line 509");
    assert_eq!(pane.on().matches(), Some((1, 1)));
    pane.push(line("LINE 509 and line 509"));
    assert_eq!(pane.on().matches(), Some((1, 3)));
    pane.on().search("LINE");
    assert_eq!(pane.on().matches(), Some((1, 1)));
    pane.on().search("nowhere");
    assert_eq!(pane.on().matches(), Some((0, 0)));
    pane.on().next_match();
    assert_eq!(pane.on().matches(), Some((0, 0)));
    pane.push(line("nowhere"));
    assert_eq!(pane.on().matches(), Some((0, 1)));
    pane.on().next_match();
    assert_eq!(pane.on().matches(), Some((1, 1)));
    pane.on().search("");
    assert_eq!(pane.on().matches(), None);
}

#[test]
fn a_search_from_the_end_finds_what_is_above() {
    let mut pane = numbered(100, 1_000);
    screen(&mut pane, 20, 3);
    pane.on().search("line 98");
    assert!(pane.on().is_following());
    assert_eq!(pane.on().matches(), Some((1, 1)));
    pane.on().search("line 9");
    assert_eq!(pane.on().matches(), Some((10, 11)));
    pane.on().search("line 20");
    assert!(!pane.on().is_following());
    assert_eq!(screen(&mut pane, 20, 3), ["line 19", "line 20", "line 21"]);
}

#[test]
fn dropped_lines_no_longer_match() {
    let mut pane = Pane::new(3);
    for text in ["x x", "x", "y"] {
        pane.push(line(text));
    }
    screen(&mut pane, 20, 3);
    pane.on().search("x");
    assert_eq!(pane.on().matches(), Some((1, 3)));
    pane.on().next_match();
    pane.on().next_match();
    assert_eq!(pane.on().matches(), Some((3, 3)));
    assert!(!pane.on().has_dropped());
    pane.push(line("x"));
    assert!(pane.on().has_dropped());
    assert_eq!(pane.on().matches(), Some((1, 2)));
    pane.push(line("x"));
    assert_eq!(pane.on().matches(), Some((0, 2)));
}

#[test]
fn matches_and_marked_text_stand_out() {
    let mut pane = pane(&["say yes, yes"]);
    screen(&mut pane, 20, 1);
    pane.on().search("yes");
    pane.on().next_match();
    pane.on().select_from(0, 0);
    pane.on().select_to(1, 0);
    let drawn = buffer(&mut pane, 20, 1);
    let grounds: Vec<_> = (0..12).map(|x| drawn[(x, 0)].bg).collect();
    let mut expect = [Color::Reset; 12];
    expect[4..7].fill(Color::Yellow);
    expect[9..12].fill(Color::Green);
    assert_eq!(grounds, expect);
    let reversed: Vec<_> = (0..4).map(|x| drawn[(x, 0)].modifier).collect();
    let mark = Modifier::REVERSED;
    assert_eq!(reversed, [mark, mark, Modifier::empty(), Modifier::empty()]);
}

#[test]
fn a_far_match_is_scrolled_to_sideways() {
    let long = format!("{}needle", " ".repeat(100));
    let mut pane = pane(&[&long, "needle"]);
    pane.window.toggle_wrap();
    screen(&mut pane, 20, 2);
    pane.on().to_top();
    pane.on().search("needle");
    assert_eq!(screen(&mut pane, 20, 2), ["<     needle", "<"]);
    pane.on().next_match();
    let cut = format!("{}>", " ".repeat(19));
    assert_eq!(screen(&mut pane, 20, 2), [cut.as_str(), "needle"]);
}

#[test]
fn marked_text_is_text_alone() {
    let mut pane = pane(&["0123456789abcdef", "漢字", "", "end"]);
    let area = Rect::new(5, 2, 10, 6);
    let mut buffer = Buffer::empty(Rect::new(0, 0, 30, 10));
    pane.on().draw(area, &mut buffer, &styles());
    let mut check = |from: (u16, u16), to: (u16, u16), expect: Option<&str>| {
        pane.on().select_from(from.0, from.1);
        assert_eq!(pane.on().selected_text(), None);
        pane.on().select_to(to.0, to.1);
        assert_eq!(pane.on().selected_text().as_deref(), expect);
    };
    check((5, 2), (14, 2), Some("0123456789"));
    // Wrapped lines are one.
    check((13, 2), (6, 3), Some("89ab"));
    check((6, 3), (13, 2), Some("89ab"));
    // Either half of a wide character is all of it.
    check((8, 4), (8, 4), Some("字"));
    check((7, 4), (29, 6), Some("字\n\nend"));
    check((6, 6), (0, 9), Some("nd"));
    check((6, 2), (0, 0), Some("01"));
    check((20, 3), (20, 4), Some("\n漢字"));
    check((20, 6), (20, 6), None);
    pane.on().clear_selection();
    assert_eq!(pane.on().selected_text(), None);
    Pane::new(1).on().select_from(0, 0);
}

#[test]
fn marked_text_stays_marked_while_lines_come() {
    let mut pane = numbered(10, 10);
    screen(&mut pane, 20, 3);
    pane.on().select_from(0, 0);
    assert!(pane.on().is_following());
    pane.on().select_to(5, 1);
    assert!(!pane.on().is_following());
    pane.push(line("more"));
    assert_eq!(screen(&mut pane, 20, 3), ["line 7", "line 8", "line 9"]);
    assert_eq!(pane.on().selected_text().as_deref(), Some("line 7\nline 8"));
    for _ in 0..7 {
        pane.push(line("more"));
    }
    assert_eq!(pane.on().selected_text().as_deref(), Some("line 8"));
}

#[test]
fn the_text_of_a_log_can_be_taken_away() {
    let mut pane = pane(&["\u{1b}[31ma\u{1b}[0m", "b\tc", "d"]);
    assert_eq!(pane.text(), ["a", "b       c", "d"]);
    assert_eq!(pane.log.tail("", 2), ["b       c", "d"]);
    assert_eq!(pane.log.tail("", 9).len(), 3);
    assert_eq!(pane.log.tail("", 0).len(), 0);
}

#[test]
fn marks_without_end_do_not_reach_the_screen() {
    let heap = format!("a{}b", "\u{301}".repeat(1_000));
    let mut pane = pane(&[&heap, "\u{301}c"]);
    assert_eq!(screen(&mut pane, 10, 2), ["ab", "c"]);
}

#[test]
fn a_big_log_is_counted_over_some_frames() {
    let mut pane = Pane::new(200_000);
    for number in 0..200_000 {
        pane.push(line(&format!(
            "a line of some length with a number in it: {number}"
        )));
    }
    screen(&mut pane, 80, 24);
    pane.on().search("line");
    assert!(pane.on().is_counting());
    let (current, total) = pane.on().matches().unwrap();
    assert!(current <= total && total < 200_000);
    let mut frames = 0;
    while pane.on().is_counting() {
        screen(&mut pane, 80, 24);
        pane.push(line("one more line"));
        frames += 1;
        assert!(frames < 100);
    }
    assert!(frames > 1);
    assert_eq!(pane.on().matches().unwrap().1, 200_000);
    // Found at once, however far, without all being counted.
    pane.on().to_top();
    pane.on().search("it: 199999");
    let rows = screen(&mut pane, 80, 24);
    assert!(
        rows.iter().any(|row| row.ends_with("it: 199999")),
        "{rows:?}"
    );
}
