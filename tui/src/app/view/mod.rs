//! From the model to the screen. Views read the model and change nothing of it but what belongs to
//! drawing: which rows fit, and what a log has wrapped so far.

mod build;
mod builds;
mod cache;
mod frame;
mod images;
mod matrix;
mod overlay;
mod screen;
mod spec;
#[cfg(test)]
mod tests;
mod text;
mod warm;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::glyphs::Glyphs;
use super::model::{State, View};
use super::theme::{Role, Theme};
pub(crate) use screen::Hits;
use screen::Screen;

/// Smallest screen that anything can be shown on.
const SMALLEST: (u16, u16) = (30, 6);

/// What a frame came to besides its cells.
#[derive(Debug, Default)]
pub(crate) struct Drawn {
    pub(crate) hits: Hits,
    pub(crate) cursor: Option<(u16, u16)>,
}

/// Draws a frame.
pub(crate) fn draw(
    state: &mut State,
    buffer: &mut Buffer,
    theme: &Theme,
    glyphs: &Glyphs,
) -> Drawn {
    let area = *buffer.area();
    let mut screen = Screen {
        buffer,
        theme,
        glyphs,
        hits: Hits::default(),
        cursor: None,
    };
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        screen.text(area.x, area.y, area.width, Role::Text, "too small");
        return Drawn::default();
    }
    let base = screen.style(Role::Text);
    screen.buffer.set_style(area, base);
    let body = frame::frame(state, &mut screen, area);
    match state.view().clone() {
        View::Spec => spec::draw(state, &mut screen, body),
        View::Builds => builds::draw(state, &mut screen, body),
        View::Build(id) => build::draw(state, &mut screen, body, &id),
        View::Images => images::draw(state, &mut screen, body),
        View::Cache => cache::nodes(state, &mut screen, body),
        View::Node(name) => cache::node(state, &mut screen, body, &name),
        View::Matrix => matrix::draw(state, &mut screen, body),
        View::Warms => warm::warms(state, &mut screen, body),
        View::Warm(id) => warm::warm(state, &mut screen, body, &id),
        View::Prewarm => warm::prewarm(state, &mut screen, body),
        _ => text::draw(state, &mut screen, body),
    }
    overlay::draw(state, &mut screen, body);
    select(state, &mut screen, body);
    Drawn {
        hits: screen.hits,
        cursor: screen.cursor,
    }
}

/// Shows what is selected with the mouse, and notes its text.
fn select(state: &mut State, screen: &mut Screen<'_>, body: Rect) {
    let Some(drag) = state.drag.as_mut().filter(|d| !d.log && d.from != d.to) else {
        return;
    };
    let inside = |(x, y): (u16, u16)| {
        (
            x.clamp(body.x, body.right().saturating_sub(1)),
            y.clamp(body.y, body.bottom().saturating_sub(1)),
        )
    };
    let (from, to) = (inside(drag.from), inside(drag.to));
    let ((x1, y1), (x2, y2)) = if (from.1, from.0) <= (to.1, to.0) {
        (from, to)
    } else {
        (to, from)
    };
    let style = screen.style(Role::Selection);
    let mut text = String::new();
    for y in y1..=y2 {
        let first = if y == y1 { x1 } else { body.x };
        let last = if y == y2 { x2 } else { body.right() - 1 };
        let mut line = String::new();
        for x in first..=last {
            if let Some(cell) = screen.buffer.cell((x, y)) {
                line.push_str(cell.symbol());
            }
        }
        text.push_str(line.trim_end());
        if y < y2 {
            text.push('\n');
        }
        screen
            .buffer
            .set_style(Rect::new(first, y, last - first + 1, 1), style);
    }
    drag.text = text;
}
