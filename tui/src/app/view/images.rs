//! The list of images.

use ratatui::layout::Rect;

use super::screen::{Screen, fixed, share};
use crate::app::model::{State, ago};
use crate::app::theme::Role;
use crate::output::short;
use crate::progress::bytes;

/// Draws the view.
pub(super) fn draw(state: &mut State, screen: &mut Screen<'_>, mut area: Rect) {
    if state.images.list.is_empty() {
        let words = match (state.images.known, state.images.list.filter.is_empty()) {
            (false, _) => "Asking the service",
            (true, true) => "No images yet; a build makes the first",
            (true, false) => "No image matches the filter; esc clears it",
        };
        screen.nothing(area, &[(Role::Dim, words.to_owned())]);
        return;
    }
    status(state, screen, &mut area);
    let columns = [
        share("NAME", 1, 16),
        fixed("HASH", 12),
        fixed("SIZE", 9).right(),
        fixed("LAYERS", 7).right(),
        fixed("NODES", 7).right(),
        fixed("USED", 5).right().from(76),
        fixed("AGE", 5).right(),
    ];
    let mut list = std::mem::take(&mut state.images.list);
    let shown: &State = state;
    let connected: usize = shown.fleet.region_sizes().values().sum();
    let page = screen.table(area, &columns, &mut list, true, |_, hash| {
        let Some(image) = shown.images.get(hash) else {
            return Vec::new();
        };
        let name = if image.names.is_empty() {
            (Role::Dim, "-".to_owned())
        } else {
            (Role::Strong, image.names.join(" "))
        };
        let holders = shown.fleet.holders(&image.digest);
        let warm = if holders == 0 { Role::Dim } else { Role::Ok };
        let used = shown.fleet.last_used(&image.digest);
        let used = used.map_or_else(|| "-".to_owned(), |used| ago(shown.now, used));
        vec![
            vec![name],
            vec![(Role::Hash, short(image.image_hash))],
            vec![(Role::Text, bytes(image.size))],
            vec![(Role::Text, image.layers.to_string())],
            vec![(warm, format!("{holders}/{connected}"))],
            vec![(Role::Dim, used)],
            vec![(Role::Dim, ago(shown.now, &image.created))],
        ]
    });
    state.page = page;
    state.images.list = list;
}

/// The filter and the marks, where there are some.
fn status(state: &State, screen: &mut Screen<'_>, area: &mut Rect) {
    let list = &state.images.list;
    filter_line(
        screen,
        area,
        &list.filter,
        list.len(),
        state.images.all.len(),
        list.marked().len(),
    );
}

/// Says on the first row what is filtered and marked, where something is.
pub(super) fn filter_line(
    screen: &mut Screen<'_>,
    area: &mut Rect,
    filter: &str,
    shown: usize,
    all: usize,
    marked: usize,
) {
    let mut spans = Vec::new();
    if !filter.is_empty() {
        spans.push((Role::Key, format!("/{filter}")));
        spans.push((Role::Dim, format!("  {shown} of {all}  ")));
    }
    if marked > 0 {
        spans.push((Role::Marked, format!("{marked} marked")));
    }
    if spans.is_empty() || area.height < 3 {
        return;
    }
    screen.spans(area.x + 1, area.y, area.width - 1, &spans);
    area.y += 1;
    area.height -= 1;
}
