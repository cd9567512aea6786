use proptest::prelude::*;
use ratatui::style::Modifier;

use super::super::style::Ink;
use super::*;

fn lines(raw: &str) -> Vec<String> {
    let mut out = Vec::new();
    read(raw, &mut Pen::default(), |text, _| {
        out.push(text.to_owned());
    });
    out
}

#[test]
fn nothing_but_text_is_left() {
    let check = |raw: &str, expect: &str| assert_eq!(lines(raw), [expect], "{raw:?}");
    check("", "");
    check("plain text", "plain text");
    check("one line\n", "one line");
    check("of Windows\r\n", "of Windows");
    check(
        "\u{1b}[1;31mred\u{1b}[0m and \u{1b}[4:3mcurled\u{1b}[m",
        "red and curled",
    );
    // Cursor, modes, window, clipboard, titles, links, pictures, strings of every kind.
    check(
        "a\u{1b}[2A\u{1b}[10;10H\u{1b}[?1049h\u{1b}[?25l\u{1b}[8;1;1tb",
        "ab",
    );
    check("a\u{1b}]0;title\u{7}b\u{1b}]52;c;cm0gLXJm\u{1b}\\c", "abc");
    check("\u{1b}]8;;http://x/\u{1b}\\link\u{1b}]8;;\u{1b}\\", "link");
    check(
        "a\u{1b}Pq#0;2;0;0;0\u{1b}\\b\u{1b}_Gi=1\u{1b}\\c\u{1b}^x\u{1b}\\d\u{1b}Xy\u{1b}\\e",
        "abcde",
    );
    check("\u{1b}c\u{1b}7\u{1b}8\u{1b}#8\u{1b}(0\u{1b}>\u{1b}=a", "a");
    check("a\u{7}\0\u{b}\u{c}\u{e}\u{f}\u{7f}\u{18}\u{1a}b", "ab");
    // C1, as xterm takes it.
    check(
        "a\u{9b}31mb\u{9d}0;title\u{9c}c\u{90}q\u{9c}d\u{85}e",
        "abcde",
    );
    // Cut short.
    check("a\u{1b}", "a");
    check("a\u{1b}[", "a");
    check("a\u{1b}[31", "a");
    check("a\u{1b}]52;c;", "a");
    // The order of text, and what shows nothing.
    check("a\u{202e}dcb\u{202c}\u{2066}\u{200f}\u{61c}e", "adcbe");
    check("pay\u{200b}load\u{feff}\u{ad}\u{2060}\u{e0041}", "payload");
    check("a\u{2028}b\u{2029}c", "abc");
    // What people write is kept.
    check(
        "ünï 漢字 👩‍👩‍👧 e\u{301} می\u{200c}خواهم \u{fffd}",
        "ünï 漢字 👩‍👩‍👧 e\u{301} می\u{200c}خواهم \u{fffd}",
    );
}

#[test]
fn progress_bars_end_as_they_would_on_a_terminal() {
    let check = |raw: &str, expect: &str| assert_eq!(lines(raw), [expect], "{raw:?}");
    check("10%\r50%\r100%", "100%");
    check("10%\r50%\r100%\r", "100%");
    check("a long one\rshort", "short");
    check("gone\r\u{1b}[K", "");
    check("gone\r\u{1b}[2Kdone", "done");
    check("gone\u{1b}[2K\u{1b}[1Gdone", "done");
    check("gone\u{1b}[0Gdone", "done");
    check("kept\u{1b}[K", "kept");
    check("\u{1b}[01;31m\u{1b}[Kerror\u{1b}[m\u{1b}[K: x", "error: x");
    check("|\u{8}/\u{8}-\u{8}\\\u{8} \u{8}done", "done");
    check("a\u{8}\u{8}\u{8}b", "b");
    check("漢e\u{301}\u{8}x", "漢x");
    check("abc\u{8}\u{8}\u{1b}[K", "a");
    check("ab\r\u{8}c", "c");
    check("\r\r\rx", "x");
}

#[test]
fn tabs_reach_the_next_stop() {
    let check = |raw: &str, expect: &str| assert_eq!(lines(raw), [expect], "{raw:?}");
    check("\tx", "        x");
    check("a\tb", "a       b");
    check("1234567\tb", "1234567 b");
    check("12345678\tb", "12345678        b");
    check("a\tb\tc", "a       b       c");
    check("漢\tb", "漢      b");
    check("a\t\u{1b}[31mb\tc", "a       b       c");
    check("a\tb\r\tc", "        c");
    check("a\tb\u{8}\u{8}\tc", "a       c");
}

#[test]
fn ends_of_lines_and_too_long_lines_make_lines() {
    assert_eq!(lines("a\nb\r\nc"), ["a", "b", "c"]);
    assert_eq!(lines("a\n\nb\n"), ["a", "", "b"]);
    let long = "x".repeat(LONGEST);
    assert_eq!(lines(&long), [long.as_str()]);
    assert_eq!(lines(&format!("{long}y")), [long.as_str(), "y"]);
    let wide = "漢".repeat(LONGEST);
    let cut = lines(&wide);
    assert_eq!(cut.concat(), wide);
    assert!(cut.iter().all(|line| line.len() <= LONGEST));
    assert_eq!(lines(&"\t".repeat(LONGEST)).len(), 8);
}

#[test]
fn styles_are_told_where_they_change() {
    let red = Pen {
        foreground: Some(Ink::Palette(1)),
        ..Pen::default()
    };
    let bold = Pen {
        modifiers: Modifier::BOLD,
        ..Pen::default()
    };
    let none = Pen::default();
    let check = |raw: &str, expect: &[(usize, Pen)]| {
        read(raw, &mut Pen::default(), |_, changes| {
            assert_eq!(changes, expect, "{raw:?}");
        });
    };
    check("plain", &[]);
    check("\u{1b}[31mred\u{1b}[0m not", &[(0, red), (3, none)]);
    check("a\u{1b}[1mb\u{1b}[22mc", &[(1, bold), (2, none)]);
    // Set and unset without text between.
    check("a\u{1b}[1m\u{1b}[31m\u{1b}[0mb", &[]);
    check("\u{1b}[31mred\r\u{1b}[0mplain", &[]);
    check("\u{1b}[31mred\u{8}\u{8}\u{8}\u{1b}[0mx", &[]);
    check("a\u{1b}[31mb\u{8}\u{1b}[1;39mc", &[(1, bold)]);

    let ink = |raw: &str| {
        let mut pen = none;
        read(raw, &mut pen, |_, _| {});
        (pen.foreground, pen.background)
    };
    let rgb = Some(Ink::Rgb(1, 2, 3));
    assert_eq!(ink("\u{1b}[38;5;208m"), (Some(Ink::Palette(208)), None));
    assert_eq!(ink("\u{1b}[38:5:208m"), (Some(Ink::Palette(208)), None));
    assert_eq!(ink("\u{1b}[48;2;1;2;3m"), (None, rgb));
    assert_eq!(ink("\u{1b}[48:2:1:2:3m"), (None, rgb));
    assert_eq!(ink("\u{1b}[38:2::1:2:3m"), (rgb, None));
    assert_eq!(ink("\u{1b}[38;2;1;2;3;41m"), (rgb, Some(Ink::Palette(1))));
    assert_eq!(
        ink("\u{1b}[97;100m"),
        (Some(Ink::Palette(15)), Some(Ink::Palette(8)))
    );
    assert_eq!(ink("\u{1b}[58;5;31m\u{1b}[58:2::1:2:3m"), (None, None));
    // Wrong, or not of colours at all.
    assert_eq!(
        ink("\u{1b}[38;5;256m\u{1b}[38;2;1;2m\u{1b}[38m\u{1b}[>4;31m\u{1b}[?31m"),
        (None, None)
    );
}

#[test]
fn a_style_goes_on_in_the_next_line() {
    let mut pen = Pen::default();
    read("\u{1b}[31mred", &mut pen, |_, _| {});
    read("still", &mut pen, |_, changes| {
        assert_eq!(changes, [(0, pen_of(1))]);
    });
    read("", &mut pen, |_, changes| assert_eq!(changes, []));
    read("now\u{1b}[m not", &mut pen, |_, changes| {
        assert_eq!(changes, [(0, pen_of(1)), (3, Pen::default())]);
    });
    assert_eq!(pen, Pen::default());
}

fn pen_of(index: u8) -> Pen {
    Pen {
        foreground: Some(Ink::Palette(index)),
        ..Pen::default()
    }
}

#[test]
fn labels_are_one_line() {
    assert_eq!(plain("\u{1b}[31mRUN\u{1b}[0m a\nb"), "RUN a b");
    assert_eq!(plain(""), "");
}

/// Text made of what could be trouble.
pub(in super::super) fn hostile() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[ -~]{0,40}",
        2 => "\\PC{0,10}",
        1 => any::<char>().prop_map(String::from),
        1 => "\u{1b}\\[[0-9;:?>]{0,12}[@-~]",
        1 => "[\u{1b}\u{9b}\u{9d}\u{90}\r\t\u{8}\u{7}\u{9c}]{1,3}",
        1 => prop::sample::select(vec![
            "漢字", "👩‍👩‍👧", "🇩🇪", "e\u{301}", "\u{301}", "ｶﾞ", "क्ष", "\u{1b}[31m", "\u{1b}[0m",
            "\u{1b}]0;", "\u{202e}", "1️⃣", "\u{200d}", "\u{1160}", "한",
        ]).prop_map(str::to_owned),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat().replace('\n', ""))
}

proptest! {
    #[test]
    fn what_is_left_of_anything_is_harmless(raw in hostile()) {
        let mut pen = Pen::default();
        let mut count = 0;
        read(&raw, &mut pen, |text, changes| {
            count += 1;
            assert!(text.chars().all(shows), "{text:?}");
            assert!(changes.is_sorted_by(|a, b| a.0 < b.0 && a.1 != b.1), "{changes:?}");
            assert!(changes.iter().all(|(at, _)| *at < text.len() && text.is_char_boundary(*at)));
            // Harmless text is left alone.
            assert_eq!(lines(text), [text]);
        });
        prop_assert_eq!(count, 1);
    }
}
