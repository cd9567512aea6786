//! Header, breadcrumb and footer around every view.

use ratatui::layout::Rect;

use super::screen::{Screen, cells};
use super::spec::broken;
use crate::app::event::Target;
use crate::app::model::builds::called;
use crate::app::model::overlay::Purpose;
use crate::app::model::{LinkState, Overlay, Span, State, View, ago};
use crate::app::theme::Role;
use crate::app::update::footer;
use crate::output::short;

/// Draws the frame and gives the area within.
pub(super) fn frame(state: &State, screen: &mut Screen<'_>, area: Rect) -> Rect {
    header(state, screen, Rect::new(area.x, area.y, area.width, 1));
    tabs(state, screen, Rect::new(area.x, area.y + 1, area.width, 1));
    // What to do about a complaint stands at its end, so that it is shown whole where it can be.
    let said = complaint(state, screen, area);
    let high = u16::try_from(said.len()).unwrap_or(1).max(1);
    let bottom = Rect::new(area.x, area.bottom() - 1 - high, area.width, high);
    if said.is_empty() {
        line(state, screen, bottom);
    }
    for (y, text) in (bottom.y..).zip(&said) {
        screen.text(area.x + 1, y, area.width - 1, Role::Failed, text);
    }
    keys(
        state,
        screen,
        Rect::new(area.x, area.bottom() - 1, area.width, 1),
    );
    Rect::new(area.x, area.y + 2, area.width, area.height - 3 - high)
}

/// The lines of a complaint; none where something else is shown in their place.
fn complaint(state: &State, screen: &Screen<'_>, area: Rect) -> Vec<String> {
    let notice = state.notice.as_ref().filter(|notice| notice.is_bad());
    let (None | Some(Overlay::Help { .. } | Overlay::Warm(_)), Some(notice)) =
        (&state.overlay, notice)
    else {
        return Vec::new();
    };
    let text = format!("{} {}", screen.glyphs.failed, notice.text);
    let mut lines = broken(&text, usize::from(area.width.saturating_sub(2)));
    lines.truncate(usize::from(area.height / 4).max(1));
    lines
}

/// What is connected to, as whom, since when; and whether it is.
fn header(state: &State, screen: &mut Screen<'_>, area: Rect) {
    let connection = &state.connection;
    let (role, sign) = match &connection.state {
        LinkState::Connecting => (Role::Queued, "connecting".to_owned()),
        LinkState::Connected => (Role::Ok, "connected".to_owned()),
        LinkState::Lost { retry, .. } => {
            let wait = retry.duration_since(state.now).as_secs().max(0);
            (
                Role::Failed,
                format!("not connected, tries again in {wait}s"),
            )
        }
    };
    let mut right: Vec<Span> = Vec::new();
    if state.readonly {
        right.push((Role::Warning, "read-only ".to_owned()));
    }
    let dot = match connection.state {
        LinkState::Connected => screen.glyphs.dot,
        _ => screen.glyphs.hollow,
    };
    right.push((role, format!("{dot} {sign} ")));
    let wide: u16 = right.iter().map(|(_, text)| cells(text)).sum();
    let wide = wide.min(area.width);
    let dots = format!(" {} ", screen.glyphs.between);
    let mut left: Vec<Span> = vec![(Role::Title, " chalk ".to_owned())];
    if let Some(link) = &connection.link {
        left.push((
            Role::Strong,
            link.url.trim_start_matches("http://").to_owned(),
        ));
        let roomy = area.width >= 100;
        if link.own && !roomy {
            left.push((Role::Dim, " (own)".to_owned()));
        } else if link.own {
            let node = match &connection.own_node {
                Some(Ok(name)) => format!(" (own service, node {name})"),
                Some(Err(_)) => " (own service, no node)".to_owned(),
                None => " (own service)".to_owned(),
            };
            left.push((Role::Dim, node));
        }
        left.push((Role::Dim, format!("{dots}as ")));
        left.push((Role::Text, link.identity.clone()));
        let since = ago(state.now, &connection.since.to_string());
        left.push((Role::Dim, format!("{dots}for {since}")));
        let up = ago(state.now, &link.info.started);
        if area.width >= 110 {
            left.push((
                Role::Dim,
                format!("{dots}up {up}{dots}v{}", link.info.version),
            ));
        }
        let regions = state.fleet.region_sizes();
        let regions = match regions.len() {
            0 => None,
            1 => regions.into_keys().next(),
            count => Some(format!("{count} regions")),
        };
        if let Some(regions) = regions {
            left.push((Role::Dim, format!("{dots}{regions}")));
        }
    }
    screen.spans(area.x, area.y, (area.width - wide).saturating_sub(1), &left);
    screen.spans(area.right() - wide, area.y, wide, &right);
}

/// The tabs, and what is open below them.
fn tabs(state: &State, screen: &mut Screen<'_>, area: Rect) {
    let chosen = state.views.first();
    let mut x = area.x + 1;
    for (at, (view, action, word)) in View::TABS.iter().enumerate() {
        let count = match view {
            View::Builds => state.builds.active(),
            View::Images => state.images.all.len(),
            View::Cache => state.fleet.nodes.len(),
            _ => 0,
        };
        let count = if count > 0 {
            format!(" {count}")
        } else {
            String::new()
        };
        let text = format!(" {} {word}{count} ", at + 1);
        let role = if chosen == Some(view) {
            Role::TabChosen
        } else {
            Role::Tab
        };
        let end = screen.text(x, area.y, area.right().saturating_sub(x), role, &text);
        screen
            .hits
            .put(Rect::new(x, area.y, end - x, 1), Target::Action(*action));
        x = end;
    }
    let crumb = format!(" {} ", screen.glyphs.crumb);
    for (depth, view) in state.views.iter().enumerate().skip(1) {
        x = screen.text(x, area.y, area.right().saturating_sub(x), Role::Dim, &crumb);
        let role = if depth + 1 == state.views.len() {
            Role::Strong
        } else {
            Role::Text
        };
        let name = name(state, view);
        let end = screen.text(x, area.y, area.right().saturating_sub(x), role, &name);
        screen
            .hits
            .put(Rect::new(x, area.y, end - x, 1), Target::Crumb(depth));
        x = end;
    }
}

fn name(state: &State, view: &View) -> String {
    let image = |hash: &str| match state.images.get(hash) {
        Some(image) => crate::app::model::images::called(image),
        None => hash.parse().map_or_else(|_| hash.to_owned(), short),
    };
    match view {
        View::Spec => "spec".to_owned(),
        View::Builds => "builds".to_owned(),
        View::Build(id) => match state.builds.all.get(id) {
            Some(build) => format!("build {}", called(build)),
            None => format!("build {id}"),
        },
        View::Images => "images".to_owned(),
        View::Image(hash) => image(hash),
        View::Manifest(hash) => format!("manifest of {}", image(hash)),
        View::Diff(before, Some(after)) => format!("{} against {}", image(before), image(after)),
        View::Diff(before, None) => format!("{} against the declaration", image(before)),
        View::Why(hash) => format!("why {} was rebuilt", image(hash)),
        View::WhySpec => "why it would be rebuilt".to_owned(),
        View::Cache => "nodes".to_owned(),
        View::Matrix => match &state.matrix.region {
            Some(region) => format!("matrix of {region}"),
            None => "matrix".to_owned(),
        },
        View::Node(name) => format!("node {name}"),
        View::Warms => "warms".to_owned(),
        View::Warm(id) => format!("warm {id}"),
        View::Prewarm => "pre-warm list".to_owned(),
    }
}

/// The line above the footer: what is typed, else what happened, else the filter and marks.
fn line(state: &State, screen: &mut Screen<'_>, area: Rect) {
    if let Some(Overlay::Prompt(prompt)) = &state.overlay {
        let title = format!(" {}: ", prompt.title);
        let x = screen.text(area.x, area.y, area.width, Role::Key, &title);
        let wide = area.right().saturating_sub(x + 1);
        let skip = prompt.input.visual_scroll(usize::from(wide));
        let shown = tail_from(prompt.input.value(), skip);
        let end = screen.text(x, area.y, wide, Role::Strong, shown);
        let at = prompt.input.visual_cursor().saturating_sub(skip);
        screen.cursor = Some((x + u16::try_from(at).unwrap_or(0), area.y));
        if prompt.purpose == Purpose::Search || matches!(prompt.purpose, Purpose::Filter { .. }) {
            let hint = match prompt.purpose {
                Purpose::Search => "  the whole log; enter goes to the first match",
                _ => "  fuzzy; !word leaves out, 'word as it stands",
            };
            if prompt.input.value().is_empty() {
                screen.text(
                    end + 1,
                    area.y,
                    area.right().saturating_sub(end + 1),
                    Role::Dim,
                    hint,
                );
            }
        }
        return;
    }
    if let Some(notice) = &state.notice {
        let role = if notice.is_bad() {
            Role::Failed
        } else {
            Role::Ok
        };
        let sign = if notice.is_bad() {
            screen.glyphs.failed
        } else {
            screen.glyphs.ok
        };
        let text = format!(" {sign} {}", notice.text);
        screen.text(area.x, area.y, area.width, role, &text);
        return;
    }
    if let LinkState::Lost { trouble, .. } = &state.connection.state {
        let text = format!(" {} {}", screen.glyphs.failed, trouble.line());
        screen.text(area.x, area.y, area.width, Role::Failed, &text);
    }
}

/// The end of a text from a column on.
fn tail_from(text: &str, skip: usize) -> &str {
    let mut seen = 0;
    for (at, c) in text.char_indices() {
        if seen >= skip {
            return &text[at..];
        }
        seen += unicode_width::UnicodeWidthChar::width(c).unwrap_or(0);
    }
    if skip > 0 { "" } else { text }
}

/// The keys that work now; what does not fit is in the help.
fn keys(state: &State, screen: &mut Screen<'_>, area: Rect) {
    let mut x = area.x + 1;
    let put = |screen: &mut Screen<'_>, x: &mut u16, key: &str, label: &str| {
        let wide = cells(key) + cells(label) + 3;
        if *x + wide > area.right() {
            return false;
        }
        let end = screen.text(*x, area.y, wide, Role::Key, key);
        let end = screen.text(end + 1, area.y, wide, Role::Dim, label);
        *x = end + 2;
        true
    };
    if let Some(overlay) = &state.overlay {
        let words: &[(&str, &str)] = match overlay {
            Overlay::Help { .. } => &[("esc", "close"), ("j k", "scroll")],
            Overlay::Question(_) => &[("y", "yes"), ("n", "no")],
            Overlay::Palette(_) => &[("enter", "do it"), ("up down", "choose"), ("esc", "close")],
            Overlay::Files(_) => &[("enter", "open"), ("up down", "choose"), ("esc", "close")],
            Overlay::Warm(_) => &[("enter", "warm"), ("tab", "next field"), ("esc", "close")],
            Overlay::Prompt(_) => &[("enter", "take"), ("esc", "leave")],
        };
        for (key, label) in words {
            put(screen, &mut x, key, label);
        }
        return;
    }
    // Help and quit must be there; what stands before them gives way.
    let (own, general) = footer(state);
    let general_wide: u16 = general
        .iter()
        .map(|(chord, action)| cells(&chord.to_string()) + cells(action.label()) + 3)
        .sum();
    for (chord, action) in &own {
        let key = chord.to_string();
        let wide = cells(&key) + cells(action.label()) + 3;
        if x + wide + general_wide > area.right() {
            continue;
        }
        let from = x;
        if put(screen, &mut x, &key, action.label()) {
            let area = Rect::new(from, area.y, x - from, 1);
            screen.hits.put(area, Target::Action(*action));
        }
    }
    for (chord, action) in &general {
        let from = x;
        if put(screen, &mut x, &chord.to_string(), action.label()) {
            let area = Rect::new(from, area.y, x - from, 1);
            screen.hits.put(area, Target::Action(*action));
        }
    }
}
