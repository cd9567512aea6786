//! Images against nodes. Readable at any number: regions first, each with the share of its nodes that
//! have the image; the nodes of one region are a step further in.

use ratatui::layout::Rect;
use ratatui::style::Modifier;

use super::images::filter_line;
use super::screen::{Screen, cells};
use crate::app::event::Target;
use crate::app::model::images::called;
use crate::app::model::{Span, State};
use crate::app::theme::Role;
use crate::output::short;

/// Cells of a region's column.
const REGION: u16 = 10;
/// Cells of a node's column.
const NODE: u16 = 2;

/// Draws the view.
pub(super) fn draw(state: &mut State, screen: &mut Screen<'_>, mut area: Rect) {
    let columns = state.matrix.columns(&state.fleet);
    if columns.is_empty() || state.matrix.list.is_empty() {
        let words = if columns.is_empty() {
            "No nodes; `chalk node` on a host makes it one"
        } else if state.matrix.list.filter.is_empty() {
            "No images yet; a build makes the first"
        } else {
            "No image matches the filter; esc clears it"
        };
        screen.nothing(area, &[(Role::Dim, words.to_owned())]);
        return;
    }
    let list = &state.matrix.list;
    let (filter, count, marked) = (list.filter.clone(), list.len(), list.marked().len());
    filter_line(
        screen,
        &mut area,
        &filter,
        count,
        state.images.all.len(),
        marked,
    );
    let by_region = state.matrix.region.is_none();
    let wide = if by_region { REGION } else { NODE };
    let names = (area.width / 3).clamp(16, 44);
    let fit = usize::from(area.width.saturating_sub(names + 8) / wide).max(1);
    let column = state.matrix.column.min(columns.len() - 1);
    let left = state
        .matrix
        .left
        .min(column)
        .max((column + 1).saturating_sub(fit))
        .min(columns.len().saturating_sub(fit));
    state.matrix.left = left;
    let shown = &columns[left..(left + fit).min(columns.len())];
    heading(state, screen, area, names, shown, column - left);
    let body = Rect::new(
        area.x,
        area.y + 2,
        area.width,
        area.height.saturating_sub(2),
    );
    let mut list = std::mem::take(&mut state.matrix.list);
    let window = list.window(usize::from(body.height));
    let sizes = state.fleet.region_sizes();
    for (y, at) in (body.y..).zip(window) {
        let Some(image) = list.keys().get(at).and_then(|key| state.images.get(key)) else {
            continue;
        };
        let row = Rect::new(body.x, y, body.width, 1);
        if list.is_marked(&image.image_hash.to_string()) {
            let sign = screen.glyphs.mark;
            screen.text(body.x, y, 1, Role::Marked, sign);
        }
        let role = if image.names.is_empty() {
            Role::Hash
        } else {
            Role::Text
        };
        screen.text(body.x + 1, y, names - 1, role, &called(image));
        let all = match &state.matrix.region {
            Some(region) => state.fleet.holders_in(region, &image.digest),
            None => state.fleet.holders(&image.digest),
        };
        let total = format!("{all:>6}");
        screen.text(body.x + names, y, 7, Role::Dim, &total);
        if at == list.at() {
            screen.choose(row, true);
        }
        let mut x = body.x + names + 8;
        for (place, name) in (left..).zip(shown) {
            let spans = if by_region {
                let have = state.fleet.holders_in(name, &image.digest);
                let of = sizes.get(name).copied().unwrap_or(0);
                region_cell(screen, have, of)
            } else if state.fleet.has(name, &image.digest) {
                vec![(Role::Ok, screen.glyphs.full.to_owned())]
            } else {
                vec![(Role::BarEmpty, screen.glyphs.waiting.to_owned())]
            };
            let end = screen.spans(x, y, wide, &spans);
            if at == list.at() && place == column {
                // The row is reversed; its chosen cell must differ from that without colours, too.
                let style = screen
                    .style(Role::MatchCurrent)
                    .remove_modifier(Modifier::REVERSED)
                    .add_modifier(Modifier::UNDERLINED);
                let cell = Rect::new(x, y, (end - x).max(1), 1);
                screen.buffer.set_style(cell, style);
            }
            x += wide;
        }
        screen.hits.put(row, Target::Row(at));
    }
    state.page = body.height;
    state.matrix.list = list;
}

/// How many of a region's nodes have an image, as a number and a short bar.
fn region_cell(screen: &Screen<'_>, have: u32, of: usize) -> Vec<Span> {
    if of == 0 {
        return vec![(Role::Dim, "-".to_owned())];
    }
    let share = f64::from(have) / of as f64;
    let levels = screen.glyphs.levels;
    let level = ((share * levels.len() as f64).ceil() as usize).clamp(1, levels.len()) - 1;
    if have == 0 {
        return vec![(Role::BarEmpty, format!("{} 0", screen.glyphs.waiting))];
    }
    let role = if have as usize >= of {
        Role::Ok
    } else {
        Role::Running
    };
    vec![(role, format!("{} {have}/{of}", levels[level]))]
}

fn heading(
    state: &State,
    screen: &mut Screen<'_>,
    area: Rect,
    names: u16,
    shown: &[String],
    chosen: usize,
) {
    let sort = |at: usize| {
        if state.matrix.list.sort != at {
            ""
        } else if state.matrix.list.reverse {
            screen.glyphs.up
        } else {
            screen.glyphs.down
        }
    };
    let image = format!("IMAGE{}", sort(0));
    let nodes = format!("NODES{}", sort(1));
    screen.text(area.x + 1, area.y + 1, names, Role::Heading, &image);
    screen.text(area.x + names + 1, area.y + 1, 7, Role::Heading, &nodes);
    screen
        .hits
        .put(Rect::new(area.x, area.y + 1, names, 1), Target::Column(0));
    screen.hits.put(
        Rect::new(area.x + names, area.y + 1, 7, 1),
        Target::Column(1),
    );
    let mut x = area.x + names + 8;
    if state.matrix.region.is_none() {
        for (at, name) in shown.iter().enumerate() {
            let role = if at == chosen {
                Role::Strong
            } else {
                Role::Heading
            };
            screen.text(x, area.y + 1, REGION - 1, role, name);
            x += REGION;
        }
    } else if let Some(name) = shown.get(chosen) {
        // Columns of two cells have no room for names: the chosen one's is told above them.
        let at = x + NODE * u16::try_from(chosen).unwrap_or(0);
        let sign = screen.glyphs.down;
        screen.text(at, area.y + 1, 1, Role::Strong, sign);
        let from = at.min(area.right().saturating_sub(cells(name)));
        screen.text(from, area.y, area.right() - from, Role::Strong, name);
    }
    let Some(image) = state
        .matrix
        .list
        .chosen()
        .and_then(|key| state.images.get(key))
    else {
        return;
    };
    if state.matrix.region.is_none() {
        let text = match image.names.first() {
            Some(name) => format!("{name} {}", short(image.image_hash)),
            None => short(image.image_hash),
        };
        screen.text(area.x + 1, area.y, area.width - 1, Role::Dim, &text);
    } else {
        let text = called(image);
        screen.text(area.x + 1, area.y, names, Role::Dim, &text);
    }
}
