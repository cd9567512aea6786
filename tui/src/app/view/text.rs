//! Texts: an image with all that is known of it, differences, manifests.

use ratatui::layout::Rect;
use unicode_width::UnicodeWidthChar as _;

use super::screen::{Screen, cells};
use crate::app::event::{Target, Trouble};
use crate::app::model::{Document, Span, State};
use crate::app::theme::Role;

/// Draws the view.
pub(super) fn draw(state: &mut State, screen: &mut Screen<'_>, area: Rect) {
    let view = state.view().clone();
    let searched = state.searched.clone();
    match state.documents.get_mut(&view) {
        None => screen.nothing(area, &[(Role::Dim, "Asking the service".to_owned())]),
        Some(Err(trouble)) => {
            let lines: Vec<Span> = trouble_lines(trouble, screen.glyphs.failed)
                .into_iter()
                .map(|line| {
                    let role = line.first().map_or(Role::Text, |(role, _)| *role);
                    (role, line.into_iter().map(|(_, text)| text).collect())
                })
                .collect();
            screen.nothing(area, &lines);
        }
        Some(Ok(document)) => {
            document_lines(document, screen, area);
            if let Some((current, total)) = document.matches() {
                let text = format!(" `{searched}` {current}/{total} ");
                let row = Rect::new(area.x, area.bottom() - 1, area.width, 1);
                screen.text_right(row, Role::Key, &text);
            }
            screen.hits.put(area, Target::Text);
            state.page = area.height;
        }
    }
}

/// Draws a document from its top on.
pub(super) fn document_lines(document: &Document, screen: &mut Screen<'_>, area: Rect) {
    let mut y = area.y;
    for (at, line) in document.lines().iter().enumerate().skip(document.top) {
        if y >= area.bottom() {
            break;
        }
        let from = y;
        if document.wrap {
            y = wrapped(screen, area, y, line);
        } else {
            screen.spans(area.x + 1, y, area.width - 1, line);
            y += 1;
        }
        let text: String = line.iter().map(|(_, text)| text.as_str()).collect();
        let searched = document.searched();
        if !searched.is_empty() && text.to_lowercase().contains(searched) {
            let role = if document.is_current(at) {
                Role::MatchCurrent
            } else {
                Role::Match
            };
            let style = screen.style(role);
            let wide = cells(&text).min(area.width - 1);
            let rows = Rect::new(area.x + 1, from, wide, y.min(area.bottom()) - from);
            screen.buffer.set_style(rows, style);
        }
    }
}

/// Draws a line over as many rows as it needs; gives the row after it.
fn wrapped(screen: &mut Screen<'_>, area: Rect, mut y: u16, line: &[Span]) -> u16 {
    let (left, right) = (area.x + 1, area.right());
    let mut x = left;
    for (role, text) in line {
        let style = screen.style(*role);
        for c in text.chars() {
            let wide = u16::try_from(c.width().unwrap_or(0)).unwrap_or(0);
            if x + wide > right {
                x = left;
                y += 1;
            }
            if y >= area.bottom() {
                return y;
            }
            let mut buffer = [0; 4];
            screen.styled(x, y, wide, style, c.encode_utf8(&mut buffer));
            x += wide;
        }
    }
    y + 1
}

/// What went wrong, why, and what to do.
pub(super) fn trouble_lines(trouble: &Trouble, sign: &str) -> Vec<Vec<Span>> {
    let mut lines = vec![vec![(Role::Failed, format!("{sign} {}", trouble.what))]];
    for line in trouble.why.lines() {
        lines.push(vec![(Role::Text, format!("  {line}"))]);
    }
    for line in trouble.hint.lines() {
        lines.push(vec![(Role::Warning, format!("  {line}"))]);
    }
    lines
}
