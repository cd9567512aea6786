//! Nodes and their caches, by node or by region, and one node.

use chalk_core::wire::NodeState;
use ratatui::layout::Rect;

use super::images::filter_line;
use super::screen::{Screen, fixed, share};
use crate::app::model::fleet::{Row, state_word};
use crate::app::model::{Span, State, ago};
use crate::app::theme::Role;
use crate::output::short;
use crate::progress::bytes;

/// Least width at which bars and sparklines have room.
const WIDE: u16 = 130;

/// Draws the list of nodes or regions.
pub(super) fn nodes(state: &mut State, screen: &mut Screen<'_>, mut area: Rect) {
    sums(state, screen, &mut area);
    if state.fleet.list.is_empty() {
        let words = match (state.fleet.known, state.fleet.list.filter.is_empty()) {
            (false, _) => "Asking the service",
            (true, true) => "No nodes; `chalk node` on a host makes it one",
            (true, false) => "No node matches the filter; esc clears it",
        };
        screen.nothing(area, &[(Role::Dim, words.to_owned())]);
        return;
    }
    let mut list = std::mem::take(&mut state.fleet.list);
    let shown: &State = state;
    let marked = list.marked().len();
    let (filter, count) = (list.filter.clone(), list.len());
    filter_line(
        screen,
        &mut area,
        &filter,
        count,
        shown.fleet.nodes.len(),
        marked,
    );
    let grouped = shown.fleet.grouped;
    let region = match (grouped, area.width > WIDE) {
        (true, _) => 0,
        (false, true) => 14,
        (false, false) => 8,
    };
    // A region has nodes in several states, which take more room than its name.
    let (name, states) = match grouped {
        true => (share("REGION", 1, 10), share("STATE", 2, 21)),
        false => (share("NODE", 2, 10), share("STATE", 1, 10)),
    };
    let columns = [
        name,
        fixed("REGION", region),
        states,
        fixed("IMAGES", 7).right(),
        fixed("USED", if area.width > WIDE { 30 } else { 12 }),
        fixed("HELD", 9).right().from(76),
        fixed("HITS", if area.width > WIDE { 26 } else { 5 }),
        fixed("EVICTED", 8).right().from(90),
        fixed("RUNS", 5).right(),
    ];
    let wide = area.width > WIDE;
    let page = screen.table(area, &columns, &mut list, true, |screen, key| {
        let row = shown.fleet.row(key);
        row.map(|row| cells(shown, screen, &row, wide))
            .unwrap_or_default()
    });
    state.page = page;
    state.fleet.list = list;
}

fn running(sandboxes: usize) -> String {
    match sandboxes {
        1 => "1 sandbox".to_owned(),
        count => format!("{count} sandboxes"),
    }
}

/// `1 node`, `2 nodes`.
pub(super) fn counted(count: usize, word: &str) -> String {
    let end = if count == 1 { "" } else { "s" };
    format!("{count} {word}{end}")
}

/// What all caches come to.
fn sums(state: &State, screen: &mut Screen<'_>, area: &mut Rect) {
    let sum = state.fleet.sum();
    let roomy = area.width >= 110;
    let mut spans: Vec<Span> = Vec::new();
    if let Some(region) = &state.fleet.region {
        spans.push((Role::Strong, format!("{region}: ")));
    }
    let dots = format!(" {} ", screen.glyphs.between);
    spans.push((Role::Text, counted(state.fleet.nodes.len(), "node")));
    spans.push((Role::Dim, format!("{dots}{} cached", bytes(sum.usage.used))));
    if let Some(rate) = sum.hit_rate() {
        spans.push((Role::Dim, format!("{dots}hits ")));
        spans.push((Role::Text, format!("{rate}% ")));
        let line = screen.sparkline(&state.fleet.rates(None), if roomy { 16 } else { 4 });
        spans.push((Role::Bar, line));
    }
    let (cached, all) = state.builds.cached_steps();
    if let Some(rate) = (cached * 100).checked_div(all) {
        spans.push((Role::Dim, format!("{dots}step cache ")));
        spans.push((Role::Text, format!("{rate}%")));
        if roomy {
            spans.push((Role::Dim, format!(" of {}", counted(all, "step"))));
        }
    }
    if let Some(storage) = &state.fleet.storage {
        spans.push((Role::Dim, format!("{dots}registry ")));
        spans.push((Role::Text, bytes(storage.bytes)));
        if roomy {
            spans.push((Role::Dim, format!(" in {} blobs", storage.blobs)));
        }
    }
    screen.spans(area.x + 1, area.y, area.width - 1, &spans);
    area.y += 1;
    area.height -= 1;
}

fn cells(state: &State, screen: &Screen<'_>, row: &Row, wide: bool) -> Vec<Vec<Span>> {
    let usage = &row.usage;
    let (state_role, state_sign) = match row.states {
        [_, _, lost] if lost > 0 => (Role::Failed, screen.glyphs.failed),
        [_, draining, _] if draining > 0 => (Role::Warning, screen.glyphs.hollow),
        _ => (Role::Ok, screen.glyphs.dot),
    };
    let used = (usage.used * 100)
        .checked_div(usage.size_limit)
        .unwrap_or(0);
    let used_role = if used >= 95 {
        Role::Warning
    } else {
        Role::Text
    };
    let mut used_cell = Vec::new();
    if wide {
        let full = usize::try_from(used.min(100) / 10).unwrap_or(0);
        used_cell.push((Role::Bar, screen.glyphs.full.repeat(full)));
        used_cell.push((Role::BarEmpty, screen.glyphs.empty.repeat(10 - full)));
        let text = format!(" {} {used}%", bytes(usage.used));
        used_cell.push((used_role, text));
    } else {
        used_cell.push((used_role, format!("{} {used}%", bytes(usage.used))));
    }
    let mut hits = match row.hit_rate() {
        Some(rate) => vec![(Role::Text, format!("{rate:>3}% "))],
        None => vec![(Role::Dim, "   -".to_owned())],
    };
    if wide {
        let line = screen.sparkline(&state.fleet.rates(Some(&row.name)), 20);
        hits.push((Role::Bar, line));
    }
    vec![
        vec![(Role::Strong, row.name.clone())],
        vec![(Role::Dim, row.region.clone())],
        vec![(
            state_role,
            format!("{state_sign} {}", state_word(row.states)),
        )],
        vec![(Role::Text, usage.images.to_string())],
        used_cell,
        vec![(Role::Dim, bytes(usage.held))],
        hits,
        vec![(Role::Text, usage.evictions.to_string())],
        vec![(Role::Text, row.sandboxes.to_string())],
    ]
}

/// Draws one node with what its cache holds.
pub(super) fn node(state: &mut State, screen: &mut Screen<'_>, mut area: Rect, name: &str) {
    let Some(node) = state.fleet.nodes.get(name) else {
        screen.nothing(
            area,
            &[(Role::Dim, format!("There is no node {name} any more"))],
        );
        return;
    };
    let usage = node.cache;
    let (role, word) = match node.state {
        NodeState::Ready => (Role::Ok, "ready"),
        NodeState::Draining => (Role::Warning, "draining: takes no new work"),
        NodeState::Lost => (Role::Failed, "lost: not connected"),
    };
    let dots = format!(" {} ", screen.glyphs.between);
    let labels: Vec<String> = node
        .labels
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    let mut lines: Vec<Vec<Span>> = vec![
        vec![
            (Role::Strong, name.to_owned()),
            (Role::Dim, format!("{dots}{}{dots}", node.region)),
            (role, word.to_owned()),
            (Role::Dim, format!("{dots}v{}", node.version)),
            (
                Role::Dim,
                format!("{dots}joined {} ago", ago(state.now, &node.joined)),
            ),
        ],
        vec![
            (
                Role::Text,
                format!("{} of {}", bytes(usage.used), bytes(usage.size_limit)),
            ),
            (Role::Dim, format!("{dots}{} held", bytes(usage.held))),
            (
                Role::Dim,
                format!(
                    "{dots}{}, {}",
                    counted(usage.images, "image"),
                    counted(usage.layers, "layer")
                ),
            ),
            (Role::Dim, format!("{dots}{} evicted", usage.evictions)),
            (Role::Dim, format!("{dots}{}", running(node.sandboxes))),
        ],
    ];
    if !labels.is_empty() {
        lines[0].push((Role::Dim, format!("{dots}{}", labels.join(" "))));
    }
    let mut hits: Vec<Span> = vec![(Role::Dim, "hits ".to_owned())];
    match (usage.hits * 100).checked_div(usage.hits + usage.misses) {
        Some(rate) => {
            hits.push((Role::Text, format!("{rate}% ")));
            hits.push((Role::Dim, format!("of {} ", usage.hits + usage.misses)));
            let line = screen.sparkline(&state.fleet.rates(Some(name)), 40);
            hits.push((Role::Bar, line));
        }
        None => hits.push((Role::Dim, "nothing was asked for yet".to_owned())),
    }
    lines.push(hits);
    for line in lines {
        if area.height < 4 {
            break;
        }
        screen.spans(area.x + 1, area.y, area.width - 1, &line);
        area.y += 1;
        area.height -= 1;
    }
    area.y += 1;
    area.height = area.height.saturating_sub(1);
    contents(state, screen, area, name);
}

fn contents(state: &mut State, screen: &mut Screen<'_>, mut area: Rect, name: &str) {
    if !state.fleet.listings.contains_key(name) {
        screen.nothing(area, &[(Role::Dim, "Asking the node".to_owned())]);
        return;
    }
    let columns = [
        share("IMAGE", 2, 20),
        fixed("SIZE", 9).right(),
        fixed("LAYERS", 7).right(),
        share("KEPT BY", 1, 10),
        fixed("USED", 5).right(),
    ];
    let mut list = std::mem::take(&mut state.fleet.contents);
    let shown: &State = state;
    let listing = shown.fleet.listings.get(name);
    let images = listing.map_or(&[][..], |listing| &listing.images);
    let (filter, count) = (list.filter.clone(), list.len());
    filter_line(screen, &mut area, &filter, count, images.len(), 0);
    let page = screen.table(area, &columns, &mut list, true, |screen, key| {
        let Some(image) = images.iter().find(|i| i.digest.to_string() == key) else {
            return Vec::new();
        };
        let known = image
            .image_hash
            .and_then(|hash| shown.images.all.get(&hash));
        let hash = short(image.image_hash.unwrap_or(image.digest));
        // What was built without a name has only the reference that it is pulled by, which is its hash.
        let name = match (
            known.and_then(|image| image.names.first()),
            image.image_hash,
        ) {
            (Some(name), _) => vec![(Role::Text, name.clone()), (Role::Hash, format!(" {hash}"))],
            (None, Some(_)) => vec![(Role::Hash, hash)],
            (None, None) => vec![
                (Role::Text, image.image.clone()),
                (Role::Hash, format!(" {hash}")),
            ],
        };
        let mut kept = Vec::new();
        if !image.pins.is_empty() {
            let text = format!("{} {} ", screen.glyphs.pin, image.pins.join(" "));
            kept.push((Role::Marked, text));
        }
        if image.in_use > 0 {
            kept.push((Role::Running, running(image.in_use)));
        }
        vec![
            name,
            vec![(Role::Text, bytes(image.bytes))],
            vec![(Role::Text, image.layers.to_string())],
            kept,
            vec![(Role::Dim, ago(shown.now, &image.last_used))],
        ]
    });
    state.page = page;
    state.fleet.contents = list;
}
