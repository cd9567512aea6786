//! Snapshots of every view, with styles, at three sizes and in three themes.

use std::fmt::Write as _;

use chalk_core::wire::{Plan, PlanState};
use ratatui::buffer::Buffer;
use ratatui::style::Style;

use crate::app::action::Action;
use crate::app::event::{Event, Feed};
use crate::app::glyphs::UNICODE;
use crate::app::model::State;
use crate::app::samples::{self, Screen};
use crate::app::theme::{Theme, Tone};
use crate::app::update::{act, update};

/// The text of a screen, and below it which cells have which style, so that a change of either is
/// seen.
fn shown(buffer: &Buffer) -> String {
    let area = buffer.area();
    let mut text = String::new();
    let mut styles: Vec<Style> = Vec::new();
    let mut marks = String::new();
    for y in area.top()..area.bottom() {
        let mut line = String::new();
        let mut last: Option<(Style, u16)> = None;
        let mut runs = String::new();
        let mut end = |from: Option<(Style, u16)>, to: u16, styles: &mut Vec<Style>| {
            let Some((style, from)) = from.filter(|(style, _)| *style != plain()) else {
                return;
            };
            let number = styles.iter().position(|s| *s == style).unwrap_or_else(|| {
                styles.push(style);
                styles.len() - 1
            });
            let _ = write!(runs, " {from}-{to}:{number}");
        };
        let mut skip = 0;
        for x in area.left()..area.right() {
            let cell = &buffer[(x, y)];
            if skip == 0 {
                line.push_str(cell.symbol());
                skip = unicode_width::UnicodeWidthStr::width(cell.symbol()).max(1);
            }
            skip -= 1;
            let style = cell.style();
            if last.is_none_or(|(known, _)| known != style) {
                end(last, x, &mut styles);
                last = Some((style, x));
            }
        }
        end(last, area.right(), &mut styles);
        let _ = writeln!(text, "{}", line.trim_end());
        if !runs.is_empty() {
            let _ = writeln!(marks, "{y}:{runs}");
        }
    }
    let mut all = text;
    all.push_str("--\n");
    all.push_str(&marks);
    for (number, style) in styles.iter().enumerate() {
        let _ = write!(all, "{number} =");
        for (word, color) in [("", style.fg), ("on ", style.bg)] {
            if let Some(color) = color.filter(|c| *c != ratatui::style::Color::Reset) {
                let _ = write!(all, " {word}{color}");
            }
        }
        let _ = writeln!(all, " {:?}", style.add_modifier);
    }
    all
}

fn plain() -> Style {
    ratatui::buffer::Cell::default().style()
}

/// Draws a view in every size and theme.
fn check(name: &str, prepare: impl Fn(&mut State)) {
    let themes = [
        ("dark", Theme::new(Tone::Dark, true, &[])),
        ("light", Theme::new(Tone::Light, true, &[])),
        ("plain", Theme::new(Tone::Dark, false, &[])),
    ];
    for (columns, rows) in [(80, 24), (120, 40), (200, 50)] {
        for (tone, theme) in &themes {
            let mut state = samples::full((columns, rows));
            prepare(&mut state);
            let mut screen = Screen::with(columns, rows, theme.clone(), UNICODE);
            let text = shown(screen.draw(&mut state));
            insta::assert_snapshot!(format!("{name}-{columns}x{rows}-{tone}"), text);
        }
    }
}

fn keys(state: &mut State, chords: &[&str]) {
    for chord in chords {
        update(state, Event::Key(samples::key(chord)));
    }
    state.notice = None;
}

fn feed(state: &mut State, feed: Feed) {
    update(state, Event::Feed(feed));
    state.notice = None;
}

#[test]
fn spec() {
    check("spec", |_| {});
}

#[test]
fn a_plan_says_what_runs_although_the_image_exists() {
    let said = |prepare: fn(&mut Plan)| {
        let mut state = samples::full((80, 24));
        prepare(state.spec.plan.as_mut().unwrap());
        let theme = Theme::new(Tone::Dark, true, &[]);
        let mut screen = Screen::with(80, 24, theme, UNICODE);
        shown(screen.draw(&mut state))
    };
    let whole = said(|plan| {
        plan.exists = true;
        plan.steps
            .iter_mut()
            .for_each(|s| s.state = PlanState::Cached);
    });
    assert!(whole.contains("a build would run nothing"), "{whole}");
    let forced = said(|plan| plan.exists = true);
    assert!(forced.contains("1 to run, 1 cached"), "{forced}");
}

#[test]
fn spec_with_mistakes() {
    check("spec-mistakes", |state| {
        let generation = state.spec.generation;
        let trouble = crate::app::event::Trouble {
            what: "bad declaration".to_owned(),
            why: "image.toml:7: `pip_instal` is no step".to_owned(),
            hint: "write one of run_commands, pip_install".to_owned(),
        };
        let result = Err(trouble);
        feed(state, Feed::Declared { generation, result });
    });
}

#[test]
fn builds() {
    check("builds", |state| keys(state, &["2", "j", "j"]));
}

#[test]
fn build() {
    check("build", |state| {
        keys(state, &["2", "j", "enter"]);
        let (id, events) = ("b5".to_owned(), samples::events());
        feed(state, Feed::BuildEvents { id, events });
    });
}

#[test]
fn log_searched() {
    check("log", |state| {
        keys(state, &["2", "j", "enter"]);
        let (id, events) = ("b5".to_owned(), samples::events());
        feed(state, Feed::BuildEvents { id, events });
        keys(state, &["tab", "/"]);
        update(state, Event::Paste("tail".to_owned()));
        keys(state, &["enter"]);
    });
}

#[test]
fn images() {
    check("images", |state| keys(state, &["3", "space"]));
}

#[test]
fn image() {
    check("image", |state| {
        keys(state, &["3", "enter"]);
        feed(state, Feed::ImageDetail(Box::new(samples::detail())));
    });
}

#[test]
fn cache() {
    check("cache", |state| keys(state, &["4"]));
}

#[test]
fn regions() {
    check("regions", |state| keys(state, &["4", "r"]));
}

#[test]
fn node() {
    check("node", |state| keys(state, &["4", "enter"]));
}

#[test]
fn matrix() {
    check("matrix", |state| keys(state, &["4", "m", "right"]));
}

#[test]
fn matrix_of_a_region() {
    check("matrix-region", |state| keys(state, &["4", "m", "enter"]));
}

#[test]
fn warms() {
    check("warms", |state| keys(state, &["5"]));
}

#[test]
fn warm() {
    check("warm", |state| keys(state, &["5", "enter"]));
}

#[test]
fn prewarm() {
    check("prewarm", |state| keys(state, &["6"]));
}

#[test]
fn help() {
    check("help", |state| keys(state, &["3", "?"]));
}

#[test]
fn palette() {
    check("palette", |state| keys(state, &[":"]));
}

#[test]
fn question() {
    check("question", |state| keys(state, &["3", "D"]));
}

#[test]
fn warm_form() {
    check("warm-form", |state| keys(state, &["3", "W"]));
}

#[test]
fn files() {
    check("files", |state| {
        keys(state, &["o"]);
        let listed = samples::feed(16, state);
        feed(state, listed);
    });
}

#[test]
fn lost() {
    check("lost", |state| {
        let trouble = crate::app::event::Trouble::new("cannot reach the service");
        feed(
            state,
            Feed::Disconnected {
                trouble,
                retry: 4.0,
            },
        );
    });
}

/// Where the terminal has no Unicode, nothing but ASCII is drawn save what names hold.
#[test]
fn ascii() {
    let mut state = samples::full((80, 24));
    for chord in ["1", "2", "4", "5"] {
        keys(&mut state, &[chord]);
        let mut screen = Screen::ascii(80, 24);
        let buffer = screen.draw(&mut state);
        let odd = buffer
            .content()
            .iter()
            .find(|cell| !cell.symbol().is_ascii());
        assert!(odd.is_none(), "{odd:?} in {chord}");
    }
}

/// Every action that the footer offers does something.
#[test]
fn the_footer_offers_what_works() {
    for chord in ["1", "2", "3", "4", "5", "6"] {
        let mut state = samples::full((200, 50));
        keys(&mut state, &[chord]);
        let (own, general) = crate::app::update::footer(&state);
        for (_, action) in own.into_iter().chain(general) {
            let mut state = samples::full((200, 50));
            keys(&mut state, &[chord]);
            if action == Action::Quit {
                continue;
            }
            act(&mut state, action);
            let bad = state.notice.as_ref().filter(|notice| notice.is_bad());
            assert!(bad.is_none(), "{action:?} in {chord}: {bad:?}");
        }
    }
}
