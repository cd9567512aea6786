//! Warms: the history, one warm node by node, and the pre-warm list.

use chalk_core::wire::{Warm, WarmState, WarmStatus, WarmTarget};
use ratatui::layout::Rect;

use super::images::filter_line;
use super::screen::{Screen, fixed, share};
use super::spec::{broken, spinner};
use crate::app::model::warms::{target_key, target_word, word};
use crate::app::model::{Span, State, ago, images};
use crate::app::theme::Role;
use crate::output::short;
use crate::progress::{bytes, harmless, seconds};

/// Cells of a bar.
const BAR: usize = 12;

/// Draws the history.
pub(super) fn warms(state: &mut State, screen: &mut Screen<'_>, mut area: Rect) {
    if state.warms.list.is_empty() {
        let words = match (state.warms.known, state.warms.list.filter.is_empty()) {
            (false, _) => "Asking the service",
            (true, true) => "Nothing was warmed yet; W warms the images that you name",
            (true, false) => "No warm matches the filter; esc clears it",
        };
        screen.nothing(area, &[(Role::Dim, words.to_owned())]);
        return;
    }
    let columns = [
        fixed("STATE", 11),
        fixed("WARM", if area.width >= 120 { 22 } else { 13 }),
        share("IMAGES", 1, 12),
        fixed("NODES", 24),
        fixed("AGE", 4).right(),
    ];
    let mut list = std::mem::take(&mut state.warms.list);
    let shown: &State = state;
    let (filter, count) = (list.filter.clone(), list.len());
    filter_line(screen, &mut area, &filter, count, shown.warms.all.len(), 0);
    let page = screen.table(area, &columns, &mut list, true, |screen, id| {
        let Some(warm) = shown.warms.get(id) else {
            return Vec::new();
        };
        let (role, sign) = status(shown, screen, warm.status);
        vec![
            vec![(role, format!("{sign} {}", word(warm.status)))],
            vec![(Role::Text, warm.id.clone())],
            vec![(Role::Text, names(shown, warm))],
            progress(screen, warm),
            vec![(Role::Dim, ago(shown.now, &warm.created))],
        ]
    });
    state.page = page;
    state.warms.list = list;
}

fn names(state: &State, warm: &Warm) -> String {
    let name = |hash: &chalk_core::Digest| match state.images.all.get(hash) {
        Some(image) => images::called(image),
        None => short(*hash),
    };
    warm.images.iter().map(name).collect::<Vec<_>>().join(" ")
}

fn progress(screen: &Screen<'_>, warm: &Warm) -> Vec<Span> {
    let count = |state| warm.nodes.iter().filter(|t| t.state == state).count();
    let (ready, failed, all) = (
        count(WarmState::Ready),
        count(WarmState::Failed),
        warm.nodes.len(),
    );
    let full = (ready * BAR).checked_div(all).unwrap_or(0);
    let mut spans = vec![
        (Role::Bar, screen.glyphs.full.repeat(full)),
        (Role::BarEmpty, screen.glyphs.empty.repeat(BAR - full)),
        (Role::Text, format!(" {ready}/{all}")),
    ];
    if failed > 0 {
        spans.push((Role::Failed, format!(" {failed}{}", screen.glyphs.failed)));
    }
    spans
}

fn status(state: &State, screen: &Screen<'_>, status: WarmStatus) -> (Role, &'static str) {
    match status {
        WarmStatus::Running => (Role::Running, spinner(state, screen)),
        WarmStatus::Ready => (Role::Ok, screen.glyphs.ok),
        WarmStatus::Partly => (Role::Warning, screen.glyphs.failed),
        WarmStatus::Failed => (Role::Failed, screen.glyphs.failed),
        WarmStatus::Cancelled => (Role::Cancelled, screen.glyphs.cancelled),
    }
}

/// Draws one warm.
pub(super) fn warm(state: &mut State, screen: &mut Screen<'_>, mut area: Rect, id: &str) {
    let Some(known) = state.warms.all.get(id) else {
        screen.nothing(area, &[(Role::Dim, "Asking the service".to_owned())]);
        return;
    };
    let warm = &known.warm;
    let (role, sign) = status(state, screen, warm.status);
    let mut heading: Vec<Span> = vec![(role, format!("{sign} {}  ", word(warm.status)))];
    heading.extend(progress(screen, warm));
    heading.push((Role::Strong, format!("  {}", names(state, warm))));
    heading.push((
        Role::Dim,
        format!("  {} ago", ago(state.now, &warm.created)),
    ));
    screen.spans(area.x + 1, area.y, area.width - 1, &heading);
    area.y += 1;
    area.height -= 1;
    for ((image, region), (done, total)) in known.copying() {
        if area.height < 4 {
            break;
        }
        let text = format!(
            "copy of {} to region {region}: {} of {}",
            short(*image),
            bytes(done),
            bytes(total)
        );
        screen.text(area.x + 1, area.y, area.width - 1, Role::Running, &text);
        area.y += 1;
        area.height -= 1;
    }
    targets(state, screen, area, id);
}

fn targets(state: &mut State, screen: &mut Screen<'_>, mut area: Rect, id: &str) {
    let mut list = std::mem::take(&mut state.warms.targets);
    let shown: &State = state;
    let warm = shown.warms.get(id);
    let nodes = warm.map_or(&[][..], |warm| &warm.nodes);
    let images = warm.map_or(0, |warm| warm.images.len());
    let (filter, count) = (list.filter.clone(), list.len());
    filter_line(screen, &mut area, &filter, count, nodes.len(), 0);
    let chosen = list.chosen();
    let chosen = nodes
        .iter()
        .find(|t| chosen == Some(target_key(t).as_str()));
    if let Some(target) = chosen.filter(|target| target.state == WarmState::Failed) {
        reason(screen, &mut area, &why(target));
    }
    let window = list.window(usize::from(area.height.saturating_sub(1)));
    let visible: std::collections::BTreeSet<&str> =
        list.keys()[window].iter().map(String::as_str).collect();
    let rows: std::collections::BTreeMap<String, &WarmTarget> = nodes
        .iter()
        .map(|target| (target_key(target), target))
        .filter(|(key, _)| visible.contains(key.as_str()))
        .collect();
    // Where there is no room for both: of several images, which one.
    let (region, image) = match images {
        0 | 1 => (0, 100),
        _ => (100, 0),
    };
    let columns = [
        fixed("STATE", 9),
        share("NODE", 1, 10),
        fixed("REGION", 8).from(region),
        fixed("IMAGE", 12).from(image),
        share("PROGRESS AND RECEIPT", 2, 30),
        fixed("TIME", 6).right(),
    ];
    let page = screen.table(area, &columns, &mut list, true, |screen, key| {
        let Some(target) = rows.get(key) else {
            return Vec::new();
        };
        let (role, sign) = match target.state {
            WarmState::Queued => (Role::Queued, screen.glyphs.queued),
            WarmState::Pulling => (Role::Running, spinner(shown, screen)),
            WarmState::Ready => (Role::Ok, screen.glyphs.ok),
            WarmState::Failed => (Role::Failed, screen.glyphs.failed),
        };
        vec![
            vec![(role, format!("{sign} {}", target_word(target.state)))],
            vec![(Role::Text, target.node.clone())],
            vec![(Role::Dim, target.region.clone())],
            vec![(Role::Hash, short(target.image_hash))],
            receipt(screen, target),
            vec![(Role::Text, took(target))],
        ]
    });
    drop(rows);
    state.page = page;
    state.warms.targets = list;
}

/// Why a target failed.
fn why(target: &WarmTarget) -> String {
    match &target.error {
        Some(problem) if problem.detail.is_empty() => problem.title.clone(),
        Some(problem) => format!("{}: {}", problem.title, problem.detail),
        None => "no reason was given".to_owned(),
    }
}

/// Why the chosen row failed, whole, below the table that cuts it off.
fn reason(screen: &mut Screen<'_>, area: &mut Rect, why: &str) {
    let text = format!(
        "{} {}",
        screen.glyphs.failed,
        harmless(&why.replace('\n', " "))
    );
    let lines = broken(&text, usize::from(area.width.saturating_sub(2)));
    let high = u16::try_from(lines.len()).unwrap_or(u16::MAX);
    let high = high.min(area.height / 3);
    area.height -= high;
    for (y, line) in (area.bottom()..area.bottom() + high).zip(&lines) {
        screen.text(area.x + 1, y, area.width - 1, Role::Failed, line);
    }
}

/// Time on the node, told when it has ended.
fn took(target: &WarmTarget) -> String {
    match target.state {
        WarmState::Ready | WarmState::Failed => seconds(target.seconds),
        WarmState::Queued | WarmState::Pulling => "-".to_owned(),
    }
}

/// How far a node is, or what it came to.
fn receipt(screen: &Screen<'_>, target: &WarmTarget) -> Vec<Span> {
    match target.state {
        WarmState::Queued => vec![(Role::Dim, "waits".to_owned())],
        WarmState::Pulling if target.total == 0 => vec![(Role::Running, "pulling".to_owned())],
        WarmState::Pulling => {
            let done = target.done.min(target.total);
            let full = usize::try_from(done.saturating_mul(BAR as u64) / target.total).unwrap_or(0);
            let full = full.min(BAR);
            vec![
                (Role::Bar, screen.glyphs.full.repeat(full)),
                (Role::BarEmpty, screen.glyphs.empty.repeat(BAR - full)),
                (
                    Role::Text,
                    format!(" {} of {}", bytes(done), bytes(target.total)),
                ),
            ]
        }
        WarmState::Ready => {
            let verified = if target.verified {
                (Role::Ok, ", verified".to_owned())
            } else {
                (Role::Warning, ", not verified".to_owned())
            };
            vec![
                (
                    Role::Text,
                    format!("{} fetched", bytes(target.bytes_fetched)),
                ),
                (
                    Role::Dim,
                    format!(", {} there before", bytes(target.bytes_present)),
                ),
                verified,
            ]
        }
        WarmState::Failed => {
            let mut spans = vec![(Role::Failed, harmless(&why(target).replace('\n', " ")))];
            if target.retries_left > 0 {
                spans.push((
                    Role::Dim,
                    format!(" (tries again, {} left)", target.retries_left),
                ));
            }
            spans
        }
    }
}

/// Draws the pre-warm list.
pub(super) fn prewarm(state: &mut State, screen: &mut Screen<'_>, mut area: Rect) {
    if state.warms.prewarm_list.is_empty() {
        let lines = [
            (
                Role::Dim,
                "No base images are kept ready on every node".to_owned(),
            ),
            (Role::Dim, "a adds one".to_owned()),
        ];
        screen.nothing(area, &lines);
        return;
    }
    let columns = [
        share("IMAGE", 1, 20),
        fixed("DIGEST", 12),
        fixed("NODES", 7).right(),
        fixed("CHECKED", 8).right(),
    ];
    let mut list = std::mem::take(&mut state.warms.prewarm_list);
    let shown: &State = state;
    let (filter, count) = (list.filter.clone(), list.len());
    let all = shown.warms.prewarm.images.len();
    filter_line(screen, &mut area, &filter, count, all, 0);
    let connected: usize = shown.fleet.region_sizes().values().sum();
    let chosen = list.chosen().and_then(|image| {
        let states = &shown.warms.prewarm.states;
        states.iter().find(|s| s.image == image)
    });
    if let Some(error) = chosen.and_then(|known| known.error.as_ref()) {
        reason(screen, &mut area, error);
    }
    let page = screen.table(area, &columns, &mut list, true, |screen, image| {
        let states = &shown.warms.prewarm.states;
        let Some(known) = states.iter().find(|s| s.image == image) else {
            return vec![vec![(Role::Text, image.to_owned())]];
        };
        let mut name = vec![(Role::Text, image.to_owned())];
        if let Some(error) = &known.error {
            let text = format!("  {} {}", screen.glyphs.failed, harmless(error));
            name.push((Role::Failed, text));
        }
        let digest = known.digest.map_or_else(|| "-".to_owned(), short);
        let checked = known.checked.as_deref();
        let checked = checked.map_or_else(|| "-".to_owned(), |time| ago(shown.now, time));
        vec![
            name,
            vec![(Role::Hash, digest)],
            vec![(Role::Text, format!("{}/{connected}", known.nodes_ready))],
            vec![(Role::Dim, checked)],
        ]
    });
    state.page = page;
    state.warms.prewarm_list = list;
}
