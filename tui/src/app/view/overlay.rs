//! What lies over a view: help, palette, questions, the file picker and the form of a warm.

use ratatui::layout::Rect;
use tui_input::Input;

use super::cache::counted;
use super::screen::{Screen, cells};
use crate::app::action::Action;
use crate::app::event::Target;
use crate::app::keymap::Place;
use crate::app::model::overlay::{Files, Overlay, Palette, Question, WarmForm};
use crate::app::model::{List, State};
use crate::app::theme::Role;

/// Cells of the keys in the help.
const KEYS: u16 = 16;

/// Draws what lies over the view, if something does.
pub(super) fn draw(state: &mut State, screen: &mut Screen<'_>, body: Rect) {
    let Some(mut overlay) = state.overlay.take() else {
        return;
    };
    match &mut overlay {
        // The prompt has the line above the footer.
        Overlay::Prompt(_) => {}
        Overlay::Help { place, top } => help(state, screen, body, *place, top),
        Overlay::Palette(palette) => palette_box(state, screen, body, palette),
        Overlay::Question(question) => question_box(screen, body, question),
        Overlay::Files(files) => files_box(screen, body, files),
        Overlay::Warm(form) => warm_box(state, screen, body, form),
    }
    state.overlay = Some(overlay);
}

/// A box of so many cells over the view; gives the area in it.
fn window(screen: &mut Screen<'_>, body: Rect, wide: u16, high: u16, title: &str) -> Rect {
    let wide = wide.min(body.width);
    let high = high.min(body.height);
    let area = Rect::new(
        body.x + (body.width - wide) / 2,
        body.y + (body.height - high) / 3,
        wide,
        high,
    );
    screen.hits.cover();
    let base = screen.style(Role::Text);
    for y in area.top()..area.bottom() {
        // A wide character that the border would stand in the right half of goes.
        let before = area.x.checked_sub(1).map(|x| (x, y));
        if let Some(cell) = before.and_then(|at| screen.buffer.cell_mut(at))
            && cells(cell.symbol()) > 1
        {
            cell.set_symbol(" ");
        }
        for x in area.left()..area.right() {
            if let Some(cell) = screen.buffer.cell_mut((x, y)) {
                cell.reset();
                cell.set_style(base);
            }
        }
    }
    let inner = Rect::new(
        area.x + 2,
        area.y + 1,
        area.width.saturating_sub(4),
        area.height.saturating_sub(2),
    );
    screen.divide(area.x, area, true);
    screen.divide(area.right() - 1, area, true);
    let title = [(Role::Title, title.to_owned())];
    screen.rule(Rect::new(area.x, area.y, area.width, 1), true, &title);
    let bottom = area.bottom() - 1;
    screen.rule(Rect::new(area.x, bottom, area.width, 1), true, &[]);
    for (y, [left, right]) in [area.y, bottom].into_iter().zip(screen.glyphs.corners) {
        screen.text(area.x, y, 1, Role::BorderFocused, left);
        screen.text(area.right() - 1, y, 1, Role::BorderFocused, right);
    }
    inner
}

fn field(screen: &mut Screen<'_>, x: u16, y: u16, wide: u16, input: &Input, focused: bool) {
    // Whoever does not write in it reads it from its start.
    let skip = match focused {
        true => input.visual_scroll(usize::from(wide.saturating_sub(1))),
        false => 0,
    };
    let mut seen = 0;
    let from = input
        .value()
        .char_indices()
        .find(|(_, c)| {
            let here = seen >= skip;
            seen += unicode_width::UnicodeWidthChar::width(*c).unwrap_or(0);
            here
        })
        .map_or(input.value().len(), |(at, _)| at);
    let shown = &input.value()[from..];
    screen.text(x, y, wide, Role::Strong, shown);
    if focused {
        let at = input.visual_cursor().saturating_sub(skip);
        screen.cursor = Some((x + u16::try_from(at).unwrap_or(0).min(wide), y));
    }
}

fn help(state: &State, screen: &mut Screen<'_>, body: Rect, place: Place, top: &mut usize) {
    let area = window(screen, body, 92, body.height, "keys that work here");
    let all = state.config.keys.of_place(place);
    let own = |action: &Action| {
        state
            .config
            .keys
            .of_place(Place::Everywhere)
            .iter()
            .all(|(a, _)| a != action)
    };
    let (mine, general): (Vec<_>, Vec<_>) = all.into_iter().partition(|(action, _)| own(action));
    let mut rows: Vec<(String, String, bool)> = Vec::new();
    for (title, list) in [(place.word(), mine), ("everywhere", general)] {
        if list.is_empty() {
            continue;
        }
        rows.push((title.to_owned(), String::new(), true));
        for (action, chords) in list {
            let keys: Vec<String> = chords.iter().map(ToString::to_string).collect();
            let works = crate::app::update::available(state, action).is_ok();
            rows.push((keys.join(" "), action.about().to_owned(), works));
        }
    }
    *top = (*top).min(rows.len().saturating_sub(usize::from(area.height)));
    for (y, (keys, about, works)) in (area.top()..area.bottom()).zip(rows.iter().skip(*top)) {
        if about.is_empty() {
            screen.text(area.x, y, area.width, Role::Heading, &keys.to_uppercase());
            continue;
        }
        let (key, text) = if *works {
            (Role::Key, Role::Text)
        } else {
            (Role::Dim, Role::Dim)
        };
        screen.text(area.x + 1, y, KEYS - 1, key, keys);
        let wide = area.width.saturating_sub(KEYS + 1);
        screen.text(area.x + KEYS + 1, y, wide, text, about);
    }
}

/// Rows of a list in a box.
fn choices(
    screen: &mut Screen<'_>,
    area: Rect,
    list: &mut List,
    row_of: impl Fn(&mut Screen<'_>, Rect, &str),
) {
    let window = list.window(usize::from(area.height));
    for (y, at) in (area.top()..area.bottom()).zip(window) {
        let row = Rect::new(area.x, y, area.width, 1);
        if let Some(key) = list.keys().get(at) {
            row_of(screen, row, key);
        }
        if at == list.at() {
            screen.choose(row, true);
        }
        screen.hits.put(row, Target::Choice(at));
    }
}

fn palette_box(state: &State, screen: &mut Screen<'_>, body: Rect, palette: &mut Palette) {
    let area = window(screen, body, 76, 18, "commands");
    screen.text(area.x, area.y, 1, Role::Key, ":");
    field(
        screen,
        area.x + 2,
        area.y,
        area.width.saturating_sub(2),
        &palette.input,
        true,
    );
    let place = state.place();
    let rows = Rect::new(
        area.x,
        area.y + 1,
        area.width,
        area.height.saturating_sub(1),
    );
    choices(screen, rows, &mut palette.list, |screen, row, word| {
        let Some(action) = Action::of(word) else {
            return;
        };
        screen.text(row.x, row.y, 16, Role::Strong, word);
        let keys = state.config.keys.chord(place, action);
        let keys = keys.map(|chord| chord.to_string()).unwrap_or_default();
        let wide = cells(&keys);
        let about = row.width.saturating_sub(18 + wide);
        screen.text(row.x + 17, row.y, about, Role::Text, action.about());
        screen.text(row.right() - wide, row.y, wide, Role::Key, &keys);
    });
}

fn question_box(screen: &mut Screen<'_>, body: Rect, question: &Question) {
    let high = u16::try_from(question.lines.len()).unwrap_or(u16::MAX);
    let area = window(screen, body, 76, high.saturating_add(5).min(18), "sure?");
    screen.text(area.x, area.y, area.width, Role::Strong, &question.title);
    let last = area.bottom().saturating_sub(1);
    let room = usize::from(last.saturating_sub(area.y + 1));
    for (y, line) in (area.y + 1..last).zip(&question.lines) {
        screen.text(
            area.x + 2,
            y,
            area.width.saturating_sub(2),
            Role::Text,
            line,
        );
    }
    if question.lines.len() > room && room > 0 {
        let text = format!("and {} more", question.lines.len() - room + 1);
        let row = Rect::new(area.x + 2, last - 1, area.width.saturating_sub(2), 1);
        let blank = " ".repeat(usize::from(row.width));
        screen.text(row.x, row.y, row.width, Role::Text, &blank);
        screen.text(row.x, row.y, row.width, Role::Dim, &text);
    }
    let x = screen.text(area.x, last, area.width, Role::Key, "y");
    let x = screen.text(x + 1, last, area.width, Role::Text, "yes");
    let x = screen.text(x + 3, last, area.width, Role::Key, "n");
    screen.text(x + 1, last, area.width, Role::Text, "no");
}

fn files_box(screen: &mut Screen<'_>, body: Rect, files: &mut Files) {
    let title = format!("open from {}", files.directory.display());
    let area = window(screen, body, 76, 18, &title);
    field(screen, area.x, area.y, area.width, &files.input, true);
    if files.input.value().is_empty() {
        let hint = "a name, a path, or the hash of an image";
        screen.text(area.x, area.y, area.width, Role::Dim, hint);
    }
    let rows = Rect::new(
        area.x,
        area.y + 1,
        area.width,
        area.height.saturating_sub(1),
    );
    if files.list.is_empty() {
        screen.nothing(rows, &[(Role::Dim, "no declarations here".to_owned())]);
    }
    choices(screen, rows, &mut files.list, |screen, row, key| {
        let (role, text) = match key.split_once(' ') {
            Some(("recent", path)) => {
                let end = screen.text(row.x, row.y, 8, Role::Dim, "recent ");
                let wide = row.right().saturating_sub(end);
                screen.text(end, row.y, wide, Role::Text, path);
                return;
            }
            _ if key.ends_with('/') => (Role::Title, key),
            _ => (Role::Text, key),
        };
        screen.text(row.x, row.y, row.width, role, text);
    });
}

fn warm_box(state: &State, screen: &mut Screen<'_>, body: Rect, form: &WarmForm) {
    let area = window(screen, body, 76, 11, "warm");
    let fields = [
        ("images", &form.images, "hashes or names"),
        ("nodes", &form.nodes, "every node, or names"),
        ("region", &form.region, "every region, or one"),
        ("labels", &form.labels, "any, or key=value"),
    ];
    let mut y = area.y;
    for (at, (name, input, hint)) in fields.into_iter().enumerate() {
        if y >= area.bottom() {
            return;
        }
        let focused = form.field == at;
        let role = if focused { Role::Key } else { Role::Dim };
        screen.text(area.x, y, 8, role, name);
        let wide = area.width.saturating_sub(9);
        if input.value().is_empty() {
            screen.text(area.x + 9, y, wide, Role::Dim, hint);
        }
        field(screen, area.x + 9, y, wide, input, focused);
        screen
            .hits
            .put(Rect::new(area.x, y, area.width, 1), Target::Choice(at));
        y += 1;
    }
    let focused = form.field == fields.len();
    let role = if focused { Role::Key } else { Role::Dim };
    screen.text(area.x, y, 8, role, "pin");
    let word = if form.pin {
        "[x] kept until it is unpinned"
    } else {
        "[ ] may be evicted like any other"
    };
    let text = if focused { Role::Strong } else { Role::Text };
    screen.text(area.x + 9, y, area.width.saturating_sub(9), text, word);
    screen.hits.put(
        Rect::new(area.x, y, area.width, 1),
        Target::Choice(fields.len()),
    );
    y += 2;
    let (role, text) = match form.request() {
        Ok(request) => {
            let chosen = |node: &&chalk_core::wire::Node| {
                let named = request.nodes.is_empty() || request.nodes.contains(&node.name);
                let here = request.region.as_ref().is_none_or(|r| *r == node.region);
                let labelled = request
                    .labels
                    .iter()
                    .all(|(k, v)| node.labels.get(k) == Some(v));
                named && here && labelled
            };
            let count = state.fleet.nodes.values().filter(chosen).count();
            let images = counted(request.images.len(), "image");
            let text = format!("{images} to {}", counted(count, "node"));
            (if count == 0 { Role::Warning } else { Role::Ok }, text)
        }
        Err(why) => (Role::Warning, why),
    };
    if y < area.bottom() {
        screen.text(area.x, y, area.width, role, &text);
    }
}
