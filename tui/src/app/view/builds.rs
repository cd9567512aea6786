//! The list of builds, with the steps of the chosen one.

use chalk_core::wire::{Build, StepState};
use ratatui::layout::Rect;

use super::build::{status_role, status_sign, step_rows, summary};
use super::screen::{Screen, fixed, share};
use crate::app::model::{Span, State, ago, builds};
use crate::app::theme::Role;
use crate::output::short;
use crate::progress::seconds;

/// Draws the view.
pub(super) fn draw(state: &mut State, screen: &mut Screen<'_>, area: Rect) {
    if state.builds.list.is_empty() {
        let words = if state.builds.known && state.builds.list.filter.is_empty() {
            "No builds yet; b builds the declaration"
        } else if state.builds.known {
            "No build matches the filter"
        } else {
            "Asking the service"
        };
        screen.nothing(area, &[(Role::Dim, words.to_owned())]);
        return;
    }
    let (list, preview) = if area.width >= 140 {
        let wide = area.width * 11 / 20;
        screen.divide(area.x + wide, area, false);
        (
            Rect::new(area.x, area.y, wide, area.height),
            Rect::new(
                area.x + wide + 2,
                area.y,
                area.width - wide - 2,
                area.height,
            ),
        )
    } else {
        let rows = u16::try_from(state.builds.list.len()).unwrap_or(u16::MAX);
        let high = rows
            .saturating_add(1)
            .min(area.height / 2)
            .max(4)
            .min(area.height);
        (
            Rect::new(area.x, area.y, area.width, high),
            Rect::new(area.x, area.y + high, area.width, area.height - high),
        )
    };
    table(state, screen, list);
    steps(state, screen, preview, area.width < 140);
}

fn table(state: &mut State, screen: &mut Screen<'_>, area: Rect) {
    let columns = [
        fixed("STATE", 11),
        share("NAME", 1, 12),
        fixed("HASH", 12).from(60),
        fixed("STEPS", 6).right(),
        fixed("TIME", 6).right(),
        fixed("AGE", 4).right(),
    ];
    let mut list = std::mem::take(&mut state.builds.list);
    let shown: &State = state;
    let page = screen.table(area, &columns, &mut list, true, |screen, id| {
        let build = shown.builds.all.get(id);
        build
            .map(|build| row(shown, screen, build))
            .unwrap_or_default()
    });
    state.page = page;
    state.builds.list = list;
}

fn row(state: &State, screen: &Screen<'_>, build: &Build) -> Vec<Vec<Span>> {
    let sign = status_sign(state, screen, build.status);
    let done =
        |s: &&chalk_core::wire::BuildStep| matches!(s.state, StepState::Cached | StepState::Ran);
    let done = build.steps.iter().filter(done).count();
    let role = status_role(build.status);
    let running = if build.status.is_final() {
        build.seconds
    } else {
        let began: Option<jiff::Timestamp> = build.created.parse().ok();
        began.map_or(build.seconds, |b| {
            state.now.duration_since(b).as_secs_f64().max(0.0)
        })
    };
    vec![
        vec![(role, format!("{sign} {}", builds::word(build.status)))],
        vec![name(state, build)],
        vec![(Role::Hash, short(build.image_hash))],
        vec![(Role::Text, format!("{done}/{}", build.steps.len()))],
        vec![(Role::Text, seconds(running))],
        vec![(Role::Dim, ago(state.now, &build.created))],
    ]
}

/// The name that it was built under, else what its image is called now.
fn name(state: &State, build: &Build) -> Span {
    let image = || {
        state
            .images
            .all
            .get(&build.image_hash)?
            .names
            .first()
            .cloned()
    };
    match (&build.name, image()) {
        (Some(name), _) => (Role::Text, name.clone()),
        (None, Some(name)) => (Role::Dim, name),
        (None, None) => (Role::Dim, "-".to_owned()),
    }
}

/// Steps of the chosen build, so far as the list tells them.
fn steps(state: &State, screen: &mut Screen<'_>, mut area: Rect, ruled: bool) {
    let Some(build) = state.builds.chosen() else {
        return;
    };
    if area.height < 2 {
        return;
    }
    let heading = summary(state, screen, build);
    if ruled {
        screen.rule(Rect::new(area.x, area.y, area.width, 1), false, &heading);
    } else {
        screen.spans(area.x, area.y, area.width, &heading);
    }
    area.y += 1;
    area.height -= 1;
    let failure = build.error.as_ref();
    for row in step_rows(state, screen, build) {
        if area.height == 0 {
            return;
        }
        screen.spans(area.x + 1, area.y, area.width - 1, &row);
        area.y += 1;
        area.height -= 1;
    }
    if let Some(problem) = failure {
        let texts = [
            (Role::Failed, &problem.title),
            (Role::Text, &problem.detail),
            (Role::Warning, &problem.hint),
        ];
        for (role, text) in texts {
            for line in text.lines() {
                if area.height == 0 {
                    return;
                }
                let line = crate::progress::harmless(line);
                screen.text(area.x + 1, area.y, area.width - 1, role, &line);
                area.y += 1;
                area.height -= 1;
            }
        }
    }
}
