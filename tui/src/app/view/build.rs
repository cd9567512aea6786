//! A build: the tree of its steps, and the log of the chosen one.

use chalk_core::wire::{Build, BuildStatus, StepState};
use ratatui::layout::Rect;

use super::screen::{Screen, cells};
use super::spec::spinner;
use crate::app::event::Target;
use crate::app::log::LogStyles;
use crate::app::model::builds::{ALL_STEPS, Followed};
use crate::app::model::{Span, State, builds};
use crate::app::theme::Role;
use crate::build_state::Step;
use crate::progress::{bytes, harmless, seconds};

/// Least width at which the log stands beside the steps.
const BESIDE: u16 = 140;

/// Draws the view.
pub(super) fn draw(state: &mut State, screen: &mut Screen<'_>, area: Rect, id: &str) {
    let Some(mut followed) = state.builds.followed.remove(id) else {
        screen.nothing(area, &[(Role::Dim, "Asking the service".to_owned())]);
        return;
    };
    let rows =
        u16::try_from(followed.tree.len() + 1 + followed.state.pulls.len()).unwrap_or(u16::MAX);
    let (tree, log) = if followed.zoomed && followed.log_focused {
        (None, Some(area))
    } else if followed.zoomed {
        (Some(area), None)
    } else if area.width >= BESIDE {
        let wide = area.width * 9 / 20;
        let focused = followed.log_focused;
        screen.divide(area.x + wide, area, focused);
        (
            Some(Rect::new(area.x, area.y, wide, area.height)),
            Some(Rect::new(
                area.x + wide + 1,
                area.y,
                area.width - wide - 1,
                area.height,
            )),
        )
    } else {
        let most = if followed.log_focused {
            area.height / 3
        } else {
            area.height / 2
        };
        let high = rows.min(most.max(3)).min(area.height);
        (
            Some(Rect::new(area.x, area.y, area.width, high)),
            Some(Rect::new(
                area.x,
                area.y + high,
                area.width,
                area.height - high,
            )),
        )
    };
    if let Some(area) = tree {
        steps(state, screen, area, id, &mut followed);
    }
    if let Some(area) = log {
        output(state, screen, area, &mut followed);
        // Matches of a big log are counted a piece with each frame.
        state.dirty |= followed.pane().is_counting();
    }
    state.builds.followed.insert(id.to_owned(), followed);
}

/// What a build is and how far it came, on one line.
pub(super) fn summary(state: &State, screen: &Screen<'_>, build: &Build) -> Vec<Span> {
    let sign = status_sign(state, screen, build.status);
    let mut spans = vec![
        (
            status_role(build.status),
            format!("{sign} {}", builds::word(build.status)),
        ),
        (Role::Strong, format!("  {}", builds::called(build))),
    ];
    if build.status.is_final() {
        spans.push((Role::Dim, format!("  {}", seconds(build.seconds))));
    }
    spans
}

fn steps(
    state: &mut State,
    screen: &mut Screen<'_>,
    area: Rect,
    id: &str,
    followed: &mut Followed,
) {
    let Some(build) = state.builds.all.get(id) else {
        screen.nothing(area, &[(Role::Dim, "Asking the service".to_owned())]);
        return;
    };
    let mut heading = summary(state, screen, build);
    if let Some(ahead) = followed.state.ahead {
        heading.push((Role::Queued, format!("  {ahead} ahead in the queue")));
    }
    if followed.state.pushed > 0 {
        heading.push((
            Role::Dim,
            format!("  {} pushed", bytes(followed.state.pushed)),
        ));
    }
    screen.spans(area.x + 1, area.y, area.width - 1, &heading);
    let mut body = Rect::new(
        area.x,
        area.y + 1,
        area.width,
        area.height.saturating_sub(1),
    );
    for pull in &followed.state.pulls {
        if body.height < 2 || build.status.is_final() || (pull.total > 0 && pull.done >= pull.total)
        {
            continue;
        }
        let of = if pull.total > 0 {
            format!(" of {}", bytes(pull.total))
        } else {
            String::new()
        };
        let text = format!(
            "{} pull {} {}{of}",
            screen.glyphs.down,
            pull.image,
            bytes(pull.done)
        );
        screen.text(body.x + 1, body.y, body.width - 1, Role::Running, &text);
        body.y += 1;
        body.height -= 1;
    }
    let window = followed.tree.window(usize::from(body.height));
    let chosen = followed.tree.at();
    let focused = !followed.log_focused;
    for (y, at) in (body.y..body.bottom()).zip(window) {
        let Some(key) = followed.tree.keys().get(at) else {
            break;
        };
        let row = Rect::new(body.x, y, body.width, 1);
        if key == ALL_STEPS {
            let done = followed.state.done();
            let text = format!("  all steps  {done} of {} done", followed.state.steps.len());
            screen.text(row.x, y, row.width, Role::Text, &text);
        } else if let Some((at, step)) = key
            .parse()
            .ok()
            .and_then(|at: usize| Some((at, followed.state.steps.get(at)?)))
        {
            let over = build.status.is_final();
            let last = at + 1 == followed.state.steps.len();
            let branch = if last {
                screen.glyphs.last
            } else {
                screen.glyphs.branch
            };
            screen.text(row.x + 1, y, 1, Role::Border, branch);
            let note = note(state, step, over);
            let wide: u16 = note.iter().map(|(_, text)| cells(text)).sum();
            let wide = wide.min(row.width / 2);
            let (role, sign) = step_sign(state, screen, step.state, over);
            let spans = [
                (role, format!("{sign} ")),
                (Role::Dim, format!("{:>2} ", at + 1)),
                (Role::Text, step.title.clone()),
            ];
            let room = row.width.saturating_sub(wide + 4);
            screen.spans(row.x + 2, y, room, &spans);
            screen.spans(row.right() - wide - 1, y, wide, &note);
        }
        if at == chosen {
            screen.choose(row, focused);
        }
        screen.hits.put(row, Target::Step(at));
    }
    state.page = body.height;
}

/// What stands at the right of a step: time, layer, where it came from.
fn note(state: &State, step: &Step, over: bool) -> Vec<Span> {
    match step.state {
        StepState::Waiting if over => vec![(Role::Dim, "not run".to_owned())],
        StepState::Waiting => {
            let planned = match step.planned {
                chalk_core::wire::PlanState::Cached => "cached",
                chalk_core::wire::PlanState::Run => "waits",
            };
            vec![(Role::Dim, planned.to_owned())]
        }
        StepState::Running => vec![(Role::Running, seconds(step.seconds(state.now)))],
        StepState::Cached => {
            let source = step.source.as_deref().unwrap_or("");
            vec![(
                Role::Cached,
                format!("cached {source}").trim_end().to_owned(),
            )]
        }
        StepState::Ran => {
            let size = match step.layer_bytes {
                0 => "no layer".to_owned(),
                count => bytes(count),
            };
            vec![
                (Role::Dim, format!("{size}  ")),
                (Role::Ok, seconds(step.seconds)),
            ]
        }
        StepState::Failed => vec![(Role::Failed, format!("failed {}", seconds(step.seconds)))],
    }
}

/// Rows of the steps of a build that is known from the list only.
pub(super) fn step_rows(state: &State, screen: &Screen<'_>, build: &Build) -> Vec<Vec<Span>> {
    let over = build.status.is_final();
    let row = |(at, step): (usize, &chalk_core::wire::BuildStep)| {
        let (role, sign) = step_sign(state, screen, step.state, over);
        let mut spans = vec![
            (role, format!("{sign} ")),
            (Role::Dim, format!("{:>2} ", at + 1)),
        ];
        if matches!(step.state, StepState::Ran | StepState::Failed) {
            spans.push((Role::Dim, format!("{:>6} ", seconds(step.seconds))));
        } else {
            spans.push((Role::Dim, " ".repeat(7)));
        }
        spans.push((Role::Text, harmless(&step.title.replace('\n', " "))));
        if step.layer_bytes > 0 {
            spans.push((Role::Dim, format!("  {}", bytes(step.layer_bytes))));
        }
        spans
    };
    build.steps.iter().enumerate().map(row).collect()
}

fn output(state: &State, screen: &mut Screen<'_>, area: Rect, followed: &mut Followed) {
    if area.height < 2 {
        return;
    }
    let focused = followed.log_focused;
    let silent = followed.is_silent();
    let step = followed.step();
    let over = !followed.streaming;
    let name = match step {
        None => "log of all steps".to_owned(),
        Some(step) if silent => format!("step {} has no output", step + 1),
        Some(step) => format!("log of step {}", step + 1),
    };
    let mut pane = followed.pane();
    let mut title: Vec<Span> = vec![(Role::Strong, name)];
    if !silent {
        let lines = match pane.len() {
            1 => "1 line".to_owned(),
            count if pane.has_dropped() => format!("last {count} lines"),
            count => format!("{count} lines"),
        };
        title.push((Role::Dim, format!("  {lines}")));
        if !pane.is_following() {
            let unread = pane.unread();
            let new = if unread > 0 {
                format!("  paused, {unread} new")
            } else {
                "  paused".to_owned()
            };
            title.push((Role::Warning, new));
        } else if !over {
            title.push((Role::Ok, "  following".to_owned()));
        }
        if !pane.is_wrapped() {
            title.push((Role::Dim, "  cut off".to_owned()));
        }
        if pane.shows_times() {
            title.push((Role::Dim, "  times".to_owned()));
        }
        if let Some((current, total)) = pane.matches() {
            let more = if pane.is_counting() { "+" } else { "" };
            let text = format!("  `{}` {current}/{total}{more}", state.searched);
            title.push((Role::Key, text));
        }
    }
    screen.rule(Rect::new(area.x, area.y, area.width, 1), focused, &title);
    let body = Rect::new(area.x, area.y + 1, area.width, area.height - 1);
    if silent {
        let failed = step.and_then(|step| followed.state.steps.get(step));
        if let Some(step) = failed.filter(|step| !step.message.is_empty()) {
            let message = step.message.clone();
            screen.text(body.x, body.y, body.width, Role::Failed, &message);
        }
        return;
    }
    let styles = log_styles(screen);
    pane.draw(body, screen.buffer, &styles);
    screen.hits.put(body, Target::Log);
}

fn log_styles(screen: &Screen<'_>) -> LogStyles {
    LogStyles {
        text: screen.style(Role::Text),
        dim: screen.style(Role::Dim),
        stderr: screen.style(Role::Text),
        source: screen.style(Role::Source),
        matched: screen.style(Role::Match),
        current_match: screen.style(Role::MatchCurrent),
        selection: screen.style(Role::Selection),
        colors: screen.theme.colors,
    }
}

fn step_sign(
    state: &State,
    screen: &Screen<'_>,
    step: StepState,
    over: bool,
) -> (Role, &'static str) {
    match step {
        StepState::Waiting => (Role::Queued, screen.glyphs.waiting),
        StepState::Running if over => (Role::Cancelled, screen.glyphs.cancelled),
        StepState::Running => (Role::Running, spinner(state, screen)),
        StepState::Cached => (Role::Cached, screen.glyphs.cached),
        StepState::Ran => (Role::Ok, screen.glyphs.ok),
        StepState::Failed => (Role::Failed, screen.glyphs.failed),
    }
}

pub(super) fn status_role(status: BuildStatus) -> Role {
    match status {
        BuildStatus::Queued => Role::Queued,
        BuildStatus::Running => Role::Running,
        BuildStatus::Built => Role::Ok,
        BuildStatus::Reused => Role::Cached,
        BuildStatus::Failed => Role::Failed,
        BuildStatus::Cancelled => Role::Cancelled,
    }
}

pub(super) fn status_sign(state: &State, screen: &Screen<'_>, status: BuildStatus) -> &'static str {
    match status {
        BuildStatus::Queued => screen.glyphs.queued,
        BuildStatus::Running => spinner(state, screen),
        BuildStatus::Built => screen.glyphs.ok,
        BuildStatus::Reused => screen.glyphs.cached,
        BuildStatus::Failed => screen.glyphs.failed,
        BuildStatus::Cancelled => screen.glyphs.cancelled,
    }
}
