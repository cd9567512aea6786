//! Whatever a reader does while whatever comes, each frame holds what a frame must.

use proptest::prelude::*;
use ratatui::buffer::Buffer;

use super::ansi::tests::hostile;
use super::tests::{Pane, buffer, line, screen};
use super::wrap::clusters;
use super::*;

#[derive(Debug, Clone)]
enum Step {
    Push(String),
    Scroll(isize),
    Page(isize),
    Top,
    Bottom,
    Follow(bool),
    Wrap,
    Times,
    Sideways(bool),
    Search(String),
    Next,
    Previous,
    Select((u16, u16), (u16, u16)),
    Draw(u16, u16),
}

fn step() -> impl Strategy<Value = Step> {
    let cell = || (0_u16..40, 0_u16..15);
    prop_oneof![
        6 => hostile().prop_map(Step::Push),
        2 => (-12_isize..12).prop_map(Step::Scroll),
        1 => (-2_isize..3).prop_map(Step::Page),
        1 => prop::sample::select(vec![Step::Top, Step::Bottom, Step::Wrap, Step::Times, Step::Next, Step::Previous]),
        1 => any::<bool>().prop_map(Step::Follow),
        1 => any::<bool>().prop_map(Step::Sideways),
        1 => "[a-f漢e\u{301} ]{0,2}".prop_map(Step::Search),
        1 => (cell(), cell()).prop_map(|(from, to)| Step::Select(from, to)),
        3 => (0_u16..40, 0_u16..15).prop_map(|(width, height)| Step::Draw(width, height)),
    ]
}

/// The text of the rows that were drawn last, and of the lines that they are of.
fn drawn(pane: &Pane) -> Vec<(u64, usize)> {
    pane.window
        .drawn
        .rows
        .iter()
        .map(|row| (row.line, row.start))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn nothing_that_is_done_leaves_an_impossible_view(steps in prop::collection::vec(step(), 0..60)) {
        let mut pane = Pane::new(12);
        let (mut width, mut height) = (30, 10);
        for step in steps {
            // What is on the screen stays there while lines come that push none of it out.
            if let Step::Push(text) = step {
                let (following, before) = (pane.on().is_following(), drawn(&pane));
                pane.push(LogLine { source: text.chars().take(2).collect(), ..line(&text) });
                let first = pane.log.lines.all().first();
                if !following && before.first().is_some_and(|(line, _)| *line >= first) {
                    let columns = pane.window.drawn.text_from;
                    screen(&mut pane, width, height);
                    if pane.window.drawn.text_from == columns && before.len() == usize::from(height) {
                        prop_assert_eq!(drawn(&pane), before);
                    }
                }
                continue;
            }
            match step {
                Step::Push(_) => {}
                Step::Scroll(rows) => pane.on().scroll_by(rows),
                Step::Page(pages) => pane.on().page_by(pages),
                Step::Top => pane.on().to_top(),
                Step::Bottom => pane.on().to_bottom(),
                Step::Follow(follow) => pane.on().set_follow(follow),
                Step::Wrap => pane.window.toggle_wrap(),
                Step::Times => pane.window.toggle_times(),
                Step::Sideways(right) if right => pane.on().scroll_right(5),
                Step::Sideways(_) => pane.on().scroll_left(5),
                Step::Search(query) => pane.on().search(&query),
                Step::Next => pane.on().next_match(),
                Step::Previous => pane.on().previous_match(),
                Step::Select(from, to) => {
                    pane.on().select_from(from.0, from.1);
                    pane.on().select_to(to.0, to.1);
                    pane.on().selected_text();
                }
                Step::Draw(new_width, new_height) => (width, height) = (new_width, new_height),
            }
            let cells = buffer(&mut pane, width, height);
            check_frame(&mut pane, &cells)?;
        }
    }
}

/// What must hold of any frame.
fn check_frame(pane: &mut Pane, frame: &Buffer) -> Result<(), TestCaseError> {
    let rows = pane.window.drawn.rows.clone();
    let height = usize::from(frame.area.height);
    prop_assert!(rows.len() <= height);
    // The rows follow each other without a gap, and fill the screen as far as there are any.
    for pair in rows.windows(2) {
        let len = pane
            .log
            .lines
            .all()
            .line(pair[0].line)
            .map_or(0, |line| line.text.len());
        if pair[0].line == pair[1].line {
            prop_assert_eq!(pair[0].end, pair[1].start);
        } else {
            prop_assert_eq!(
                (pair[0].line + 1, pair[0].end, 0),
                (pair[1].line, len, pair[1].start)
            );
        }
    }
    if let (Some(first), Some(last)) = (rows.first(), rows.last()) {
        let len = pane
            .log
            .lines
            .all()
            .line(last.line)
            .map_or(0, |line| line.text.len());
        let at_end = last.line + 1 == pane.log.lines.all().next() && last.end == len;
        let at_start = first.line == pane.log.lines.all().first() && first.start == 0;
        prop_assert!(rows.len() == height || (at_end && at_start));
        prop_assert!(at_end || !pane.on().is_following());
    } else {
        prop_assert!(height == 0 || pane.on().len() == 0);
    }
    // The counts are those of the whole log, counted anew.
    if let (Some((current, total)), Some(search)) = (pane.on().matches(), &pane.window.search) {
        let found: Vec<_> = pane
            .log
            .lines
            .all()
            .range(0, u64::MAX)
            .flat_map(|line| {
                search
                    .in_line(line.text)
                    .map(move |(start, _)| (line.number, start))
            })
            .collect();
        prop_assert_eq!(total, found.len());
        let place = search.current.map(|current| (current.line, current.start));
        let number = place.and_then(|place| found.iter().position(|found| *found == place));
        prop_assert_eq!(current, number.map_or(0, |index| index + 1));
    }
    // Each row of the screen is as wide as it says, and shows nothing that a terminal obeys.
    for y in 0..frame.area.height {
        let mut x = 0;
        while x < frame.area.width {
            let symbol = frame[(x, y)].symbol();
            prop_assert!(!symbol.is_empty() && !symbol.chars().any(char::is_control));
            let width = (wrap::width(symbol) as u16).max(1);
            prop_assert!(x + width <= frame.area.width, "{:?} at {}", symbol, x);
            for hidden in 1..width {
                prop_assert_eq!(frame[(x + hidden, y)].symbol(), " ");
            }
            prop_assert_eq!(clusters(symbol).count(), 1);
            x += width;
        }
    }
    Ok(())
}
